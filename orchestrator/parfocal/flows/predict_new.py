"""The flow `predict-new`: apply a model to those images of a folder that it has not been applied to yet."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from parfocal.client import Client
from parfocal.client.models import read_model
from parfocal.flows import _show, _work
from parfocal.flows._follow import PrefectListener, current_run, ended_badly, quiet_failures
from parfocal.flows._jobs import Run
from parfocal.flows._process import end_with_runner
from parfocal.flows.batches import Batch, BatchRun, Progress
from parfocal.flows.hooks import cancel_jobs_of_run, take_up_again
from parfocal.runtime.errors import ParfocalError
from parfocal.runtime.store.names import versioned_name
from parfocal.runtime.store.store import Location

_SHOWN = 20


@flow(
    name="predict-new",
    flow_run_name="predict new images with {model}",
    on_cancellation=[cancel_jobs_of_run],
    on_crashed=[take_up_again],
    persist_result=False,
    validate_parameters=True,
)
def predict_new(
    model: str,
    source: str,
    output: str,
    parameters: dict[str, Any] | None = None,
    settle_seconds: float = 10.0,
    project: str = "",
) -> State[Any]:
    """Apply a model to the new images of a folder.

    Parameters
    ----------
    model
        "name" or "name:version"; without a version the newest one.
    source
        Folder in the store, "s3://…"; its sub-folders belong to it.
    output
        Folder in the store that gets the outputs, under the names of the images, and a table of what was done.
    parameters
        Prediction parameters of the model's method that differ from their defaults.
    settle_seconds
        Images that change within so many seconds are being written, and left to the next run.
    project
        Project of the model; empty means that of the runner.
    """
    end_with_runner()
    quiet_failures()
    try:
        run = current_run()
        with _work.connect(project, run.creator) as client:
            model_uri = read_model(client, model.strip()).uri
            batch = Batch(Location.parse(source.strip()), Location.parse(output.strip()), model_uri, parameters or {})
            return _predict_new(client, run, batch, settle_seconds)
    except ParfocalError as error:
        return ended_badly(error)


def _predict_new(client: Client, run: Run, batch: Batch, settle_seconds: float) -> State[Any]:
    listener = PrefectListener(run.id)
    listener.stage("Predicting new images", 0, 100)

    def progressed(progress: Progress) -> None:
        waiting = max(1, progress.found - progress.ended_before)
        listener.stage(progress.sentence, 100 * (progress.predicted + progress.failed) / waiting, 100)

    progress = BatchRun(client, batch, labels=run.labels, settle_seconds=settle_seconds, on_progress=progressed).run()
    name = versioned_name(batch.model_uri)
    if progress.reasons:
        rows = [f"- `{image}`: {reason}" for image, reason in sorted(progress.reasons.items())[:_SHOWN]]
        more = [f"- and {len(progress.reasons) - _SHOWN} more"] if len(progress.reasons) > _SHOWN else []
        page = "\n".join([f"# Images that {name} could not be applied to", "", *rows, *more])
        create_markdown_artifact(page, key=_show.artifact_key("failed", name), description="Images that failed")
    listener.done(progress.sentence)
    # A run in which nothing went right is one that somebody should look at.
    state = Failed if progress.reasons and not progress.predicted else Completed
    return state(message=progress.sentence)
