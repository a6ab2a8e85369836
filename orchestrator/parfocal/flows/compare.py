"""The flow `compare`: judge models that have not been judged yet, and say which difference is more than chance."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from parfocal.client import Client, comparisons
from parfocal.client.quality import published_summary
from parfocal.flows import _quality_pages, _show, _work
from parfocal.flows._follow import FlowDoer, PrefectListener, current_run, ended_badly, quiet_failures, step
from parfocal.flows._jobs import Run, ask_patiently
from parfocal.flows._process import end_with_runner
from parfocal.flows._work import Finished
from parfocal.flows.catalogue import job_of_choice
from parfocal.flows.hooks import cancel_jobs_of_run, take_up_again, tell_of_run
from parfocal.runtime.errors import InvalidInputError, ParfocalError


def _run_name() -> str:
    from prefect.runtime import flow_run

    parameters = flow_run.parameters
    named = [*(parameters.get("models") or ()), *(parameters.get("evaluations") or ())]
    return f"compare {', '.join(name.partition(' on ')[0] for name in named)} ({parameters.get('method')})"


@flow(
    name="compare",
    flow_run_name=_run_name,
    on_cancellation=[cancel_jobs_of_run],
    on_crashed=[take_up_again],
    on_completion=[tell_of_run],
    on_failure=[tell_of_run],
    persist_result=False,
    validate_parameters=True,
)
def compare(
    method: str,
    models: list[str] | None = None,
    dataset: str = "",
    split: str = "test",
    evaluations: list[str] | None = None,
    parameters: dict[str, Any] | None = None,
    again: bool = False,
    project: str = "",
) -> State[Any]:
    """Compare models, or what has been judged already, on the same images.

    Parameters
    ----------
    method
        The evaluation method that judges them, e.g. "restoration".
    models
        Each "name" or "name:version".
    dataset, split
        Dataset ("name" or "name:version") and its part, "test" or "train", on which the models are compared.
    evaluations
        Evaluations as `catalogue.evaluation_choice` writes them, or their jobs.
    parameters
        Parameters of the comparison that differ from their defaults.
    again
        Judge all models again.
    project
        Project of models and dataset; empty means that of the runner.
    """
    end_with_runner()
    quiet_failures()
    try:
        run = current_run()
        with _work.connect(project, run.creator) as client:
            named = [name.strip() for name in models or ()]
            jobs = [job_of_choice(text) for text in evaluations or ()]
            listener = PrefectListener(run.id)
            listener.stage("Comparing", 0, 100)
            plan = ask_patiently(
                lambda: comparisons.plan_comparison(client, named, jobs, dataset.strip(), split), listener
            )
            if plan.method.name != method:
                raise InvalidInputError(
                    f"{plan.method.title} judges these: compare them with compare/{plan.method.name}."
                )
            return _compare(client, run, listener, plan, parameters or {}, again=again)
    except ParfocalError as error:
        return ended_badly(error)


def _compare(
    client: Client,
    run: Run,
    listener: PrefectListener,
    plan: comparisons.Comparison,
    parameters: dict[str, Any],
    *,
    again: bool,
) -> State[Any]:
    doer = FlowDoer(client, run, listener, 2 * len(plan.model_uris) + 1)
    finished = _work.finished(client, comparisons.compare(client, doer, plan, parameters, again=again))
    summary = published_summary(client, finished.uri)
    step("Report", lambda: _report(client, finished, summary))
    text = _quality_pages.comparison_outcome(summary)
    listener.done(text)
    return Completed(message=text)


def _report(client: Client, finished: Finished, summary: dict[str, Any]) -> None:
    names = [each["name"] for each in summary["candidates"] if each["kind"] == "model"]
    create_table_artifact(
        _quality_pages.candidate_rows(summary),
        key=_show.artifact_key("compared", *names),
        description=f"Mean scores over the {summary['split']} images, and their intervals",
    )
    pictures = {name: _work.read_figure(client, finished, name) for name in ("figure.png", "images.png")}
    page = _quality_pages.comparison_report(
        summary, finished, {name: picture for name, picture in pictures.items() if picture is not None}
    )
    create_markdown_artifact(
        page, key=_show.artifact_key("comparison", *names), description=f"Comparison of {', '.join(names)}"
    )
