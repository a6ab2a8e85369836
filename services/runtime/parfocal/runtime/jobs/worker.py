"""The worker: `python -m parfocal.runtime.jobs.worker MODULE PROJECT JOB --attempt N` does one attempt of one job.

It reads everything it needs from the store and reports there; it needs nothing else from whoever started it. Its exit
code says only whether the job's record tells how it ended (0), or why it does not (`parfocal.runtime.jobs.exits`).

With `--spare` it stays when its job has succeeded, and waits for the next one (`parfocal.runtime.jobs.handover`). Each
job has its own log, scratch folder and connection to the store; what stays is what the job's code keeps for its like.

Where that is possible, a worker is not started but forked (`parfocal.runtime.jobs.fork_server`).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import queue
import socket
import sys
import threading
from typing import NoReturn

from parfocal.runtime import traces
from parfocal.runtime.jobs.exits import SERVICE_GONE
from parfocal.runtime.jobs.handover import FREE, TAKEN, Assignment, receive

# The service ends its spare workers itself, a little earlier, unless it does not run.
_LATER_SECONDS = 5.0


def main(arguments: list[str] | None = None) -> int:
    """Do one attempt of one job, and then those that are handed over; return the exit code."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("module")
    parser.add_argument("project")
    parser.add_argument("job_id")
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--lifeline", type=int, default=-1, help="socket that ends with the service")
    parser.add_argument("--device", type=int, action="append", default=[], help="file that is the device's loan")
    parser.add_argument("--spare", type=float, default=0.0, help="seconds to wait for another job; 0: end instead")
    options = parser.parse_args(arguments)
    jobs: queue.SimpleQueue[tuple[Assignment, list[int]]] = queue.SimpleQueue()
    line = socket.socket(fileno=options.lifeline) if options.lifeline >= 0 else None
    if line is not None:
        threading.Thread(target=_listen, args=(line, jobs), name="lifeline", daemon=True).start()
    # Loaded only now: that takes seconds, in which the service may die.
    from parfocal.runtime.jobs.attempt import work

    assignment, loan = Assignment(options.project, options.job_id, options.attempt), options.device
    while True:
        ended = work(options.module, *assignment, loan)
        # What went wrong may have left something behind that a new process does not have.
        if line is None or not options.spare or not ended.succeeded:
            return ended.code
        gc.collect()
        for file in loan:
            os.close(file)
        _say(line, FREE)
        try:
            assignment, (log, *loan) = jobs.get(timeout=options.spare + _LATER_SECONDS)
        except queue.Empty:
            return ended.code
        _write_to(log)
        _say(line, TAKEN)


def _listen(line: socket.socket, jobs: queue.SimpleQueue[tuple[Assignment, list[int]]]) -> None:
    """Pass jobs on, and end this process at once when whoever started it is gone: the other end then closes."""
    while (job := receive(line)) is not None:
        jobs.put(job)
    os._exit(SERVICE_GONE)


def _say(line: socket.socket, what: bytes) -> None:
    with contextlib.suppress(ConnectionError):  # the service is gone: the lifeline ends this process
        line.sendall(what)


def _write_to(log: int) -> None:
    """Let all output of this process go to the log of its new job."""
    sys.stdout.flush()
    sys.stderr.flush()
    for standard in (1, 2):
        os.dup2(log, standard)
    os.close(log)


def run(arguments: list[str] | None = None) -> NoReturn:
    """Do what `main` does, and end this process."""
    code = main(arguments)
    traces.finish()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # All is recorded. To take a framework apart takes a second or two, in which the next job would wait for the
    # device.
    os._exit(code)


if __name__ == "__main__":
    run()
