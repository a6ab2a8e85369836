"""The faults: what is killed or frozen, when, and the record of it.

worker   SIGKILL of one worker while its service lives on
service  SIGKILL of the main instance, which is started again
both     a worker, and at once its service
store    SIGKILL of the store, which is away for about one to five leases while other faults go on
pause    SIGSTOP of the main instance, with or without its workers, until the other one has taken over; after the thaw
         one of the two is killed and the other is the main instance from then on
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType

import psutil

from chaos.arena import Arena
from chaos.clients import Clients
from chaos.journal import Journal
from chaos.workers import LiveWorker

WEIGHTS = MappingProxyType({"worker": 45, "service": 22, "both": 13, "store": 11, "pause": 9})
WORKER_SECONDS = 10.0
"""How long to wait for a worker to kill, or for one that publishes."""
WRITING_SECONDS = 0.8
"""How long a worker of the fake service takes to write its model."""
TAKEOVER_SECONDS = 12.0
"""How long a takeover may take after the lease has run out."""


@dataclass(frozen=True)
class Kill:
    """A worker that was killed by itself.

    Attributes
    ----------
    at
        Seconds since 1970.
    job, attempt
        What it worked on.
    """

    at: float
    job: str
    attempt: int


def order(rng: random.Random) -> Iterator[str]:
    """Yield kinds of faults without end: first each once, so that a short run has all of them, then by weight."""
    kinds = list(WEIGHTS)
    rng.shuffle(kinds)
    yield from kinds
    while True:
        yield from rng.choices(list(WEIGHTS), list(WEIGHTS.values()))


class Faults:
    """Commits faults, one after the other; only the store comes back while others happen.

    Attributes
    ----------
    kills
        The workers that were killed by themselves; those that died with their service are not among them.
    counts
        SIGKILLs of workers, services and the store, and pauses.
    """

    def __init__(self, arena: Arena, clients: Clients, journal: Journal, *, seed: str) -> None:
        self._arena, self._clients, self._journal = arena, clients, journal
        self._rng = random.Random(f"{seed} faults")
        self._order = order(random.Random(f"{seed} order"))
        self._stop = threading.Event()
        self._store_back: threading.Thread | None = None
        self.kills: list[Kill] = []
        self.counts: Counter[str] = Counter()
        self.steps = 0

    def __enter__(self) -> Faults:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._store_back is not None:
            self._store_back.join(10.0)

    @property
    def killed(self) -> int:
        """How many SIGKILLs were sent in all."""
        return self.counts.total() - self.counts["pause"]

    def next(self) -> None:
        """Commit the next fault, after a moment."""
        time.sleep(self._rng.uniform(0.3, 3.0))
        self._arena.revive()
        kind = next(self._order)
        if kind in ("store", "pause"):
            # Nobody could take over without the store.
            self.wait_for_store()
        self.steps += 1
        {
            "worker": self._worker,
            "service": self._service,
            "both": self._both,
            "store": self._store,
            "pause": self._pause,
        }[kind]()

    def wait_for_store(self) -> None:
        """Return when the store is back."""
        if self._store_back is not None:
            self._store_back.join()

    def _worker(self) -> None:
        worker = self._kill_worker()
        if worker is None:
            self._note("found no worker to kill")
        else:
            self._note("killed a worker", job=worker.job, attempt=worker.attempt)

    def _service(self, worker: LiveWorker | None = None) -> None:
        request = self._maybe_request(0.5)
        self._kill_service(self._arena.main)
        if worker is None:
            self._note("killed the service", in_flight=request)
        else:
            self._note("killed a worker and its service", job=worker.job, attempt=worker.attempt, in_flight=request)
        time.sleep(self._rng.uniform(0, 1))
        self._arena.start(self._arena.main)

    def _both(self) -> None:
        self._service(self._kill_worker())

    def _store(self) -> None:
        request = self._maybe_request(0.6)
        self._arena.s3.stop()
        self.counts["store"] += 1
        away = self._arena.lease_seconds * (0.8 + 4.2 * self._rng.random() ** 2)
        self._note("killed the store", away=f"{away:.1f} s", in_flight=request)

        def bring_back() -> None:
            # At the end of a run that was broken off nobody needs it any more.
            if not self._stop.wait(away):
                self._arena.start_store()
                self._journal.note("the store is back")

        self._store_back = threading.Thread(target=bring_back, name="store", daemon=True)
        self._store_back.start()

    def _pause(self) -> None:
        arena, rng = self._arena, self._rng
        paused, other = arena.main, arena.other
        if not arena.is_started(other):
            arena.start(other)
        time.sleep(rng.uniform(0, 1.5))
        with_workers = rng.random() < 0.5
        if with_workers:
            self._wait_for_publishing(paused)
        with arena.frozen(paused, with_workers=with_workers) as stopped:
            self.counts["pause"] += 1
            self._note(f"paused instance {paused}", workers=len(stopped) - 1)
            taken_over = self._wait_for_takeover(other)
            time.sleep(arena.lease_seconds * rng.uniform(0.1, 1))
            if len(stopped) > 1 and rng.random() < 0.5:
                # A worker that goes on before its service has nobody who would end it.
                self._thaw(stopped[1:])
                time.sleep(arena.lease_seconds * rng.uniform(0.1, 1))
        if not taken_over:
            arena.troubles.append(f"nobody took over while instance {paused} was paused (step {self.steps})")
        time.sleep(arena.lease_seconds * rng.uniform(0.5, 1))
        arena.main = other if rng.random() < 0.7 else paused
        self._kill_service(arena.other)
        self._note("the pause is over", main=arena.main, taken_over=taken_over)

    def _wait_for_publishing(self, name: str) -> None:
        """Wait for a worker that writes its model: frozen then, it goes on writing when another one has published."""
        deadline = time.monotonic() + WORKER_SECONDS
        while time.monotonic() < deadline:
            for worker in self._arena.workers(of=name):
                if self._arena.jobs.read("default", worker.job).job.progress.stage == "publishing":
                    time.sleep(self._rng.uniform(0, WRITING_SECONDS))
                    return
            time.sleep(0.05)

    def _wait_for_takeover(self, other: str) -> bool:
        deadline = time.monotonic() + self._arena.lease_seconds + TAKEOVER_SECONDS
        while time.monotonic() < deadline:
            if self._arena.runs_jobs(other):
                return True
            time.sleep(0.2)
        return False

    @staticmethod
    def _thaw(processes: list[psutil.Process]) -> None:
        for process in processes:
            if process.is_running():
                process.resume()

    def _kill_worker(self) -> LiveWorker | None:
        deadline = time.monotonic() + WORKER_SECONDS
        while time.monotonic() < deadline:
            workers = self._arena.workers()
            if workers:
                worker = self._rng.choice(workers)
                time.sleep(self._rng.choice([0, 1.5, 3]) * self._rng.random())
                try:
                    worker = worker.kill()
                except psutil.NoSuchProcess:
                    continue
                self.kills.append(Kill(time.time(), worker.job, worker.attempt))
                self.counts["worker"] += 1
                return worker
            time.sleep(0.05)
        return None

    def _kill_service(self, name: str) -> None:
        self._arena.kill(name)
        self.counts["service"] += 1

    def _maybe_request(self, probability: float) -> str | None:
        if self._rng.random() >= probability:
            return None
        return self._clients.send_and_repeat(self._rng).id

    def _note(self, what: str, **details: object) -> None:
        self._journal.note(what, loud=True, step=self.steps, **details)
