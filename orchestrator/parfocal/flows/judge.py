"""The flow `judge`: predict the test images with the model of a training, quality control, verdict.

It follows trainings that were started outside of Prefect and ask for it by a label; `train` ends with the same steps.
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from parfocal import v1
from parfocal.client import Client
from parfocal.client.quality import JUDGING_STEPS, evaluation_method_by, judge_model
from parfocal.flows import _show, _work
from parfocal.flows._follow import FlowDoer, PrefectListener, add_tag, current_run, ended_badly, quiet_failures, step
from parfocal.flows._jobs import Run, ended_job
from parfocal.flows._process import end_with_runner
from parfocal.flows._scores import Evaluated, quality_rows, read_evaluated
from parfocal.flows._work import CheckedDataset, Finished
from parfocal.flows.hooks import cancel_jobs_of_run, take_up_again, tell_of_run
from parfocal.runtime.errors import InvalidInputError, ParfocalError
from parfocal.runtime.store.evaluations import direction_note
from parfocal.runtime.store.names import versioned_name


@flow(
    name="judge",
    flow_run_name="judge {training}",
    on_cancellation=[cancel_jobs_of_run],
    on_crashed=[take_up_again],
    on_completion=[tell_of_run],
    on_failure=[tell_of_run],
    persist_result=False,
    validate_parameters=True,
)
def judge(training: str, project: str = "") -> State[Any]:
    """Let quality control judge the model of a training on the test images.

    Parameters
    ----------
    training
        Job of the training.
    project
        Project of the training; empty means that of the runner.
    """
    end_with_runner()
    quiet_failures()
    try:
        run = current_run()
        with _work.connect(project, run.creator) as client:
            return _judge(client, run, training.strip())
    except ParfocalError as error:
        return ended_badly(error)


def _judge(client: Client, run: Run, job_id: str) -> State[Any]:
    listener = PrefectListener(run.id)
    listener.stage("Training", 0, 1)
    training = step("Wait for the training", lambda: ended_job(client, job_id, listener))
    if not training.HasField("training"):
        raise InvalidInputError(f"The job {training.id} is no training: name one that made a model.")
    method = _work.find_method(client, training.method, listener)
    checked = step("Check the dataset", lambda: _work.check_dataset(client, method, training.training.dataset_uri))
    return judge_and_report(client, run, listener, method, checked, training, begin=1)


def judge_and_report(
    client: Client,
    run: Run,
    listener: PrefectListener,
    method: v1.Method,
    checked: CheckedDataset,
    training: v1.Job,
    *,
    begin: float,
) -> State[Any]:
    """Have the model of a training judged and show its page; return the state in which the flow ends.

    `begin` is the percentage from which on the steps have the progress bar.
    """
    model_uri = _work.model_uri_of(training)
    notes = list(checked.notes)
    quality = evaluation_method_by(client, method.task, checked.manifest)
    evaluation = None
    if quality is None:
        notes.append("No service of this installation offers quality control for this kind of model.")
    elif checked.has_test_images:
        doer = FlowDoer(client, run, listener, 2, begin=begin, names=JUDGING_STEPS)
        # Again: what an earlier attempt of this run has done is found by its request ids.
        judged = judge_model(client, doer, quality, model_uri, checked.uri, again=True)
        evaluation = _work.finished(client, judged)
    step("Report", lambda: _report(client, method, checked, training, evaluation, notes))

    verdict = evaluation.manifest.verdict if evaluation else {}
    text = f"{versioned_name(model_uri)} · {_show.verdict_headline(verdict)}"
    listener.done(text)
    if verdict:
        add_tag(run.id, f"quality control: {verdict['state']}")
    return Completed(message=text)


def _report(
    client: Client,
    method: v1.Method,
    checked: CheckedDataset,
    training: v1.Job,
    evaluation: Finished | None,
    notes: list[str],
) -> None:
    model_uri = _work.model_uri_of(training)
    name = versioned_name(model_uri)
    evaluated: Evaluated | None = None
    figure: bytes | None = None
    if evaluation:
        evaluated = read_evaluated(client, evaluation)
        figure = _work.read_figure(client, evaluation)
        create_table_artifact(
            quality_rows(evaluated),
            key=_show.artifact_key("scores", name),
            description=f"Scores of {name} on each test image. {direction_note(evaluated.metrics)}",
        )
    page = _show.training_report(
        method=method,
        model_uri=model_uri,
        dataset_uri=checked.uri,
        training=training,
        evaluation=evaluation,
        evaluated=evaluated,
        figure=figure,
        notes=notes,
    )
    create_markdown_artifact(
        page, key=_show.artifact_key("model", name), description=f"The model {name}: verdict, example, places"
    )
