"""A lull: nothing is killed, nothing new is asked for, and every job that is stored has to end.

Restarts of a service hide jobs that it has forgotten, because it reads all of them anew when it starts. So a run has
lulls in between, and what a lull finds stuck counts even if a restart heals it afterwards.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from chaos.arena import Arena
from chaos.clients import Clients
from chaos.faults import Faults
from chaos.journal import Journal
from chaos.watching import Watching
from chaos.workers import Lookout
from parfocal.runtime.jobs.records import FINAL_STATES, state_name

BUSY_SECONDS = 5.0
"""How long clients go on when the last fault is over: what they leave behind then is healed by no restart."""
STUCK_SECONDS = 20.0
"""Jobs are stuck if none of them has a worker for this time."""
LONGEST_SECONDS = 150.0
"""A lull ends after this time although there are workers."""
HEALING_SECONDS = 45.0


@dataclass
class Stuck:
    """Jobs that did not end in a lull, by id with the state they were in, and those that a restart has healed."""

    states: dict[str, str] = field(default_factory=dict)
    healed: set[str] = field(default_factory=set)


class Lulls:
    """Holds lulls and remembers what was stuck in any of them."""

    def __init__(
        self,
        arena: Arena,
        clients: Clients,
        watching: Watching,
        faults: Faults,
        lookout: Lookout,
        journal: Journal,
    ) -> None:
        self._arena, self._clients, self._watching = arena, clients, watching
        self._faults, self._lookout, self._journal = faults, lookout, journal
        self._ended: set[str] = set()
        self.stuck = Stuck()

    def hold(self) -> None:
        """Wait until every stored job has ended; restart the service if some are stuck. Clients are paused then."""
        self._faults.wait_for_store()
        self._arena.revive()
        time.sleep(BUSY_SECONDS)
        self._clients.pause()
        left = self._wait(STUCK_SECONDS, LONGEST_SECONDS)
        self._journal.note("a lull", loud=True, jobs_ended=len(self._ended), stuck=len(left))
        if left:
            self.stuck.states |= left
            self._arena.kill(self._arena.main)
            self._arena.start(self._arena.main)
            still = self._wait(HEALING_SECONDS, HEALING_SECONDS)
            self.stuck.healed |= set(left) - set(still)
            self._watching.give_up(set(still))
            self._journal.note("restarted the service", loud=True, healed=len(left) - len(still), of=len(left))
        self._watching.wait(self._ended, 20.0)

    def _wait(self, idle: float, longest: float) -> dict[str, str]:
        """Return the state of what has not ended when all is idle for a time, or after the longest time."""
        begin = time.monotonic()
        while left := self._not_ended():
            waited = time.monotonic() - begin
            if min(self._lookout.idle_seconds, waited) > idle or waited > longest:
                break
            time.sleep(0.5)
        return left

    def _not_ended(self) -> dict[str, str]:
        jobs, left = self._arena.jobs, {}
        for job in self._arena.store.folders(self._arena.store.jobs / "default"):
            if job in self._ended:
                continue
            state = jobs.read("default", job).job.state
            if state in FINAL_STATES:
                self._ended.add(job)
            else:
                left[job] = state_name(state)
        return left
