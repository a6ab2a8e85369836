"""The steps of the workflows as plain functions over the client; nothing here knows of Prefect.

Every job has a request id made from the flow run's id, so a flow that is retried, or started again after its process
was killed, finds the job that is already there. A second training is never started.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from parfocal import v1
from parfocal.client import Client, requests
from parfocal.client.results import read_result, result_uri
from parfocal.runtime.errors import (
    InvalidInputError,
    NotFoundError,
    ParfocalError,
    QueueFullError,
    UnavailableError,
)
from parfocal.runtime.manifests import DATASET_MANIFEST, DatasetManifest, ResultManifest
from parfocal.runtime.settings import Settings
from parfocal.runtime.store import Location

_T = TypeVar("_T")
FLOW_RUN_LABEL = "flow_run"
ACTIVE_STATES = (v1.JOB_STATE_QUEUED, v1.JOB_STATE_RUNNING, v1.JOB_STATE_CANCELLING)
_PATIENCE_SECONDS = 600.0
_MAX_PAUSE_SECONDS = 30.0
_MAX_FIGURE_BYTES = 3_000_000


class JobNotSucceededError(ParfocalError):
    """A job failed or was cancelled; the message is the job's own."""

    reason = "JOB_NOT_SUCCEEDED"

    def __init__(self, job: v1.Job) -> None:
        super().__init__(job_ending(job))
        self.job = job


class Listener(Protocol):
    """Whoever wants to know how the work goes."""

    def started(self, job: v1.Job, *, again: bool) -> None:
        """Hear that a job is followed from now on; `again` says that it was there already."""

    def progressed(self, job: v1.Job) -> None:
        """Hear that the job's progress or state changed."""

    def happened(self, job: v1.Job, event: v1.JobEvent) -> None:
        """Hear what happened to the job."""

    def waiting(self, why: str) -> None:
        """Hear why the work cannot go on at the moment; it is tried again."""


@dataclass(frozen=True)
class Run:
    """The flow run on whose behalf jobs are started.

    Attributes
    ----------
    id
        Identifier of the flow run; the same whenever it is retried or taken up again.
    attempt
        1 the first time, more when it was retried or taken up again.
    """

    id: str
    attempt: int = 1

    def request_id(self, step: str, number: int = 1) -> str:
        """Return the request id of a step, e.g. "<flow-run id>-train"; `number` counts repetitions of cheap steps."""
        return f"{self.id}-{step}" + (f"-{number}" if number > 1 else "")

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels by which the jobs of this run are found."""
        return {FLOW_RUN_LABEL: self.id}


@dataclass(frozen=True)
class CheckedDataset:
    """A dataset that a method can learn from; `notes` are things the user should know all the same."""

    uri: str
    manifest: DatasetManifest
    notes: Sequence[str]

    @property
    def has_test_images(self) -> bool:
        """Whether there are images for quality control."""
        return bool(self.manifest.select("test", "source"))


@dataclass(frozen=True)
class Finished:
    """A prediction or evaluation that succeeded: its job, the place of its result and the result's manifest."""

    job: v1.Job
    uri: str
    manifest: ResultManifest


def connect(project: str = "") -> Client:
    """Return a client for a project; settings come from the environment."""
    settings = Settings()
    return Client(settings.model_copy(update={"project": project}) if project else settings)


def find_method(client: Client, name: str, listener: Listener) -> v1.Method:
    """Return a method's description, waiting for a service that does not answer."""
    return _patiently(lambda: client.method(name), listener)


