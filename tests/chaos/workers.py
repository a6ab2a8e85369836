"""Workers as the machine sees them: found by their command line, owned by this run if they use its store."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

WORKER_MODULE = "parfocal.runtime.jobs.worker"
LOOK_SECONDS = 0.25
ORPHAN_SECONDS = 5.0
"""A worker ends with its service, at once on an idle machine; after this time it is an orphan."""
_STOP_TRIES = 200


@dataclass(frozen=True)
class LiveWorker:
    """One running worker process; `process` also knows when it started, so its number is never taken for another.

    Job and attempt are what it is at, or what it was at last if it is a spare worker that waits.
    """

    process: psutil.Process
    parent: int
    job: str
    attempt: int

    def kill(self) -> LiveWorker:
        """Send SIGKILL; return what it was at then, for it may have gone on to another job since it was found.

        Raises
        ------
        psutil.NoSuchProcess
            It has ended before.
        """
        self.process.suspend()
        for _ in range(_STOP_TRIES):
            if self.process.status() == psutil.STATUS_STOPPED:
                break
            time.sleep(0.01)
        job, attempt = _work_of(self.process)
        self.process.kill()
        return replace(self, job=job, attempt=attempt)


def live_workers(endpoint: str) -> list[LiveWorker]:
    """Return the running (or stopped) workers that use the store at `endpoint`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if WORKER_MODULE not in words or process.environ().get("PARFOCAL_S3_ENDPOINT") != endpoint:
                continue
            found.append(LiveWorker(process, process.ppid(), *_work_of(process)))
    # A worker that starts a program has, for a moment, a child with its own command line.
    known = {worker.process.pid for worker in found}
    return [worker for worker in found if worker.parent not in known]


def _work_of(process: psutil.Process) -> tuple[str, int]:
    """Return job and attempt that a worker is at: its log, to which it writes, is called JOB-ATTEMPT.log."""
    try:
        job, _, attempt = Path(f"/proc/{process.pid}/fd/1").readlink().stem.rpartition("-")
        return job, int(attempt)
    except (OSError, ValueError) as error:  # it has just ended, or is a program that a worker has just started
        raise psutil.NoSuchProcess(process.pid) from error


class Lookout:
    """Looks at the workers a few times a second and remembers what must not be.

    Attributes
    ----------
    seen
        By job and attempt, the processes that worked on it.
    orphans
        Workers that outlived their service.
    """

    def __init__(self, look: Callable[[], list[LiveWorker]], services: Callable[[], set[int]]) -> None:
        self._look, self._services = look, services
        self.seen: dict[tuple[str, int], set[psutil.Process]] = defaultdict(set)
        self.orphans: dict[psutil.Process, LiveWorker] = {}
        self._alone_since: dict[psutil.Process, float] = {}
        self._busy_at = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lookout", daemon=True)

    def __enter__(self) -> Lookout:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def idle_seconds(self) -> float:
        """Seconds for which no worker has been seen."""
        return time.monotonic() - self._busy_at

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            self._note(self._look(), self._services(), time.monotonic())

    def _note(self, workers: list[LiveWorker], services: set[int], now: float) -> None:
        if workers:
            self._busy_at = now
        for worker in workers:
            self.seen[worker.job, worker.attempt].add(worker.process)
            if worker.parent in services:
                continue
            since = self._alone_since.setdefault(worker.process, now)
            if now - since > ORPHAN_SECONDS:
                self.orphans[worker.process] = worker
