"""One prediction done by several jobs for `parfocal predict`: started, followed, merged, and found again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from parfocal.cli._errors import DETACHED, FAILED
from parfocal.cli._progress import transfer, waiting
from parfocal.cli._render import print_json, say, warn
from parfocal.cli._work import finish, job_json, show_failure
from parfocal.runtime.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from parfocal import v1
    from parfocal.cli._app import App
    from parfocal.client import Client
    from parfocal.client.convert import Part
    from parfocal.client.steps import PlannedStep


def predict_in_parts(
    app: App, client: Client, step: PlannedStep, paths: Sequence[Path], count: int, *, axes: str, part: Part
) -> v1.Job:
    """Return the job that has merged all parts of a prediction; end the command if one of them fails."""
    from parfocal import v1
    from parfocal.client import parts
    from parfocal.client.requests import prediction_request

    request_id = parts.prediction_id(step.model.uri, step.parameters, paths, f"{axes} {part}")
    if (done := parts.find_done(client, request_id)) is not None:
        say(f"The same images were predicted before, by the job {done.id}. Using that.")
        return done

    def start(uri: str) -> tuple[v1.StartJobRequest, list[v1.Job]]:
        request = prediction_request(step.model.uri, uri, step.parameters, request_id=request_id)
        return request, [parts.find_or_start(client, each) for each in parts.part_requests(request, count)]

    say(f"{count} jobs predict a part each; a last one merges them.")
    known = parts.known_inputs(client, request_id, count)
    try:
        request, jobs = start(known or _upload(client, paths, axes, part))
    except NotFoundError:
        if not known:
            raise
        # What was uploaded before has been removed meanwhile.
        request, jobs = start(_upload(client, paths, axes, part))
    for job in jobs:
        say(f"Job {job.id}")
    try:
        with waiting("Predicting") as show:
            jobs = parts.wait_for_parts(client, jobs, _teller(show))
    except KeyboardInterrupt:
        say("The jobs continue without this command. Repeat it to have the parts merged and the results downloaded.")
        if app.json:
            print_json({"jobs": [job_json(job) for job in jobs]})
        raise click.exceptions.Exit(DETACHED) from None
    bad = [job for job in jobs if job.state != v1.JOB_STATE_SUCCEEDED]
    if bad:
        # Of the others the command has asked itself that they end.
        show_failure(next((job for job in bad if job.state == v1.JOB_STATE_FAILED), bad[0]))
        say("Parts that are done are kept. Repeat the command to predict the missing ones.")
        if app.json:
            print_json({"jobs": [job_json(job) for job in jobs]})
        raise click.exceptions.Exit(FAILED)
    for text in dict.fromkeys(text for job in jobs for text in job.warnings):
        warn(text)
    merge = parts.find_or_start(client, parts.merge_request(request, jobs))
    say(f"Job {merge.id}")
    merged = finish(app, client, merge, "Merging", afterwards="Repeat the command to have the results downloaded.")
    parts.remove_parts(client, jobs)
    return merged


def _upload(client: Client, paths: Sequence[Path], axes: str, part: Part) -> str:
    from parfocal.client.results import upload_inputs
    from parfocal.runtime.store.names import new_request_id

    with transfer("Uploading") as on_progress:
        return upload_inputs(client, new_request_id("inputs"), paths, axes=axes, part=part, on_progress=on_progress)


def _teller(show: Callable[[str], None]) -> Callable[[Sequence[v1.Job]], None]:
    """Return what shows how far all parts are: each tenth of the whole, and each part that has ended."""
    from parfocal.client.watching import FINAL_STATES

    said = [""]

    def tell(jobs: Sequence[v1.Job]) -> None:
        ended = sum(job.state in FINAL_STATES for job in jobs)
        fraction = sum(1.0 if job.state in FINAL_STATES else job.progress.fraction for job in jobs) / len(jobs)
        text = f"{10 * int(10 * fraction)} %, {ended} of {len(jobs)} parts done"
        if text != said[0]:
            said[0] = text
            show(text)

    return tell
