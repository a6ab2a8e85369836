"""`parfocal jobs …`: all work, past and present."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from parfocal.cli._app import Group, current_app
from parfocal.cli._formats import FORMATS, formats_of
from parfocal.cli._parts import with_options

if TYPE_CHECKING:
    from parfocal import v1

_STATES = ("queued", "running", "succeeded", "failed", "cancelled", "cancelling")
_JOB = click.argument("job_id", metavar="JOB")


@click.group(cls=Group, short_help="List, watch, cancel and resume jobs.")
def jobs() -> None:
    """Trainings, predictions, evaluations, comparisons and checks of datasets: list, watch, cancel, go on."""


@jobs.command("list")
@click.option(
    "--state", "states", multiple=True, type=click.Choice(_STATES), help="Only jobs in this state; repeat for more."
)
@click.option("--limit", default=20, show_default=True, type=click.IntRange(min=1), help="How many jobs to show.")
def list_(states: tuple[str, ...], limit: int) -> None:
    """List the jobs of the project, newest first."""
    app = current_app()
    from parfocal import v1
    from parfocal.cli._render import local_time, print_json, print_table, say, warn
    from parfocal.cli._work import job_json

    with app.client() as client:
        for info in client.services():
            if info.error:
                warn(f"{info.error} Its jobs are missing here.")
        wanted = [v1.JobState.Value(f"JOB_STATE_{state.upper()}") for state in states]
        # One more tells that there are more, without reading thousands.
        found = client.jobs(wanted, limit=limit + 1)
    if app.json:
        print_json([job_json(job) for job in found[:limit]])
        return
    if not found:
        say("There are no such jobs.")
        return
    rows = [
        (job.id, _what(job), _standing(job), local_time(job.created_at.ToDatetime()), _time(job))
        for job in found[:limit]
    ]
    print_table(("Job", "Work", "State", "Created", "Time"), rows, numbers=("Time",))
    if len(found) > limit:
        say("Older jobs are not shown; --limit shows more.")


@jobs.command()
@_JOB
def show(job_id: str) -> None:
    """Show a job with its parameters, what it made, and why it failed."""
    app = current_app()
    from google.protobuf import json_format

    from parfocal.cli._render import local_time, print_fields, print_json, print_table, warn
    from parfocal.cli._work import job_json
    from parfocal.runtime.prediction.pace import sentence

    with app.client() as client:
        job = client.get(job_id)
    if app.json:
        print_json(job_json(job))
        return
    print_fields(
        {
            "Job": job.id,
            "Work": _what(job),
            "Method": job.method,
            "State": _state(job),
            "Message": job.message if job.message != job.error.text else "",
            "Done": _progress(job),
            **({"Speed": speed} if (speed := sentence(job.metrics)) else {"Metrics": _metrics(job)}),
            "Created": local_time(job.created_at.ToDatetime()),
            "Time": _time(job),
            "Attempt": str(job.attempt) if job.attempt > 1 else "",
            "Device": f"{job.environment.device} {job.environment.precision}".strip(),
            "Error": job.error.text,
            **{f"Made ({output.kind})": output.uri for output in job.outputs},
        }
    )
    for violation in job.error.violations:
        if violation.description not in job.error.text:
            print_fields({violation.field: violation.description})
    values = json_format.MessageToDict(job.resolved_parameters)
    rows = [(name, f"{value:g}" if isinstance(value, float) else str(value)) for name, value in sorted(values.items())]
    if rows:
        print_table(("Parameter", "Value"), rows, numbers=("Value",))
    for text in job.warnings:
        warn(text)


@jobs.command()
@_JOB
def watch(job_id: str) -> None:
    """Watch a job to its end. Ctrl-C stops watching, not the job."""
    app = current_app()
    from parfocal.cli._render import print_fields, print_json
    from parfocal.cli._work import finish, job_json

    with app.client() as client:
        # A wrong id or a service that is down is told at once, not after the patience of watching.
        job = client.get(job_id)
        job = finish(app, client, job, _what(job))
    if app.json:
        print_json({"job": job_json(job)})
        return
    print_fields({"Job": job.id, "State": _state(job), **{f"Made ({item.kind})": item.uri for item in job.outputs}})


@jobs.command()
@_JOB
@click.option("--keep-best", is_flag=True, help="End a training early, but publish its best weights as a model.")
@click.option("--why", default="", metavar="TEXT", help="Why, for the record.")
def cancel(job_id: str, keep_best: bool, why: str) -> None:
    """End a job. It publishes nothing, but a training can go on from its last checkpoint: `parfocal jobs resume`."""
    app = current_app()
    from parfocal.cli._render import print_fields, print_json
    from parfocal.cli._work import job_json

    with app.client() as client:
        job = client.cancel(job_id, keep_best=keep_best, why=why)
    if app.json:
        print_json({"job": job_json(job)})
    else:
        print_fields({"Job": job.id, "State": _state(job), "Message": job.message})


@jobs.command()
@_JOB
@click.option("--detach", is_flag=True, help="Do not wait for the end.")
def resume(job_id: str, detach: bool) -> None:
    """Go on with a failed or cancelled training, from its last checkpoint if there is one."""
    app = current_app()
    from parfocal.cli._render import print_fields, print_json, say
    from parfocal.cli._work import finish, job_json, output_uri, say_unchecked
    from parfocal.client.models import read_model

    with app.client() as client:
        job = client.resume(job_id)
        if not detach:
            job = finish(app, client, job, _what(job))
            # The flow run that would have had it judged may have ended with the job.
            say_unchecked(read_model(client, output_uri(job, "model")))
    if app.json:
        print_json({"job": job_json(job)})
        return
    print_fields({"Job": job.id, "State": _state(job), **{f"Made ({item.kind})": item.uri for item in job.outputs}})
    if detach:
        say(f"Watch it: parfocal jobs watch {job.id}")


@jobs.command()
@_JOB
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(job_id: str, yes: bool) -> None:
    """Delete the record of an ended job; models and results that it made stay."""
    app = current_app()
    from parfocal.cli._render import print_json, say
    from parfocal.runtime.errors import PreconditionError

    with app.client() as client:
        job = client.get(job_id)
        if not job.HasField("finished_at"):
            raise PreconditionError(f"Job {job.id} is {_state(job)}: cancel it before deleting its record.")
        if not yes:
            click.confirm(f"Delete the record of {job.id} ({_what(job)}, {_state(job)})?", abort=True, err=True)
        client.delete(job_id)
    if app.json:
        print_json({"deleted": job_id})
    else:
        say(f"The record of {job_id} is in the trash.")


@jobs.command()
@_JOB
@click.option("--output", required=True, type=click.Path(path_type=Path), metavar="FOLDER", help="Where the files go.")
@with_options(*FORMATS)
@click.option("--overwrite", is_flag=True, help="Replace files that exist in FOLDER.")
def download(job_id: str, output: Path, images: str, tables: str, overwrite: bool) -> None:
    """Download what a prediction, evaluation or comparison made.

    Models are fetched with `parfocal models download`.
    """
    app = current_app()
    from parfocal.cli._progress import transfer
    from parfocal.cli._render import print_fields, print_json
    from parfocal.client.results import download_result

    formats = formats_of(images, tables)
    with app.client() as client:
        job = client.get(job_id)
        with transfer("Downloading") as on_progress:
            files = download_result(client, job, output, overwrite=overwrite, formats=formats, on_progress=on_progress)
    if app.json:
        print_json({"files": [str(path) for path in files]})
    else:
        print_fields({"Files": f"{len(files)} in {output}"})


def _what(job: v1.Job) -> str:
    """Return what a job does, in a few words."""
    from parfocal.runtime.store.names import versioned_name

    if job.HasField("training"):
        # The version is reserved when the job is admitted.
        return f"train model {versioned_name(job.reserved_uri) if job.reserved_uri else job.training.model}"
    if job.HasField("prediction"):
        part, model = job.prediction.part, versioned_name(job.prediction.model_uri)
        share = f" (part {part.number} of {part.count})" if part.count else ""
        return f"{'merge parts' if job.prediction.part_uris else 'predict'} with model {model}{share}"
    if job.HasField("comparison"):
        return f"compare {len(job.comparison.evaluation_uris)} evaluations by dataset {_dataset(job.comparison)}"
    if job.HasField("derivation"):
        return f"make tiles of {', '.join(map(versioned_name, job.derivation.input_uris))}"
    spec = job.evaluation
    if not spec.prediction_uri:
        return f"check dataset {_dataset(spec)}"
    if spec.model_uri:
        return f"evaluate model {versioned_name(spec.model_uri)} by dataset {_dataset(spec)}"
    if spec.dataset_uri:
        return f"evaluate images by dataset {_dataset(spec)}"
    return "evaluate images without targets"


def _dataset(spec: v1.EvaluationSpec | v1.ComparisonSpec) -> str:
    from parfocal.runtime.store.names import versioned_name

    return versioned_name(spec.dataset_uri)


def _state(job: v1.Job) -> str:
    from parfocal import v1

    return v1.JobState.Name(job.state).removeprefix("JOB_STATE_")


def _standing(job: v1.Job) -> str:
    """Return the state and, of a job at work, how far it is."""
    return _state(job) if job.HasField("finished_at") else f"{_state(job)} {_progress(job)}"


def _metrics(job: v1.Job) -> str:
    from parfocal.cli._render import number

    return ", ".join(f"{name} {number(value)}" for name, value in sorted(job.metrics.items()))


def _progress(job: v1.Job) -> str:
    if job.progress.epochs and job.progress.fraction < 1:
        return f"epoch {job.progress.epoch}/{job.progress.epochs}"
    return f"{100 * job.progress.fraction:.0f} %"


def _time(job: v1.Job) -> str:
    """Return how long a job worked, or has been working."""
    from parfocal.cli._render import duration
    from parfocal.client.watching import seconds_at_work

    return duration(seconds_at_work(job)) if job.HasField("started_at") else ""
