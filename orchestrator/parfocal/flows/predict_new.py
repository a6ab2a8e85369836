"""The flow `predict-new`: apply a model to those images of a folder that it has not been applied to yet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from parfocal import v1
from parfocal.client import Client
from parfocal.client.models import read_model
from parfocal.client.requests import to_struct
from parfocal.flows import _show, _work
from parfocal.flows._follow import PrefectListener, current_flow_run, current_run, ended_badly, quiet_failures
from parfocal.flows._jobs import Run
from parfocal.flows._process import end_with_runner
from parfocal.flows.batch import Batch, Progress, Step, Unlike
from parfocal.flows.batches import BatchRun
from parfocal.flows.hooks import cancel_jobs_of_run, take_up_again, tell_of_run
from parfocal.flows.schedules import taken_of
from parfocal.runtime.errors import InvalidInputError, ParfocalError
from parfocal.runtime.images.taken import Taken
from parfocal.runtime.store.names import versioned_name
from parfocal.runtime.store.store import Location

_SHOWN = 20


@flow(
    name="predict-new",
    flow_run_name="predict new images with {model}",
    on_cancellation=[cancel_jobs_of_run],
    on_crashed=[take_up_again],
    on_completion=[tell_of_run],
    on_failure=[tell_of_run],
    persist_result=False,
    validate_parameters=True,
)
def predict_new(
    model: str,
    source: str,
    output: str,
    parameters: dict[str, Any] | None = None,
    then: list[dict[str, Any]] | None = None,
    keep_steps: bool = False,
    unlike: Literal["warn", "stop", "ignore"] = "warn",
    settle_seconds: float = 10.0,
    channels: list[str] | None = None,
    planes: str = "",
    frames: str = "",
    schedule: str = "",
    project: str = "",
) -> State[Any]:
    """Apply a model, or several one after the other, to the new images of a folder.

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
    then
        Further models, each applied to what the one before has made: {"model": …, "parameters": {…}}.
    keep_steps
        Whether what the models before the last one make is delivered too, below "steps/".
    unlike
        What to do about images that differ from the training data of the first model.
    settle_seconds
        Images that change within so many seconds are being written, and left to the next run.
    channels, planes, frames
        What is taken of each image, as far as it has that: channels by name or number from 1, and a range along Z and
        T such as "3-9". If nothing is chosen, the channels that were taken of the files that the first model was
        trained on.
    schedule
        Name of the schedule that the run belongs to, which may do what its record in the catalogue says; empty: none.
    project
        Project of the model; empty means that of the runner.
    """
    end_with_runner()
    quiet_failures()
    try:
        run = current_run()
        if schedule:
            with _work.connect(project) as client:
                checked = client.catalog.check_schedule(schedule)
            run = replace(run, creator=checked.schedule.created_by)
            if checked.refusal:
                return _rest(checked.refusal)
            if other := _still_at_work():
                return Completed(message=f"{other} of this schedule is still at work and takes the new images as well.")
        with _work.connect(project, run.creator) as client:
            asked = [{"model": model, "parameters": parameters}, *(then or [])]
            steps = tuple(_step(client, each) for each in asked)
            taken = taken_of({"channels": channels, "planes": planes, "frames": frames})
            places = Location.parse(source.strip()), Location.parse(output.strip())
            batch = Batch(*places, steps, keep_steps, taken)
            if schedule and (why := _differs(checked.schedule, batch)):
                return _rest(why)
            return _predict_new(client, run, batch, settle_seconds, unlike)
    except ParfocalError as error:
        return ended_badly(error)


def _step(client: Client, asked: dict[str, Any]) -> Step:
    name = asked.get("model")
    if not isinstance(name, str) or not name.strip():
        raise InvalidInputError('Each further step names its model: {"model": "NAME:VERSION"}.')
    return Step(read_model(client, name.strip()).uri, asked.get("parameters") or {})


def _differs(made: v1.Schedule, batch: Batch) -> str:
    """Return in a sentence what a run of a schedule would do that its maker has not asked for; "" if nothing."""
    now = [(step.model_uri, to_struct(step.parameters)) for step in batch.steps]
    pairs = {
        "models and parameters": ([(step.model_uri, step.parameters) for step in made.steps], now),
        "channels, planes or frames": (Taken.of_message(made.taken, "taken"), batch.taken),
        "folder of images": (made.source_uri, str(batch.source)),
        "folder for the results": (made.output_uri, str(batch.output)),
    }
    changed = " and ".join(what for what, (before, after) in pairs.items() if before != after)
    if not changed:
        return ""
    return (
        f"On Prefect's page other {changed} were set than those that {made.created_by} has made the schedule "
        f"{made.name!r} for. Set them back, or delete the schedule and make it again."
    )


def _still_at_work() -> str:
    """Return which run of the same schedule, due before this one, is still at work, in words; "" if none.

    Where a run takes longer than the schedule's interval, runs would pile up, each with as many jobs under way.
    """
    flow_run = current_flow_run()
    due = flow_run.expected_start_time
    if flow_run.deployment_id is None or due is None:
        return ""
    running = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING]))
    with get_client(sync_client=True) as prefect:
        runs = prefect.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=running),
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[flow_run.deployment_id])),
        )
    earlier = [each for run in runs if run.id != flow_run.id and (each := run.expected_start_time) and each < due]
    return f"The run of {min(earlier):%Y-%m-%d %H:%M} (UTC)" if earlier else ""


def _rest(why: str) -> State[Any]:
    """Pause the schedule that this run belongs to, and return the state that says why."""
    flow_run = current_flow_run()
    if flow_run.deployment_id is not None:
        with get_client(sync_client=True) as prefect:
            for each in prefect.read_deployment_schedules(flow_run.deployment_id):
                prefect.update_deployment_schedule(flow_run.deployment_id, each.id, active=False)
    message = f"Paused: {why}"
    get_run_logger().warning("%s", message)
    return Failed(message=message)


def _predict_new(client: Client, run: Run, batch: Batch, settle_seconds: float, unlike: Unlike) -> State[Any]:
    listener = PrefectListener(run.id)
    listener.stage("Predicting new images", 0, 100)

    def progressed(progress: Progress) -> None:
        waiting = max(1, progress.found - progress.ended_before)
        listener.stage(progress.sentence, 100 * (progress.predicted + progress.failed) / waiting, 100)

    progress = BatchRun(
        client, batch, labels=run.labels, settle_seconds=settle_seconds, unlike=unlike, on_progress=progressed
    ).run()
    name = ", ".join(versioned_name(step.model_uri) for step in batch.steps)
    if progress.reasons:
        rows = [f"- `{image}`: {reason}" for image, reason in sorted(progress.reasons.items())[:_SHOWN]]
        more = [f"- and {len(progress.reasons) - _SHOWN} more"] if len(progress.reasons) > _SHOWN else []
        page = "\n".join([f"# Images that {name} could not be applied to", "", *rows, *more])
        create_markdown_artifact(page, key=_show.artifact_key("failed", name), description="Images that failed")
    if progress.unlike:
        rows = [f"- `{image}`: {how}" for image, how in sorted(progress.unlike.items())[:_SHOWN]]
        page = "\n".join([f"# {len(progress.unlike)} images differ from those that {name} was trained on", "", *rows])
        create_markdown_artifact(
            page, key=_show.artifact_key("unlike", name), description="Images that differ from the training data"
        )
    listener.done(progress.sentence)
    # A run in which nothing went right is one that somebody should look at.
    state = Failed if progress.reasons and not progress.predicted else Completed
    return state(message=progress.sentence)
