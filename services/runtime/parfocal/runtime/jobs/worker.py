"""The worker: `python -m parfocal.runtime.jobs.worker MODULE PROJECT JOB --attempt N` does one attempt of one job.

It reads everything it needs from the store and reports there; it needs nothing else from whoever started it. Its exit
code says only whether the job's record tells how it ended (0), or why it does not (`parfocal.runtime.jobs.exits`).
"""

from __future__ import annotations

import argparse
import os
import sys
import threading

from parfocal.runtime.jobs.exits import SERVICE_GONE


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
    # Loaded only now: that takes seconds, in which the service may die.
    from parfocal.runtime.jobs.attempt import work

    return work(options.module, options.project, options.job_id, options.attempt)


def _end_with(lifeline: int) -> None:
    """End this process at once when whoever started it is gone: its end of the pipe then closes."""
    os.read(lifeline, 1)
    os._exit(SERVICE_GONE)


if __name__ == "__main__":
    sys.exit(main())
