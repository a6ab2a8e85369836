"""The flow `train`: check the dataset, train, predict the test images, quality control, verdict."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from parfocal.client import Client
from parfocal.flows import _work
from parfocal.flows._follow import PrefectListener, current_run, ended_badly, quiet_failures, step
from parfocal.flows._jobs import Run
from parfocal.flows._process import end_with_runner
from parfocal.flows.hooks import cancel_jobs_of_run, take_up_again, tell_of_run
from parfocal.flows.judge import judge_and_report
from parfocal.runtime.errors import InvalidInputError, ParfocalError


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
    checked = step("Check the dataset", lambda: _work.check_dataset(client, method, client.dataset_uri(dataset)))
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
    return judge_and_report(client, run, listener, method, checked, training, begin=90)
