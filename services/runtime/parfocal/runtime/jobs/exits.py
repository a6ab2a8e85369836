"""How workers end, in terms that every launcher and the controller share."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

SERVICE_GONE: Final = 3
"""Exit code of a worker whose service is gone."""
STORE_AWAY: Final = 75
"""Exit code of a worker that has waited for the store in vain (`EX_TEMPFAIL` of sysexits.h)."""


class ExitKind(enum.Enum):
    """Why a worker runs no more."""

    FINISHED = "finished"
    """It ended regularly: the job's record should say how."""
    DIED = "died"
    """It died by itself; three of these fail a job."""
    INTERRUPTED = "interrupted"
    """Something else ended it, such as the end of its service or a store that is away: it does not count."""
    NOT_STARTED = "not started"
    """It could not be started."""


@dataclass(frozen=True)
class Exit:
    """How a worker ended: the kind, and the words for people, e.g. "was ended by signal SIGSEGV"."""

    kind: ExitKind
    detail: str = "ended without a result"
