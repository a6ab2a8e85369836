"""The flow `predict`: apply a model to a folder of images in the store, or to one split of a dataset."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from parfocal import v1
from parfocal.client import Client
from parfocal.client.models import read_model
from parfocal.client.parts import check_count
from parfocal.flows import _show, _work
from parfocal.flows._follow import PrefectListener, current_run, ended_badly, quiet_failures, step
from parfocal.flows._jobs import Run
from parfocal.flows._process import end_with_runner
from parfocal.flows._work import Finished
from parfocal.flows.hooks import cancel_jobs_of_run, take_up_again, tell_of_run
from parfocal.runtime.datasets.findings import count
from parfocal.runtime.errors import InvalidInputError, ParfocalError
from parfocal.runtime.store.names import versioned_name


@flow(
    name="predict",
    flow_run_name="predict with {model}",
    on_cancellation=[cancel_jobs_of_run],
    on_crashed=[take_up_again],
    on_completion=[tell_of_run],
    on_failure=[tell_of_run],
    persist_result=False,
    validate_parameters=True,
)
def predict(
    model: str,
    dataset: str = "",
    split: str = "test",
    input_uri: str = "",
    parameters: dict[str, Any] | None = None,
    project: str = "",
    parts: int = 1,
) -> State[Any]:
    """Apply a model to images.

    Parameters
    ----------
    model
        "name" or "name:version".
    dataset, split
        Dataset ("name" or "name:version") and its part, "test" or "train".
    input_uri
        Instead of a dataset: a folder of images in the store, "s3://…".
    parameters
        Prediction parameters of the model's method that differ from their defaults.
    project
        Project of model and dataset; empty means that of the runner.
    parts
        Into how many parts each image is divided, which as many jobs predict at the same time: one for each GPU, for
        very large images. 1: not at all.
    """
    end_with_runner()
    quiet_failures()
    try:
        run = current_run()
        with _work.connect(project, run.creator) as client:
            images = (dataset.strip(), split, input_uri.strip())
            return _predict(client, run, model.strip(), images, parameters or {}, check_count(parts))
    except ParfocalError as error:
        return ended_badly(error)


def _predict(
    client: Client, run: Run, model: str, images: tuple[str, str, str], parameters: dict[str, Any], parts: int
) -> State[Any]:
    listener = PrefectListener(run.id)
    listener.stage("Predicting", 0, 100)
    summary = read_model(client, model)
    method = _work.find_method(client, summary.manifest.method, listener)
    place, split = images_of(client, *images)
    finished = step(
        "Predict",
        lambda: _work.predict_images(
            client,
            run,
            listener,
            model_uri=summary.uri,
            input_uri=place,
            split=split,
            parameters=parameters,
            parts=parts,
        ),
    )
    step("Report", lambda: _report(method, summary.uri, finished, [summary.verdict.sentence]))
    failed = sum(bool(image.reason) for image in finished.manifest.images)
    total = len(finished.manifest.images)
    text = f"{total - failed} of {count(total, 'image')} predicted: {finished.uri}"
    listener.done(text)
    return Completed(message=text)


def images_of(client: Client, dataset: str, split: str, input_uri: str) -> tuple[str, str]:
    """Return place and split of the images to predict.

    Raises
    ------
    InvalidInputError
        Neither a dataset nor a folder is given, or both are.
    """
    if bool(dataset) == bool(input_uri):
        raise InvalidInputError(
            "Choose either a dataset or a folder of images in the store (s3://…)"
            + (", not both." if dataset else ": neither is given.")
        )
    return (client.dataset_uri(dataset), split or "test") if dataset else (input_uri, "")


def _report(method: v1.Method, model_uri: str, finished: Finished, notes: list[str]) -> None:
    name = versioned_name(model_uri)
    create_table_artifact(
        _show.prediction_rows(finished),
        key=_show.artifact_key("predicted", name),
        description=f"Images predicted with {name}",
    )
    page = _show.prediction_report(method=method, model_uri=model_uri, finished=finished, notes=notes)
    create_markdown_artifact(page, key=_show.artifact_key("prediction", name), description=f"Prediction with {name}")
