"""The queue of a service: in which order its jobs get a worker, and what those that wait are told."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from parfocal import v1
from parfocal.runtime.jobs.device.use import Holder, Use
from parfocal.runtime.methods.service import Resources

Key = tuple[str, str]
"""Project and id of a job."""


@dataclass(frozen=True)
class Queued:
    """A job that waits for a worker.

    Attributes
    ----------
    created_ns
        When it was admitted, in nanoseconds since 1970.
    project, job_id, attempt, user
        Which job it is, how many attempts it has had, and whose it is.
    use
        What a device is wanted for.
    resources
        What it needs.
    since_ns
        Since when it waits here.
    """

    created_ns: int
    project: str
    job_id: str
    attempt: int
    user: str
    use: Use
    resources: Resources
    since_ns: int = field(default_factory=time.time_ns, compare=False)

    @classmethod
    def of(cls, job: v1.Job, use: Use, resources: Resources) -> Queued:
        """Return a job as one of the queue."""
        created = job.created_at.ToNanoseconds()
        return cls(created, job.project, job.id, job.attempt, job.created_by, use, resources)

    @property
    def key(self) -> Key:
        """Project and id."""
        return self.project, self.job_id


class Queue:
    """The jobs that wait for a worker.

    Short work goes first as long as it has not used up its share, and what has begun goes on before new jobs of its
    kind. Then it is the turn of the project, and in it of the user, whose last job was started longest ago. Who had
    which turn is forgotten with the service.
    """

    def __init__(self) -> None:
        self._items: dict[Key, Queued] = {}
        self._numbers = count(1)
        self._turns: dict[tuple[str, ...], int] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: Key) -> bool:
        return key in self._items

    def __iter__(self) -> Iterator[Queued]:
        return iter(self._items.values())

    def put(self, item: Queued) -> None:
        """Add a job, or renew what is known of it."""
        self._items[item.key] = item

    def drop(self, key: Key) -> None:
        """Remove a job, if it is there."""
        self._items.pop(key, None)

    def take(self, item: Queued) -> None:
        """Remove a job that has its turn now."""
        self.drop(item.key)
        number = next(self._numbers)
        self._turns[item.project,] = self._turns[item.project, item.user] = number

    def clear(self) -> None:
        """Remove all jobs."""
        self._items.clear()

    def in_order(self, *, short_first: bool) -> list[Queued]:
        """Return the jobs, the next one first."""

        def place(item: Queued) -> tuple[Any, ...]:
            turns = self._turns.get((item.project,), 0), self._turns.get((item.project, item.user), 0)
            return item.use.short is not short_first, not item.use.begun, *turns, item.created_ns, item.key

        return sorted(self._items.values(), key=place)


def waits_for(
    item: Queued, before: int, holders: Sequence[Holder], running: Sequence[Use], *, short_first: bool
) -> str:
    """Return in words what a job of the queue waits for, and about how long.

    Parameters
    ----------
    item
        The job.
    before
        How many jobs of the queue get a worker before it.
    holders
        Who has the devices, whoever is done soonest first.
    running
        What the service itself is doing.
    short_first
        Whether short work goes before trainings now.
    """
    hands_over = item.use.short and short_first
    reasons = [holder.words(item.project, hands_over=hands_over) for holder in holders if item.resources.gpu]
    if not reasons:
        reasons = [f"{use.words(item.project)} is running" for use in running]
    if before:
        reasons.append(f"{before} {'job' if before == 1 else 'jobs'} of this service will be started first")
    text = ": ".join(filter(None, ("waiting for its turn", "; ".join(reasons))))
    return f"{text}; then it goes on" if item.attempt else text
