"""Clients that start jobs: patient ones, and those that go away in the middle of a call.

plain      asks until it is answered
twice      two threads ask for the same at the same time
later      asks, and asks for the same again when the job may be anywhere
dropped    cancels the call within 60 ms once or twice, then asks until it is answered
abandoned  cancels the call within 60 ms and never comes back
in flight  the call is under way when its service or the store is killed; asks again two seconds later
"""

from __future__ import annotations

import random
import threading
import time
from types import MappingProxyType

import grpc

from chaos.arena import Arena
from chaos.journal import Journal
from chaos.watching import Watching
from chaos.work import Book, Request, Work

MODES = MappingProxyType({"plain": 35, "twice": 20, "later": 12, "dropped": 27, "abandoned": 6})
SUBMITTERS = 2
DROP_SECONDS = 0.06
"""An answer takes about as long, so that a call is left before, during and after the admission."""
CALL_SECONDS = 5.0
PATIENCE_SECONDS = 90.0
MAX_PROBLEMS = 5
# A client asks again, at the other instance, after an answer that says "not here, not now" or no answer at all.
PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)


class Clients:
    """Threads that submit at random while the gate is open and fewer than `backlog` jobs are under way."""

    def __init__(
        self, arena: Arena, work: Work, book: Book, watching: Watching, journal: Journal, *, seed: str, backlog: int
    ) -> None:
        self._arena, self._work, self._book = arena, work, book
        self._watching, self._journal = watching, journal
        self._backlog = backlog
        self._gate = threading.Event()
        self._stop = threading.Event()
        self._at_work = [threading.Lock() for _ in range(SUBMITTERS)]
        self._submitters = [
            threading.Thread(target=self._submit, args=(number, random.Random(f"{seed} client {number}")), daemon=True)
            for number in range(SUBMITTERS)
        ]
        self._repeats: list[threading.Thread] = []
        self._in_flight = 0

    def __enter__(self) -> Clients:
        for thread in self._submitters:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._gate.set()
        for thread in [*self._submitters, *self._repeats]:
            thread.join(2 * CALL_SECONDS)

    def go_on(self) -> None:
        """Let the submitters submit."""
        self._gate.set()

    def pause(self) -> None:
        """Let the submitters finish what they are at, and nothing more; return when they have."""
        self._gate.clear()
        for lock in self._at_work:
            with lock:
                pass
        for thread in self._repeats:
            thread.join()
        self._repeats.clear()

    def ask(self, request: Request) -> None:
        """Send a request to one instance after the other until a job is the answer."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        turn = 0
        while time.monotonic() < deadline and not self._stop.is_set():
            name = (self._arena.main, self._arena.other)[turn % 2]
            turn += 1
            if not self._arena.is_started(name):
                time.sleep(0.1)
                continue
            try:
                job = self._arena.stubs[name].StartJob(request.message, timeout=CALL_SECONDS).job
            except grpc.RpcError as error:
                if error.code() not in PASSING:
                    request.problems.append(f"refused, {error.code().name}: {error.details()}")
                    self._journal.note("refused", job=request.id, code=error.code().name, text=error.details())
                    if len(request.problems) >= MAX_PROBLEMS:
                        return
                time.sleep(0.25)
                continue
            if self._book.answered(request, job):
                self._watching.follow(request.id)
            return
        if not self._stop.is_set():
            request.problems.append(f"not answered within {PATIENCE_SECONDS:.0f} s")

    def send_and_repeat(self, rng: random.Random) -> Request:
        """Send a request whose service or store is about to be killed; it is repeated two seconds later."""
        self._in_flight += 1
        request = self._work.any(f"flight-{self._in_flight:04d}", "in flight", rng)
        self._book.add(request)
        self._arena.stubs[self._arena.main].StartJob.future(request.message, timeout=CALL_SECONDS)
        time.sleep(rng.uniform(0, DROP_SECONDS))

        def repeat() -> None:
            if not self._stop.wait(2.0):
                self.ask(request)

        self._repeats.append(threading.Thread(target=repeat, daemon=True))
        self._repeats[-1].start()
        return request

    def _submit(self, submitter: int, rng: random.Random) -> None:
        number = 0
        while not self._stop.is_set():
            self._gate.wait()
            if self._watching.under_way() < self._backlog:
                with self._at_work[submitter]:
                    if self._gate.is_set() and not self._stop.is_set():
                        number += 1
                        self._behave(f"job-{submitter}-{number:04d}", rng)
            self._stop.wait(rng.uniform(0.05, 0.6))

    def _behave(self, request_id: str, rng: random.Random) -> None:
        mode = rng.choices(list(MODES), list(MODES.values()))[0]
        request = self._work.any(request_id, mode, rng)
        self._book.add(request)
        if mode == "twice":
            twin = threading.Thread(target=self.ask, args=(request,), daemon=True)
            twin.start()
            self.ask(request)
            twin.join()
        elif mode == "later":
            self.ask(request)
            self._stop.wait(rng.uniform(0, 2))
            self.ask(request)
        elif mode == "dropped":
            for _ in range(rng.randint(1, 2)):
                self._drop(request, rng)
                self._stop.wait(rng.uniform(0, 1.5))
            self.ask(request)
        elif mode == "abandoned":
            self._drop(request, rng)
        else:
            self.ask(request)

    def _drop(self, request: Request, rng: random.Random) -> None:
        call = self._arena.stubs[self._arena.main].StartJob.future(request.message, timeout=CALL_SECONDS)
        time.sleep(rng.uniform(0, DROP_SECONDS))
        call.cancel()
