"""How much more a project may store.

It is reserved before a request is signed, so that uploads at the same time do not add up to more than the limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

from parfocal.catalog.entries import each
from parfocal.catalog.places import KINDS, Kind
from parfocal.runtime.errors import QuotaError
from parfocal.runtime.store.store import Location, Store

_MEASURED_SECONDS: Final = 60.0
_GIB: Final = 2**30


@dataclass
class _Known:
    """What a project has stored, when that was measured, and what was announced, when, that was not there by then."""

    measured_at: float = float("-inf")
    stored: int = 0
    announced: dict[Location, tuple[float, int]] = field(default_factory=dict)


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

    def reserve(self, project: str, sizes: Mapping[Location, int], limit_gib: float | None) -> None:
        """Note files that will be sent, with their sizes in bytes; one that is announced again counts once.

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
                self._measure(project, known, now)
            announced = sum(size for place, (_, size) in known.announced.items() if place not in sizes)
            further = sum(sizes.values())
            if known.stored + announced + further > limit_gib * _GIB:
                raise QuotaError(
                    f"The project {project!r} stores {known.stored / _GIB:.2f} GiB, and {announced / _GIB:.2f} GiB are "
                    f"on their way; with {further / _GIB:.2f} GiB more it would exceed its {limit_gib:g} GiB. Delete "
                    "what is no longer needed (its files go after the retention), or ask whoever runs Parfocal for "
                    "more."
                )
            known.announced |= {place: (now, size) for place, size in sizes.items()}

    def _measure(self, project: str, known: _Known, now: float) -> None:
        # What was announced so long ago will never come.
        known.announced = {place: item for place, item in known.announced.items() if now - item[0] < self._lasts}

        def stored(kind: Kind) -> int:
            total = 0
            for item in self._store.objects(kind.root(self._store) / project):
                total += item.size
                known.announced.pop(item.location, None)
            # Of a file that is on its way all is counted, whatever parts of it have come.
            parts = self._store.unfinished(kind.root(self._store) / project)
            return total + sum(size for place, size in parts if place not in known.announced)

        known.stored = sum(each(stored, KINDS))
        known.measured_at = now
