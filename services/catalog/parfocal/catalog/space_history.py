"""What projects kept in the store, day by day, so that it can be said and charged by month."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from parfocal import v1
from parfocal.catalog.entries import Entries
from parfocal.catalog.places import KINDS
from parfocal.catalog.usage import usage_of
from parfocal.runtime.errors import ConflictError, NotFoundError
from parfocal.runtime.store.store import Location

_log = logging.getLogger(__name__)
SPACE: Final = "_space"
"""Folder of a project's results with one object for each month."""


class SpaceHistory:
    """Looks at the size of all projects once a day; safe to use from several instances.

    An object is `{"days": {"2026-11-30": {"dataset": 123, "model": 4, "result": 56}, ...}}`, in bytes.
    """

    def __init__(self, entries: Entries) -> None:
        self._entries = entries
        self._store = entries.store

    def note(self, *, now: datetime | None = None) -> int:
        """Write down what each project keeps today (UTC) where that was not done yet; return for how many it was."""
        day = (now or datetime.now(UTC)).date().isoformat()
        return sum(self._note(project, day) for project in self._entries.projects())

    def months(self, project: str) -> list[v1.MonthlyStorage]:
        """Return the storage of a project by month and kind, oldest first."""
        found = []
        for place in self._places(project):
            sizes = defaultdict(list)
            for day in self._read(place)[0].values():
                for kind in KINDS:
                    sizes[kind].append(int(day.get(kind.word, 0)))
            month = place.name.removesuffix(".json")
            found += [
                v1.MonthlyStorage(
                    month=month,
                    kind=kind.number,
                    mean_bytes=round(sum(each) / len(each)),
                    largest_bytes=max(each),
                    days=len(each),
                )
                for kind, each in sizes.items()
            ]
        return found

    def _note(self, project: str, day: str) -> bool:
        place = self._store.results / project / SPACE / f"{day[:7]}.json"
        try:
            days, etag = self._read(place)
        except NotFoundError:
            days, etag = {}, ""
        if day in days:
            return False
        days[day] = {kind.word: usage_of(self._store, kind, project).bytes for kind in KINDS}
        data = json.dumps({"days": days}, indent=1).encode()
        try:
            if etag:
                self._store.replace(place, data, etag)
            else:
                self._store.create(place, data)
        except ConflictError:  # another instance was faster
            return False
        return True

    def _places(self, project: str) -> Iterator[Location]:
        places = [item.location for item in self._store.objects(self._store.results / project / SPACE)]
        yield from sorted((place for place in places if place.name.endswith(".json")), key=lambda place: place.key)

    def _read(self, place: Location) -> tuple[dict[str, dict[str, int]], str]:
        """Return the days of a month with the ETag; a damaged object counts as one without days."""
        data, etag = self._store.read_versioned(place)
        try:
            days = {str(day): dict(sizes) for day, sizes in json.loads(data)["days"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            _log.warning("%s cannot be read: its days are lost", place)
            days = {}
        return days, etag
