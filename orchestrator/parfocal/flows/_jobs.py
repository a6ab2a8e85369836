"""Starting and following one job on behalf of a flow run; nothing here knows of Prefect.

Every job has a request id made from the flow run's id, or from the training whose model is judged, so a flow that is
retried, or started again after its process was killed, finds the job that is already there.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from parfocal import v1
from parfocal.client import Client
from parfocal.client.quality import TRAINING_LABEL, judging_id
from parfocal.runtime.errors import NotFoundError, ParfocalError, QueueFullError
from parfocal.runtime.store.store import patiently

_T = TypeVar("_T")
FLOW_RUN_LABEL = "flow_run"
# On a flow run: for whom it is done. The runner acts for them, with an identity of its own.
CREATOR_LABEL = "parfocal.created-by"
ACTIVE_STATES = (v1.JOB_STATE_QUEUED, v1.JOB_STATE_RUNNING, v1.JOB_STATE_CANCELLING)
_ENDED_BADLY = (v1.JOB_STATE_FAILED, v1.JOB_STATE_CANCELLED)
PATIENCE_SECONDS = 600.0
_MAX_PAUSE_SECONDS = 30.0


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
    creator
        For whom the run is done; empty: nobody is recorded, and what it makes is the runner's own.
    training
        The training whose model the run judges; empty: it does other work. A command may judge that model as well, so
        the jobs are those of the training, not of the run.
    """

    id: str
    attempt: int = 1
    creator: str = ""
    training: str = ""

    def request_id(self, step: str, number: int = 1) -> str:
        """Return the request id of a step, e.g. "<flow-run id>-train"; `number` counts repetitions of cheap steps."""
        origin = judging_id(self.training) if self.training else self.id
        return f"{origin}-{step}" + (f"-{number}" if number > 1 else "")

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels by which the jobs of this run are found."""
        return {TRAINING_LABEL: self.training} if self.training else {FLOW_RUN_LABEL: self.id}

    def owns(self, job: v1.Job) -> bool:
        """Return whether a job is one of this run."""
        return all(job.labels.get(key) == value for key, value in self.labels.items())


def resumable_job(client: Client, run: Run, request: v1.StartJobRequest, listener: Listener) -> v1.Job:
    """Start a training or find it again, and follow it; one that ended badly in an earlier attempt is continued.

    Raises
    ------
    JobNotSucceededError
        The job failed or was cancelled.
    """
    job = _find(client, request.request_id, listener)
    if job is None:
        job = _start(client, request, listener)
    else:
        if run.attempt > 1 and job.state in _ENDED_BADLY:
            job_id = job.id
            job = ask_patiently(lambda: client.resume(job_id), listener)
        listener.started(job, again=True)
    return _follow(client, job, listener)


def ended_job(client: Client, job_id: str, listener: Listener) -> v1.Job:
    """Return a job that somebody else started when it has succeeded.

    Raises
    ------
    JobNotSucceededError
        It failed or was cancelled.
    NotFoundError
        There is no such job.
    """
    job = ask_patiently(lambda: client.get(job_id), listener)
    listener.started(job, again=True)
    return _follow(client, job, listener)


def repeatable_job(
    client: Client,
    run: Run,
    step: str,
    request: Callable[[str], v1.StartJobRequest],
    listener: Listener,
) -> v1.Job:
    """Start a cheap job or find it again, and follow it; one that ended badly in an earlier attempt is started anew.

    Parameters
    ----------
    step
        Name of the step in the request id.
    request
        Makes the request for a request id.

    Raises
    ------
    JobNotSucceededError
        The job failed or was cancelled.
    """
    return _follow(client, _start_or_find(client, run, step, request, listener), listener)


def repeatable_jobs(
    client: Client,
    run: Run,
    requests: Mapping[str, Callable[[str], v1.StartJobRequest]],
    listener: Listener,
) -> list[v1.Job]:
    """Start several cheap jobs by their steps, or find them again, and follow them at once; see `repeatable_job`.

    Raises
    ------
    JobNotSucceededError
        A job failed or was cancelled; the others are cancelled as soon as it has.
    """
    jobs = [_start_or_find(client, run, step, request, listener) for step, request in requests.items()]
    try:
        return _follow_all(client, jobs, listener)
    except JobNotSucceededError as error:
        for job in jobs:
            with contextlib.suppress(ParfocalError):
                client.cancel(job.id, why=f"the job {error.job.id} has not succeeded")
        raise


def _start_or_find(
    client: Client, run: Run, step: str, request: Callable[[str], v1.StartJobRequest], listener: Listener
) -> v1.Job:
    """Return the job of a cheap step: a new one if there is none, or if all of earlier attempts ended badly."""
    number = 1
    while True:
        request_id = run.request_id(step, number)
        job = _find(client, request_id, listener)
        if job is None:
            return _start(client, request(request_id), listener)
        if number >= run.attempt or job.state not in _ENDED_BADLY:
            listener.started(job, again=True)
            return job
        number += 1


def job_ending(job: v1.Job) -> str:
    """Return in plain words why a job did not succeed: the job's own error text."""
    if job.state == v1.JOB_STATE_FAILED:
        return job.error.text or f"Job {job.id} failed without saying why; see the log of the service {job.service!r}."
    if job.state == v1.JOB_STATE_CANCELLED:
        return f"Job {job.id} was cancelled" + (f": {job.message.removeprefix('cancelled: ')}" if job.message else ".")
    return f"Job {job.id} has not ended."


