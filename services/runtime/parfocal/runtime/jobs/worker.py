"""The worker: `python -m parfocal.runtime.jobs.worker MODULE PROJECT JOB --attempt N` does one attempt of one job.

It reads everything it needs from the store and reports there; it needs nothing else from whoever started it. Its exit
code says only whether the job's record tells how it ended (0), or why it does not (`parfocal.runtime.jobs.exits`).
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import threading

from parfocal.runtime.errors import (
    CancelledError,
    OutOfMemoryError,
    ParfocalError,
    StaleWorkerError,
    UnavailableError,
)
from parfocal.runtime.jobs.context import PATIENCE_SECONDS, JobContext
from parfocal.runtime.jobs.exits import SERVICE_GONE, STORE_AWAY
from parfocal.runtime.jobs.records import JobStore
from parfocal.runtime.logs import configure_logging
from parfocal.runtime.methods.service import load_object, load_service
from parfocal.runtime.rpc_errors import code_name
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.housekeeping import own_folder
from parfocal.runtime.store.patient import PatientStore
from parfocal.runtime.store.store import translate_disk_error

_log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Do one attempt of one job; return the exit code."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("module")
    parser.add_argument("project")
    parser.add_argument("job_id")
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--lifeline", type=int, default=-1)
    options = parser.parse_args(arguments)
    if options.lifeline >= 0:
        threading.Thread(target=_end_with, args=(options.lifeline,), name="lifeline", daemon=True).start()
    configure_logging(job=options.job_id, attempt=options.attempt)
    settings = Settings()
    service = load_service(options.module)
    store = PatientStore(settings, PATIENCE_SECONDS)
    try:
        job = JobStore(store).read(options.project, options.job_id).job
        if job.attempt != options.attempt:
            _log.error("the job is in attempt %d; this worker of attempt %d ends", job.attempt, options.attempt)
            return 0
        folder = own_folder(settings.state_folder / "scratch", f"{job.id}-")
        try:
            run(JobContext(service, store, job, folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except UnavailableError as error:
        _log.error("the end of the job could not be recorded: %s", error)
        return STORE_AWAY
    return 0


def run(context: JobContext) -> None:
    """Do the work of a job and record how it ended."""
    try:
        try:
            load_object(context.work.run)(context)
        except (OSError, MemoryError) as error:
            raise _translate(error) from error
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
            return
        _log.exception("the job failed by a defect")
        context.fail(
            "INTERNAL",
            "INTERNAL",
            f"Parfocal failed in a way it should not ({type(error).__name__}). This is a defect, not your mistake; "
            f"please report it with the job {context.job.id} and the worker's log.",
        )
    else:
        context.succeed()


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


def _end_with(lifeline: int) -> None:
    """End this process at once when whoever started it is gone: its end of the pipe then closes."""
    os.read(lifeline, 1)
    os._exit(SERVICE_GONE)


if __name__ == "__main__":
    sys.exit(main())
