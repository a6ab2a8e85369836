"""Workers as the machine sees them: found by their command line, owned by this run if they use its store."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import psutil

WORKER_MODULE = "parfocal.runtime.jobs.worker"
LOOK_SECONDS = 0.25
ORPHAN_SECONDS = 3.0
"""A worker ends with its service, at once; after this time it is an orphan."""


@dataclass(frozen=True)
class LiveWorker:
    """One running worker process; `process` also knows when it started, so its number is never taken for another."""

    process: psutil.Process
    parent: int
    job: str
    attempt: int


def live_workers(endpoint: str) -> list[LiveWorker]:
    """Return the running (or stopped) workers that use the store at `endpoint`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if WORKER_MODULE not in words or process.environ().get("PARFOCAL_S3_ENDPOINT") != endpoint:
                continue
            # … -m parfocal.runtime.jobs.worker MODULE PROJECT JOB --attempt N …
            job, attempt = words[words.index(WORKER_MODULE) + 3], int(words[words.index("--attempt") + 1])
            found.append(LiveWorker(process, process.ppid(), job, attempt))
    return found


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
