"""The steps of the workflows as plain functions over the client; nothing here knows of Prefect.

Each may be done again with the same `Run`: it finds the job that the first time started.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parfocal import v1
from parfocal.client import Client, requests
from parfocal.client.parts import merge_request, part_request, remove_parts
from parfocal.client.published import read_manifest
from parfocal.client.results import read_result, result_uri
from parfocal.flows._jobs import (
    ACTIVE_STATES,
    PATIENCE_SECONDS,
    Listener,
    Run,
    ask_patiently,
    repeatable_job,
    repeatable_jobs,
    resumable_job,
)
from parfocal.runtime.datasets.kinds import require_suitable
from parfocal.runtime.errors import InvalidInputError, NotFoundError
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.manifests import DatasetManifest, ResultManifest
from parfocal.runtime.store.names import versioned_name
from parfocal.runtime.store.store import patiently

MAX_FIGURE_BYTES = 3_000_000


@dataclass(frozen=True)
class CheckedDataset:
    """A dataset that a method can be trained on; `notes` are things the user should know all the same."""

    uri: str
    manifest: DatasetManifest
    notes: Sequence[str]

    @property
    def has_test_images(self) -> bool:
        """Whether there are images for quality control, with targets or of both kinds without pairs."""
        return self.manifest.can_be_judged_by("test")


@dataclass(frozen=True)
class Finished:
    """A prediction or evaluation that succeeded: its job, the place of its result and the result's manifest."""

    job: v1.Job
    uri: str
    manifest: ResultManifest


def connect(project: str = "", creator: str = "") -> Client:
    """Return a client for a project that acts for a run's creator; the other settings come from the environment."""
    settings = Settings()
    changes = {name: value for name, value in (("project", project), ("acts_for", creator)) if value}
    return Client(settings.model_copy(update=changes))


def find_method(client: Client, name: str, listener: Listener) -> v1.Method:
    """Return a method's description, waiting for a service that does not answer."""
    return ask_patiently(lambda: client.method(name), listener)


def check_dataset(client: Client, method: v1.Method, uri: str) -> CheckedDataset:
    """Return a dataset after checking that `method` can be trained on it.

    Raises
    ------
    NotFoundError
        There is no such dataset.
    InvalidInputError
        The method cannot be trained, or not with so few images or with such ones.
    """
    if v1.JOB_KIND_TRAINING not in method.job_kinds:
        raise InvalidInputError(f"{method.title} cannot be trained; it offers prediction only.")
    manifest = read_manifest(client, uri, DatasetManifest)
    needs = method.data_requirements
    require_suitable(manifest, needs.target, method.title)
    count = len(manifest.select("train", "source"))
    if count < needs.minimum_images:
        raise InvalidInputError(
            f"The dataset {versioned_name(uri)} has {_images(count)}; {method.title} needs at least "
            f"{needs.minimum_images}. {needs.description}"
        )
    notes = list(manifest.warnings)
    if count < needs.recommended_images:
        notes.append(f"The dataset has {_images(count)}; good results can be expected from {needs.recommended_images}.")
    if not manifest.can_be_judged_by("test"):
        notes.append("The dataset has no test images with targets, so quality control cannot judge the model.")
    return CheckedDataset(uri, manifest, tuple(notes))


def train_model(
    client: Client,
    run: Run,
    listener: Listener,
    *,
    method: str,
    dataset_uri: str,
    model: str,
    parameters: Mapping[str, Any],
    initial_model_uri: str = "",
    initial_weights: str = "",
) -> v1.Job:
    """Train a model and return its job; a training that failed in an earlier attempt of the run is continued.

    Raises
    ------
    JobNotSucceededError
        The training failed or was cancelled.
    """
    request = requests.training_request(
        method,
        dataset_uri,
        model,
        parameters,
        initial_model_uri=initial_model_uri,
        initial_weights=initial_weights,
        request_id=run.request_id("train"),
        labels=run.labels,
    )
    return resumable_job(client, run, request, listener)


def predict_images(
    client: Client,
    run: Run,
    listener: Listener,
    *,
    model_uri: str,
    input_uri: str,
    split: str = "",
    parameters: Mapping[str, Any] | None = None,
    parts: int = 1,
) -> Finished:
    """Apply a model to a folder of images or, with `split`, to a part of a dataset.

    With several `parts` as many jobs do a part of each image at the same time, and a last one merges them.

    Raises
    ------
    JobNotSucceededError
        The prediction, or a part of it, failed or was cancelled.
    """

    def request(request_id: str) -> v1.StartJobRequest:
        return requests.prediction_request(
            model_uri, input_uri, parameters, split=split, request_id=request_id, labels=run.labels
        )

    if parts == 1:
        return finished(client, repeatable_job(client, run, "predict", request, listener))

    def part(number: int) -> Callable[[str], v1.StartJobRequest]:
        return lambda request_id: part_request(request(request_id), number, parts)

    steps = {f"predict-{number}of{parts}": part(number) for number in range(1, parts + 1)}
    done = repeatable_jobs(client, run, steps, listener)
    merged = repeatable_job(
        client, run, "predict", lambda request_id: merge_request(request(request_id), done), listener
    )
    remove_parts(client, done)
    return finished(client, merged)


def read_figure(client: Client, finished: Finished, name: str = "figure.png") -> bytes | None:
    """Return a published picture as PNG, made smaller until it fits a page; None where there is none."""
    if finished.manifest.entry(name) is None:
        return None
    return smaller(client.catalog.read(finished.uri, name), MAX_FIGURE_BYTES)


def smaller(picture: bytes, most_bytes: int) -> bytes:
    """Return a PNG with fewer pixels that has at most so many bytes; one that has them already as it is."""
    if len(picture) <= most_bytes:
        return picture
    # Imported late: only large pictures need it.
    from PIL import Image

    with Image.open(io.BytesIO(picture)) as opened:
        image = opened.convert("RGB")
    while len(picture) > most_bytes:
        factor = 0.95 * math.sqrt(most_bytes / len(picture))
        size = max(1, round(factor * image.width)), max(1, round(factor * image.height))
        image = image.resize(size, Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "PNG", optimize=True)
        picture = buffer.getvalue()
    return picture


def jobs_of(client: Client, run: Run) -> list[v1.Job]:
    """Return the jobs of a flow run, newest first, of all services that answer."""
    return [job for job in client.jobs() if run.owns(job)]


def cancel_jobs(client: Client, run: Run, why: str, *, patience_seconds: float = PATIENCE_SECONDS) -> list[v1.Job]:
    """Ask all jobs of a flow run that have not ended to end; return them.

    Raises
    ------
    UnavailableError
        A service did not answer for so long that jobs of the run may go on there.
    """

    def attempt() -> list[v1.Job]:
        active = client.jobs(ACTIVE_STATES, complete=True)
        return [client.cancel(job.id, why=why) for job in active if run.owns(job)]

    return patiently(attempt, patience_seconds)


def model_uri_of(job: v1.Job) -> str:
    """Return the address of the model that a training published."""
    for output in job.outputs:
        if output.kind == "model":
            return output.uri
    raise NotFoundError(f"Job {job.id} has published no model.")


def _images(count: int) -> str:
    return f"{count} training image" + ("" if count == 1 else "s")


def finished(client: Client, job: v1.Job) -> Finished:
    """Return a job that has succeeded with its result."""
    return Finished(job, result_uri(job), read_result(client, job))
