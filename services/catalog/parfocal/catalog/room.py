"""How much more a project may store.

It is reserved before a request is signed, so that uploads at the same time do not add up to more than the limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

from parfocal.catalog.entries import each
from parfocal.catalog.places import KINDS
from parfocal.catalog.usage import usage_of
from parfocal.runtime.errors import QuotaError
from parfocal.runtime.store.store import Store

_MEASURED_SECONDS: Final = 60.0
_GIB: Final = 2**30


@dataclass
class _Known:
    """What a project has stored, when that was measured, and what was announced since a moment before."""

    measured_at: float = float("-inf")
    stored: int = 0
    announced: list[tuple[float, int]] = field(default_factory=list)


class Room:
    """Counts what projects store. Several instances know of each other's uploads within a minute.

    Parameters
    ----------
    store
        Where it is measured.
    lasts
        Seconds for which something announced may not be in the store yet: those of a signed request.
    """

    def __init__(self, store: Store, lasts: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._lasts = lasts
        self._clock = clock
        self._projects: dict[str, _Known] = {}
        self._lock = Lock()

    def reserve(self, project: str, size: int, limit_gib: float | None) -> None:
        """Note that `size` bytes will be sent.

        Raises
        ------
        QuotaError
            The project would store more than its limit; nothing is noted.
        """
        if limit_gib is None:
            return
        with self._lock:
            known = self._projects.setdefault(project, _Known())
            now = self._clock()
            if now - known.measured_at > _MEASURED_SECONDS:
                known.stored = sum(each(lambda kind: usage_of(self._store, kind, project).bytes, KINDS))
                # What was announced before the last measurement is in it by now, or will never come.
                known.announced = [item for item in known.announced if now - item[0] < self._lasts]
                known.measured_at = now
            announced = sum(amount for _, amount in known.announced)
            if known.stored + announced + size > limit_gib * _GIB:
                raise QuotaError(
                    f"The project {project!r} stores {known.stored / _GIB:.2f} GiB, and {announced / _GIB:.2f} GiB are "
                    f"on their way; with {size / _GIB:.2f} GiB more it would exceed its {limit_gib:g} GiB. Delete what "
                    "is no longer needed (its files go after the retention), or ask whoever runs Parfocal for more."
                )
            known.announced.append((now, size))
