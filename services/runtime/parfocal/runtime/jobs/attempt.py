"""One attempt of one job, from its record to its end."""

from __future__ import annotations

import logging
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from parfocal import v1
from parfocal.runtime import traces
from parfocal.runtime.errors import (
    CancelledError,
    OutOfMemoryError,
    ParfocalError,
    StaleWorkerError,
    UnavailableError,
)
from parfocal.runtime.jobs.context import PATIENCE_SECONDS, JobContext
from parfocal.runtime.jobs.device.held import HandedOver, Held
from parfocal.runtime.jobs.exits import HANDED_OVER, STORE_AWAY
from parfocal.runtime.jobs.records import JobStore, described, set_running
from parfocal.runtime.logs import configure_logging
from parfocal.runtime.methods.service import load_object, load_service
from parfocal.runtime.rpc_errors import code_name
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.housekeeping import scratch_folder, temporary_files_in
from parfocal.runtime.store.patient import PatientStore
from parfocal.runtime.store.store import translate_disk_error

_log = logging.getLogger(__name__)


class Ended(NamedTuple):
    """How an attempt ended: the exit code of its worker, and whether the job has succeeded."""

    code: int
    succeeded: bool


def work(module: str, project: str, job_id: str, attempt: int, device: Sequence[int] = ()) -> Ended:
    """Do an attempt of a job of the service in `module`, on the device whose loan is in the files `device`."""
    configure_logging(job=job_id, attempt=attempt)
    settings = Settings()
    service = load_service(module)
    traces.begin(service.name)
    store = PatientStore(settings, PATIENCE_SECONDS)
    try:
        job = _begin(JobStore(store), project, job_id, attempt)
        if job.attempt != attempt:
            _log.error("the job is in attempt %d; this worker of attempt %d ends", job.attempt, attempt)
            return Ended(0, succeeded=False)
        with (
            traces.span("attempt", described(job), parent=job.traceparent) as span,
            scratch_folder(settings.state_folder / "scratch", f"{job.id}-") as folder,
            temporary_files_in(folder),
        ):
            context = JobContext(service, store, job, folder, Held(device, settings))
            try:
                succeeded = run(context)
            except HandedOver:
                return Ended(HANDED_OVER, succeeded=False)
            if context.job.error.reason:
                span.fail(context.job.error.reason)
            return Ended(0, succeeded=succeeded)
    except UnavailableError as error:
        _log.error("the end of the job could not be recorded: %s", error)
        return Ended(STORE_AWAY, succeeded=False)


def _begin(jobs: JobStore, project: str, job_id: str, attempt: int) -> v1.Job:
    """Return the job, which runs from now on if this worker had to wait for its place."""
    job = jobs.read(project, job_id).job

    def waited(job: v1.Job) -> bool:
        return job.attempt == attempt and job.state == v1.JOB_STATE_QUEUED

    if not waited(job):
        return job
    return jobs.change(
        project, job_id, lambda job: set_running(job) if waited(job) else None, patience_seconds=PATIENCE_SECONDS
    )


def run(context: JobContext) -> bool:
    """Do the work of a job and record how it ended; return whether it has succeeded.

    Raises
    ------
    HandedOver
        The job has given its device to other work and is to be queued again.
    """
    try:
        try:
            load_object(context.work.run)(context)
        except (OSError, MemoryError) as error:
            raise _translate(error) from error
        finally:
            context.stages.leave()
    except HandedOver:
        raise
    except StaleWorkerError as error:
        _log.error("%s", error)
    except CancelledError as error:
        context.cancelled(error.message)
    except ParfocalError as error:
        _log.warning("the job failed: %s", error.message)
        context.fail(code_name(error), error.reason, error)
    except Exception as error:
        if is_out_of_memory(error):
            memory = _translate(MemoryError())
            assert isinstance(memory, ParfocalError)
            context.fail(code_name(memory), memory.reason, memory)
            return False
        _log.exception("the job failed by a defect")
        context.fail(
            "INTERNAL",
            "INTERNAL",
            f"Parfocal failed in a way it should not ({type(error).__name__}). This is a defect, not your mistake; "
            f"please report it with the job {context.job.id} and the worker's log{log_file()}.",
        )
    else:
        context.succeed()
        return True
    return False


def log_file() -> str:
    """Return where the log of this process is if it goes to a file, as " (/path on host)"; else nothing."""
    try:
        path = Path("/proc/self/fd/2").readlink()
    except OSError:  # no Linux
        return ""
    return f" ({path} on {platform.node()})" if path.is_file() else ""


def is_out_of_memory(error: Exception) -> bool:
    """Return whether a framework ran out of memory."""
    # The frameworks' own classes cannot be imported here.
    return type(error).__name__ in {"ResourceExhaustedError", "OutOfMemoryError"}


def _translate(error: OSError | MemoryError) -> Exception:
    if isinstance(error, MemoryError):
        return OutOfMemoryError(
            "The work needs more memory than there is. Try a smaller batch_size, patch_size or tile_size."
        )
    return translate_disk_error(error)
