"""Clients that watch jobs, over streams that break all the time: every event must arrive exactly once.

Every second job is watched through `parfocal.client`, the others by raw streams to a random instance, each for a few
seconds.
"""

from __future__ import annotations

import random
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from types import FrameType

import grpc

from chaos.arena import Arena
from parfocal import v1
from parfocal.client.services import Service
from parfocal.client.watching import watch
from parfocal.runtime.errors import ParfocalError
from parfocal.runtime.jobs.records import FINAL_STATES

PATIENCE_SECONDS = 120.0
# What a stream ends with when its server is killed or the connection is lost.
BROKEN = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
    }
)


@dataclass
class Watched:
    """What the watcher of one job was told.

    Attributes
    ----------
    by
        "client" or "raw".
    sequences
        Numbers of the events in the order in which they came.
    last_sequence
        Number of the last event of the ended job; None until the watcher knows that it has ended.
    problems
        Errors that no watcher should get.
    """

    by: str
    sequences: list[int] = field(default_factory=list)
    last_sequence: int | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def newest(self) -> int:
        """Number of the newest event that came; 0 before the first."""
        return self.sequences[-1] if self.sequences else 0

    @property
    def is_done(self) -> bool:
        """Whether the job has ended and its last event has come."""
        return self.last_sequence is not None and self.newest >= self.last_sequence

    def take(self, report: v1.WatchJobResponse) -> None:
        """Write down one report."""
        if report.HasField("event"):
            self.sequences.append(report.event.sequence)
        if report.job.state in FINAL_STATES:
            self.last_sequence = report.job.last_sequence


class Watching:
    """One watcher, a thread, for every job that was accepted."""

    def __init__(self, arena: Arena, *, seed: str) -> None:
        self._arena, self._seed = arena, seed
        self._services = [Service(instance.address) for instance in arena.instances.values()]
        self._lock = threading.Lock()
        self._watched: dict[str, Watched] = {}
        self._threads: list[threading.Thread] = []
        self._given_up: set[str] = set()
        self._stop = threading.Event()

    def __enter__(self) -> Watching:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for service in self._services:
            service.close()
        for thread in self._threads:
            thread.join(5.0)

    def follow(self, job: str) -> None:
        """Watch a job to its end."""
        with self._lock:
            watched = self._watched[job] = Watched("client" if len(self._watched) % 2 else "raw")
            thread = threading.Thread(target=self._follow, args=(job, watched), name=f"watch {job}", daemon=True)
            self._threads.append(thread)
        thread.start()

    def watched(self) -> dict[str, Watched]:
        """Return all that is watched, by job."""
        with self._lock:
            return dict(self._watched)

    def give_up(self, jobs: set[str]) -> None:
        """No longer count jobs as under way, because they are stuck."""
        with self._lock:
            self._given_up |= jobs

    def under_way(self) -> int:
        """Return how many jobs are watched that have not ended."""
        with self._lock:
            return sum(not watched.is_done for job, watched in self._watched.items() if job not in self._given_up)

    def wait(self, jobs: set[str], seconds: float) -> None:
        """Wait until the watchers of these jobs, which have ended, have seen it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if all(watched.is_done for job, watched in self.watched().items() if job in jobs):
                return
            time.sleep(0.1)

    def waiting(self) -> str:
        """Return where the threads stand that have not yet seen their job end, with their streams' numbers."""
        frames, lines = sys._current_frames(), []
        for thread in self._threads:
            job = thread.name.removeprefix("watch ")
            if self._watched[job].is_done or thread.ident not in frames:
                continue
            frame: FrameType | None = frames[thread.ident]
            lines += [f"{job}: {self._watched[job].newest} events\n", *traceback.format_stack(frame)]
            while frame is not None:
                known = {name: frame.f_locals.get(name) for name in ("after", "turn", "pause", "answered", "stream")}
                lines += [f"{frame.f_code.co_name}: {known}\n"] if known["turn"] is not None else []
                frame = frame.f_back
        return "".join(lines)

    def _follow(self, job: str, watched: Watched) -> None:
        rng = random.Random(f"{self._seed} watcher of {job}")
        while not self._stop.is_set() and not watched.is_done:
            try:
                if watched.by == "client":
                    for report in watch(self._services, "default", job, watched.newest, PATIENCE_SECONDS):
                        watched.take(report)
                else:
                    request = v1.WatchJobRequest(job_id=job, after_sequence=watched.newest)
                    stub = self._arena.stubs[rng.choice(sorted(self._arena.stubs))]
                    for report in stub.WatchJob(request, timeout=rng.uniform(2, 15)):
                        watched.take(report)
            except grpc.RpcError as error:
                if error.code() not in BROKEN:
                    watched.problems.append(f"{error.code().name}: {error.details()}")
            except ParfocalError as error:
                watched.problems.append(f"{type(error).__name__}: {error.message}")
            except ValueError:
                if not self._stop.is_set():  # else the channel was closed under the call
                    raise
            self._stop.wait(rng.uniform(0.1, 0.5))