def ask_patiently(call: Callable[[], _T], listener: Listener) -> _T:
    """Return the answer to `call`, asked again for some minutes while services or store do not answer."""
    return patiently(call, PATIENCE_SECONDS, lambda error: listener.waiting(error.message))


def _find(client: Client, job_id: str, listener: Listener) -> v1.Job | None:
    try:
        return ask_patiently(lambda: client.get(job_id), listener)
    except NotFoundError:
        return None


def _start(client: Client, request: v1.StartJobRequest, listener: Listener) -> v1.Job:
    while True:
        try:
            job = ask_patiently(lambda: client.start(request), listener)
        except QueueFullError as error:
            listener.waiting(error.message)
            time.sleep(min(max(error.retry_seconds, 1.0), _MAX_PAUSE_SECONDS))
        else:
            listener.started(job, again=False)
            return job


def _follow(client: Client, job: v1.Job, listener: Listener) -> v1.Job:
    """Report what happens to a job from now on until it ends; return it if it succeeded, else raise."""
    if job.state in ACTIVE_STATES:
        for report in client.watch(job.id, job.last_sequence):
            _tell(listener, report)
            listener.progressed(report.job)
    return _ended(client, job, listener)


def _follow_all(client: Client, jobs: Sequence[v1.Job], listener: Listener) -> list[v1.Job]:
    """Follow several jobs at the same time, as `_follow`; the progress is that of the one with most to do."""
    # Those that have ended first: one that did so badly is not waited for.
    found = {job.id: _ended(client, job, listener) for job in jobs if job.state not in ACTIVE_STATES}
    active = {job.id: job for job in jobs if job.state in ACTIVE_STATES}
    with _reports(client, list(active.values())) as reports:
        while active:
            job_id, said = reports.get()
            if isinstance(said, BaseException):
                raise said
            if said is None:
                found[job_id] = _ended(client, active.pop(job_id), listener)
                continue
            _tell(listener, said)
            active[job_id] = said.job
            listener.progressed(min(active.values(), key=lambda job: job.progress.fraction))
    return [found[job.id] for job in jobs]


_Said = tuple[str, v1.WatchJobResponse | BaseException | None]


@contextlib.contextmanager
def _reports(client: Client, jobs: Sequence[v1.Job]) -> Iterator[queue.SimpleQueue[_Said]]:
    """Give a queue of what several jobs report, by their ids: reports, then None or the error that ended them.

    Whoever takes them tells the listener, which belongs to one thread.
    """
    reports: queue.SimpleQueue[_Said] = queue.SimpleQueue()
    stop = threading.Event()

    def watch(job: v1.Job) -> None:
        try:
            for report in client.watch(job.id, job.last_sequence, stop):
                reports.put((job.id, report))
            reports.put((job.id, None))
        except BaseException as error:
            reports.put((job.id, error))

    threads = [threading.Thread(target=watch, args=(job,), name=f"follow {job.id}", daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    try:
        yield reports
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _tell(listener: Listener, report: v1.WatchJobResponse) -> None:
    if report.HasField("event"):
        listener.happened(report.job, report.event)


def _ended(client: Client, job: v1.Job, listener: Listener) -> v1.Job:
    """Return a job that was followed to its end if it succeeded, else raise."""
    if job.state in ACTIVE_STATES:
        job_id = job.id
        job = ask_patiently(lambda: client.get(job_id), listener)
    if job.state != v1.JOB_STATE_SUCCEEDED:
        raise JobNotSucceededError(job)
    return job