def check_dataset(client: Client, method: v1.Method, dataset: str) -> CheckedDataset:
    """Return a dataset ("name" or "name:version") after checking that `method` can learn from it.

    Raises
    ------
    NotFoundError
        There is no such dataset.
    InvalidInputError
        The method cannot be trained, or not with so few images.
    """
    if v1.JOB_KIND_TRAINING not in method.job_kinds:
        raise InvalidInputError(f"{method.title} cannot be trained; it offers prediction only.")
    uri = client.dataset_uri(dataset)
    manifest = DatasetManifest.read(client.store, Location.parse(uri) / DATASET_MANIFEST)
    needs = method.data_requirements
    count = len(manifest.select("train", "source"))
    if count < needs.minimum_images:
        raise InvalidInputError(
            f"The dataset {dataset!r} has {_images(count)}; {method.title} needs at least "
            f"{needs.minimum_images}. {needs.description}"
        )
    notes = list(manifest.warnings)
    if count < needs.recommended_images:
        notes.append(f"The dataset has {_images(count)}; good results can be expected from {needs.recommended_images}.")
    if not manifest.select("test", "source"):
        notes.append("The dataset has no test images, so quality control cannot judge the model.")
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
) -> v1.Job:
    """Train a model and return its job; a training that failed in an earlier attempt of the run is continued.

    Raises
    ------
    JobNotSucceededError
        The training failed or was cancelled.
    """
    request = requests.training_request(
        method, dataset_uri, model, parameters, request_id=run.request_id("train"), labels=run.labels
    )
    job = _find(client, request.request_id, listener)
    if job is None:
        job = _start(client, request, listener)
    elif run.attempt > 1 and job.state in (v1.JOB_STATE_FAILED, v1.JOB_STATE_CANCELLED):
        job_id = job.id
        job = _patiently(lambda: client.resume(job_id), listener)
        listener.started(job, again=True)
    else:
        listener.started(job, again=True)
    return _follow(client, job, listener)


def predict_images(
    client: Client,
    run: Run,
    listener: Listener,
    *,
    model_uri: str,
    input_uri: str,
    split: str = "",
    parameters: Mapping[str, Any] | None = None,
) -> Finished:
    """Apply a model to a folder of images or, with `split`, to a part of a dataset.

    Raises
    ------
    JobNotSucceededError
        The prediction failed or was cancelled.
    """

    def request(request_id: str) -> v1.StartJobRequest:
        return requests.prediction_request(
            model_uri, input_uri, parameters, split=split, request_id=request_id, labels=run.labels
        )

    return _finished(client, _repeatable(client, run, "predict", request, listener))


def predict_split(
    client: Client,
    run: Run,
    listener: Listener,
    *,
    model_uri: str,
    dataset_uri: str,
    split: str = "test",
    parameters: Mapping[str, Any] | None = None,
) -> Finished:
    """Apply a model to one split of a dataset."""
    return predict_images(
        client, run, listener, model_uri=model_uri, input_uri=dataset_uri, split=split, parameters=parameters
    )


def evaluation_method(client: Client, task: v1.Task.ValueType) -> v1.Method | None:
    """Return the quality control for a task, or None where no service offers any."""
    for info in client.services():
        for method in info.methods:
            if v1.JOB_KIND_EVALUATION in method.job_kinds and method.task == task:
                return method
    return None


def evaluate_model(
    client: Client,
    run: Run,
    listener: Listener,
    *,
    method: str,
    prediction_uri: str,
    dataset_uri: str,
    model_uri: str,
    split: str = "test",
) -> Finished:
    """Score a prediction and add the verdict to the model.

    Raises
    ------
    JobNotSucceededError
        The evaluation failed or was cancelled; this is no verdict on the model.
    """

    def request(request_id: str) -> v1.StartJobRequest:
        return requests.evaluation_request(
            method,
            prediction_uri,
            dataset_uri,
            split=split,
            model_uri=model_uri,
            request_id=request_id,
            labels=run.labels,
        )

    return _finished(client, _repeatable(client, run, "qc", request, listener))


def read_figure(client: Client, finished: Finished) -> bytes | None:
    """Return the figure of an evaluation as PNG; None where there is none, or one too large for a page."""
    entry = finished.manifest.entry("figure.png")
    if entry is None or entry.size > _MAX_FIGURE_BYTES:
        return None
    return client.store.read(Location.parse(finished.uri) / entry.name)


