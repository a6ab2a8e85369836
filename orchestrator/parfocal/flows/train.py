"""The flow `train`: check the dataset, train, predict the test images, quality control, verdict."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from parfocal import v1
from parfocal.client import Client
from parfocal.client.quality import evaluation_method_by, judge_model
from parfocal.flows import _show, _work
from parfocal.flows._follow import FlowDoer, PrefectListener, add_tag, current_run, ended_badly, quiet_failures, step
from parfocal.flows._jobs import STEPS, Run
from parfocal.flows._process import end_with_runner
from parfocal.flows._scores import Evaluated, quality_rows, read_evaluated
from parfocal.flows._work import CheckedDataset, Finished
from parfocal.flows.hooks import cancel_jobs_of_run, take_up_again, tell_of_run
from parfocal.runtime.errors import InvalidInputError, ParfocalError
from parfocal.runtime.store.evaluations import direction_note
from parfocal.runtime.store.names import versioned_name


@flow(
    name="train",
    flow_run_name="train {model} on {dataset} ({method})",
    on_cancellation=[cancel_jobs_of_run],
    on_crashed=[take_up_again],
    on_completion=[tell_of_run],
    on_failure=[tell_of_run],
    persist_result=False,
    validate_parameters=True,
)
def train(
    dataset: str,
    model: str,
    method: str,
    parameters: dict[str, Any] | None = None,
    project: str = "",
    initial_model: str = "",
    initial_weights: str = "",
) -> State[Any]:
    """Train a model and let quality control judge it on the test images.

    Parameters
    ----------
    dataset
        "name" or "name:version".
    model
        Name of the model; a new version is added if it exists.
    method
        Name of the method, e.g. "care-2d".
    parameters
        Parameters of the method that differ from their defaults.
    project
        Project of dataset and model; empty means that of the runner.
    initial_model
        "name" or "name:version" of a model to go on from; empty means none.
    initial_weights
        Which of the weights of that model; empty means its usual ones.
    """
    end_with_runner()
    quiet_failures()
    try:
        run = current_run()
        with _work.connect(project, run.creator) as client:
            initial = initial_model.strip(), initial_weights.strip()
            return _train(client, run, dataset.strip(), model.strip(), method, parameters or {}, initial)
    except ParfocalError as error:
        return ended_badly(error)


def _train(
    client: Client,
    run: Run,
    dataset: str,
    model: str,
    method_name: str,
    parameters: dict[str, Any],
    initial: tuple[str, str],
) -> State[Any]:
    if not dataset or not model:
        raise InvalidInputError("Choose a dataset and give the model a name.")
    listener = PrefectListener(run.id)
    listener.stage("Checking the dataset", 0, 1)
    method = _work.find_method(client, method_name, listener)
    checked = step("Check the dataset", lambda: _work.check_dataset(client, method, dataset))
    initial_model, initial_weights = initial
    initial_model_uri = client.model_uri(initial_model) if initial_model else ""

    listener.stage("Training", 1, 90)
    training = step(
        "Train the model",
        lambda: _work.train_model(
            client,
            run,
            listener,
            method=method.name,
            dataset_uri=checked.uri,
            model=model,
            parameters=parameters,
            initial_model_uri=initial_model_uri,
            initial_weights=initial_weights,
        ),
    )
    model_uri = _work.model_uri_of(training)
    notes = list(checked.notes)
    quality = evaluation_method_by(client, method.task, checked.manifest)
    evaluation = None
    if quality is None:
        notes.append("No service of this installation offers quality control for this kind of model.")
    elif checked.has_test_images:
        doer = FlowDoer(client, run, listener, 2, begin=90, names=STEPS)
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
