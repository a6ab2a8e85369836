"""The flow `check-dataset`: quality control looks at the images of a dataset, without a model."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from parfocal.client import Client
from parfocal.client.dataset_checks import check_method, headline, purpose_sentences
from parfocal.client.datasets import read_dataset
from parfocal.client.quality import finished_job, published_summary
from parfocal.client.requests import evaluation_request
from parfocal.flows import _quality_pages, _show, _work
from parfocal.flows._follow import FlowDoer, PrefectListener, current_run, ended_badly, quiet_failures, step
from parfocal.flows._jobs import Run, ask_patiently
from parfocal.flows._process import end_with_runner
from parfocal.flows.hooks import cancel_jobs_of_run, take_up_again
from parfocal.runtime.errors import InvalidInputError, ParfocalError


@flow(
    name="check-dataset",
    flow_run_name="check dataset {dataset}",
    on_cancellation=[cancel_jobs_of_run],
    on_crashed=[take_up_again],
    persist_result=False,
    validate_parameters=True,
)
def check_dataset(
    dataset: str, parameters: dict[str, Any] | None = None, again: bool = False, project: str = ""
) -> State[Any]:
    """Have quality control look at a dataset.

    Parameters
    ----------
    dataset
        "name" or "name:version".
    parameters
        Limits of the checks that differ from their defaults.
    again
        Look again, even if that has been done before.
    project
        Project of the dataset; empty means that of the runner.
    """
    end_with_runner()
    quiet_failures()
    try:
        run = current_run()
        with _work.connect(project, run.creator) as client:
            return _check(client, run, dataset.strip(), parameters or {}, again=again)
    except ParfocalError as error:
        return ended_badly(error)


def _examples(client: Client, name: str) -> bytes | None:
    """Return a sheet of training images with their targets as PNG; None where there is none."""
    # Imported late: it draws.
    from parfocal.client.previews import preview_stored

    try:
        return _work.smaller(preview_stored(client, name, {}), _work.MAX_FIGURE_BYTES)
    except InvalidInputError:
        return None  # what is wrong with the images is among the findings


def _check(client: Client, run: Run, dataset: str, parameters: dict[str, Any], *, again: bool) -> State[Any]:
    listener = PrefectListener(run.id)
    manifest = read_dataset(client, dataset)
    name = f"{manifest.dataset}:{manifest.version}"
    method = ask_patiently(lambda: check_method(client), listener)
    request = evaluation_request(method.name, "", client.dataset_uri(name), parameters, split="")
    doer = FlowDoer(client, run, listener, 1)
    job = None if again else finished_job(client, request)
    if job is not None:
        doer.found(job, f"Quality control has looked at {name} before (job {job.id}).")
    else:
        job = doer.do(request, f"Looking at {name}")
    finished = _work.finished(client, job)
    summary = published_summary(client, finished.uri)
    purpose = purpose_sentences(client, manifest, summary)

    def report() -> None:
        create_table_artifact(
            _quality_pages.check_rows(summary),
            key=_show.artifact_key("findings", name),
            description=f"What was found in {name}",
        )
        sheets = summary["sheets"]
        sheet = _work.read_figure(client, finished, sheets[0]) if sheets else None
        page = _quality_pages.check_report(name, summary, purpose, finished, sheet, _examples(client, name))
        create_markdown_artifact(page, key=_show.artifact_key("dataset", name), description=f"The dataset {name}")

    step("Report", report)
    text = f"{name}: {headline(summary)}"
    listener.done(text)
    return Completed(message=text)