def jobs_of(client: Client, run_id: str, *, active_only: bool = False) -> list[v1.Job]:
    """Return the jobs that a flow run started, newest first."""
    jobs = client.jobs(ACTIVE_STATES if active_only else ())
    return [job for job in jobs if job.labels.get(FLOW_RUN_LABEL) == run_id]


def cancel_jobs(client: Client, run_id: str, why: str) -> list[v1.Job]:
    """Ask all jobs of a flow run that have not ended to end; return them."""
    return [client.cancel(job.id, why=why) for job in jobs_of(client, run_id, active_only=True)]


def model_uri_of(job: v1.Job) -> str:
    """Return the address of the model that a training published."""
    for output in job.outputs:
        if output.kind == "model":
            return output.uri
    raise NotFoundError(f"Job {job.id} has published no model.")


def job_ending(job: v1.Job) -> str:
    """Return in plain words why a job did not succeed: the job's own error text."""
    if job.state == v1.JOB_STATE_FAILED:
        return job.error.text or f"Job {job.id} failed without saying why; see the log of the service {job.service!r}."
    if job.state == v1.JOB_STATE_CANCELLED:
        return f"Job {job.id} was cancelled" + (f": {job.message.removeprefix('cancelled: ')}" if job.message else ".")
    return f"Job {job.id} has not ended."


def _images(count: int) -> str:
    return f"{count} training image" + ("" if count == 1 else "s")


def _repeatable(
    client: Client,
    run: Run,
    step: str,
    request: Callable[[str], v1.StartJobRequest],
    listener: Listener,
) -> v1.Job:
    """Find or start a job that is cheap to repeat: one that failed in an earlier attempt is started anew."""
    number = 1
    while True:
        request_id = run.request_id(step, number)
        job = _find(client, request_id, listener)
        if job is None:
            return _follow(client, _start(client, request(request_id), listener), listener)
        if number >= run.attempt or job.state not in (v1.JOB_STATE_FAILED, v1.JOB_STATE_CANCELLED):
            listener.started(job, again=True)
            return _follow(client, job, listener)
        number += 1


def _find(client: Client, job_id: str, listener: Listener) -> v1.Job | None:
    try:
        return _patiently(lambda: client.get(job_id), listener)
    except NotFoundError:
        return None


def _start(client: Client, request: v1.StartJobRequest, listener: Listener) -> v1.Job:
    while True:
        try:
            job = _patiently(lambda: client.start(request), listener)
        except QueueFullError as error:
            listener.waiting(error.message)
            time.sleep(min(max(error.retry_seconds, 1.0), _MAX_PAUSE_SECONDS))
        else:
            listener.started(job, again=False)
            return job


def _follow(client: Client, job: v1.Job, listener: Listener) -> v1.Job:
    """Report a job until it ends; return it if it succeeded, else raise JobNotSucceededError."""
    if job.state in ACTIVE_STATES:
        # What happened before this run looked was reported then.
        for report in client.watch(job.id, job.last_sequence):
            if report.HasField("event"):
                listener.happened(report.job, report.event)
            listener.progressed(report.job)
        job_id = job.id
        job = _patiently(lambda: client.get(job_id), listener)
    if job.state != v1.JOB_STATE_SUCCEEDED:
        raise JobNotSucceededError(job)
    return job


def _finished(client: Client, job: v1.Job) -> Finished:
    return Finished(job, result_uri(job), read_result(client, job))


def _patiently(call: Callable[[], _T], listener: Listener) -> _T:
    """Return the answer to `call`, asked again for some minutes while services or store do not answer."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    pause = 1.0
    while True:
        try:
            return call()
        except UnavailableError as error:
            if time.monotonic() > deadline:
                raise
            listener.waiting(error.message)
            time.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE_SECONDS)
