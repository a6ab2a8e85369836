"""What becomes of the record of a job whose worker has ended without a word of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from parfocal import v1
from parfocal.runtime.errors import ParfocalError, PreconditionError
from parfocal.runtime.jobs.exits import FAILURES, LOSSES, LOST, WORN_OUT, Exit, ExitKind, Failure
from parfocal.runtime.jobs.records import FINAL_STATES, now, set_running, set_state, state_name
from parfocal.runtime.rpc_errors import code_name

MAX_LOST_WORKERS: Final = 3
_LESS_MEMORY = {True: "Try a smaller batch or patch. ", False: "Try a smaller tile_size or smaller images. "}


def begin(job: v1.Job, *, waits: bool) -> v1.JobEvent:
    """Begin the next attempt, which runs at once or, if its worker `waits` for its place by itself, is still queued."""
    job.attempt += 1
    if waits:
        return set_state(job, v1.JOB_STATE_QUEUED, "waiting for its place on the cluster")
    return set_running(job)


def requeue(attempt: int, ended: Exit, *, counts: bool) -> Callable[[v1.Job], v1.JobEvent | None]:
    """Return the change that queues a job again after this end of its worker, or fails it if that is pointless.

    Parameters
    ----------
    attempt
        The attempt that has ended; a job that is in another one by now is left alone.
    counts
        Whether the loss may count towards those that fail the job.
    """
    why = f"the worker {ended.detail}"

    def change(job: v1.Job) -> v1.JobEvent | None:
        if job.state in FINAL_STATES or job.attempt != attempt:
            return None
        resumable = job.WhichOneof("spec") == "training"
        resume = "`parfocal jobs resume` continues from the last checkpoint." if resumable else "Start it again."
        if ended.kind is ExitKind.HANDED_OVER:
            job.handed_over_at.CopyFrom(now())
            # The worker has left there whom it handed the device over to.
            return set_state(job, v1.JOB_STATE_QUEUED, job.message)
        if (failure := FAILURES.get(ended.kind)) is not None:
            return _failed(job, failure, f"Not tried again: {why}. {failure.cure} {resume}")
        losses = LOSSES.get(ended.kind, 0) if counts else 0
        job.lost_workers += losses
        if job.lost_workers >= MAX_LOST_WORKERS:
            failure = WORN_OUT.get(ended.kind, LOST)
            tries = MAX_LOST_WORKERS if losses <= 1 else job.attempt
            cure = _LESS_MEMORY[resumable] if failure.reason == "OUT_OF_MEMORY" else failure.cure
            return _failed(job, failure, f"Gave up after {tries} attempts: {why}. {cure}{resume}")
        return queue_again(job, why)

    return change


def queue_again(job: v1.Job, why: str) -> v1.JobEvent:
    """Queue a job again, for a reason in words."""
    resumable = job.WhichOneof("spec") == "training"
    again = "it will go on from its last checkpoint, if there is one" if resumable else "it will be done again"
    return set_state(job, v1.JOB_STATE_QUEUED, f"{why}; {again}")


def fail(error: ParfocalError, job: v1.Job) -> v1.JobEvent:
    """Fail a job with an error."""
    return _failed(job, Failure(code_name(error), error.reason, ""), error.message)


def cancelled(reason: str, job: v1.Job) -> v1.JobEvent | None:
    """Cancel a job that has not ended and does not publish."""
    if job.state in FINAL_STATES or job.HasField("publication"):
        return None
    return set_state(job, v1.JOB_STATE_CANCELLED, reason)


def require_resumable(job: v1.Job) -> None:
    """Raise PreconditionError for a job that is under way or has succeeded."""
    if job.state not in {v1.JOB_STATE_FAILED, v1.JOB_STATE_CANCELLED}:
        raise PreconditionError(
            f"Job {job.id} is {state_name(job.state)}; only a failed or cancelled training can be resumed."
        )


def _failed(job: v1.Job, failure: Failure, text: str) -> v1.JobEvent:
    job.error.CopyFrom(v1.JobError(code=failure.code, reason=failure.reason, text=text))
    return set_state(job, v1.JOB_STATE_FAILED, text)
