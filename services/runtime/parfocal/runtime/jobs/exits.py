"""How workers end, in terms that every launcher and the controller share."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

SERVICE_GONE: Final = 3
"""Exit code of a worker whose service is gone."""
HANDED_OVER: Final = 4
"""Exit code of a worker that has handed its device over to other work, after a checkpoint."""
STORE_AWAY: Final = 75
"""Exit code of a worker that has waited for the store in vain (`EX_TEMPFAIL` of sysexits.h)."""


class ExitKind(enum.Enum):
    """Why a worker runs no more."""

    FINISHED = "finished"
    """It ended regularly: the job's record should say how."""
    DIED = "died"
    """It died by itself; three of these fail a job."""
    KILLED = "killed"
    """Its machine killed it, most likely for want of memory, which others may have used; three of these fail a job."""
    INTERRUPTED = "interrupted"
    """Something else ended it, such as the end of its service or a store that is away: it does not count."""
    NOT_STARTED = "not started"
    """It could not be started."""
    OUT_OF_MEMORY = "out of memory"
    """It exceeded its own memory limit. It is tried once more, because the rest of the machine may have had a part."""
    DISK_FULL = "disk full"
    """It exceeded its own limit of local disk space. It is tried once more."""
    EVICTED = "evicted"
    """Its node was drained, failed or ran short of something: it does not count."""
    PREEMPTED = "preempted"
    """It gave way to work of a higher priority: it does not count."""
    HANDED_OVER = "handed over"
    """It handed its device over to shorter work after a checkpoint: it does not count."""
    NO_IMAGE = "no image"
    """Its container could not be made, most often because the image cannot be pulled."""
    UNSCHEDULABLE = "unschedulable"
    """No node had room for it in all the time that it may take."""
    DEADLINE = "deadline"
    """It ran for as long as the administrator allows."""


LOSSES: Final[Mapping[ExitKind, int]] = {
    ExitKind.FINISHED: 1,
    ExitKind.DIED: 1,
    ExitKind.KILLED: 1,
    ExitKind.OUT_OF_MEMORY: 2,
    ExitKind.DISK_FULL: 2,
}
"""What an exit without a result counts towards the losses (`MAX_LOST_WORKERS`) that fail a job; others count 0."""


@dataclass(frozen=True)
class Failure:
    """Why a job is not tried again: the code and reason of its error, and what to do in a sentence."""

    code: str
    reason: str
    cure: str


FAILURES: Final[Mapping[ExitKind, Failure]] = {
    ExitKind.NO_IMAGE: Failure(
        "UNAVAILABLE",
        "NO_IMAGE",
        "This is for the administrator: check the name of the image, its registry and the pull secret.",
    ),
    ExitKind.NOT_STARTED: Failure(
        "UNAVAILABLE", "NOT_STARTED", "This is for the administrator: the log of the service has the whole answer."
    ),
    ExitKind.UNSCHEDULABLE: Failure(
        "UNAVAILABLE", "UNSCHEDULABLE", "Try again when the cluster is less busy, or ask the administrator."
    ),
    ExitKind.DEADLINE: Failure(
        "DEADLINE_EXCEEDED",
        "DEADLINE",
        "The limit is PARFOCAL_KUBERNETES_DEADLINE_SECONDS; ask the administrator if the work needs longer.",
    ),
}
"""The exits after which the same would happen again: their jobs fail at once."""
_MEMORY: Final = Failure("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY", "")
WORN_OUT: Final[Mapping[ExitKind, Failure]] = {
    ExitKind.KILLED: _MEMORY,
    ExitKind.OUT_OF_MEMORY: _MEMORY,
    ExitKind.DISK_FULL: Failure(
        "RESOURCE_EXHAUSTED", "DISK_FULL", "Use fewer or smaller images, or ask the administrator for more room. "
    ),
}
"""How jobs fail that were tried again in vain; all others as `LOST`."""
LOST: Final = Failure("ABORTED", "WORKER_LOST", "")


@dataclass(frozen=True)
class Exit:
    """How a worker ended: the kind, and the words for people, e.g. "was ended by signal SIGSEGV"."""

    kind: ExitKind
    detail: str = "ended without a result"


@dataclass(frozen=True)
class Waiting:
    """A worker that has not begun.

    Attributes
    ----------
    what
        In a few words that stay the same while it waits, e.g. "waiting for a GPU".
    detail
        More of it, e.g. "number 3 in the queue"; may change every few seconds.
    """

    what: str
    detail: str = ""

    def __str__(self) -> str:
        """Return it as a sentence without its full stop."""
        return f"{self.what}: {self.detail}" if self.detail else self.what
