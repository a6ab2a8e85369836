"""Deleting and restoring entries.

```
<kind>/<project>/.trash/<name>[/<version>]/<manifest>      the manifest as it was
                                          /deleted.json    when, by whom, and what is happening to it
```

Deletion moves the manifest, so that the entry is gone for everybody, and leaves all files where they are. They are
removed when the entry has been in the trash for longer than the retention and nothing refers to it: no manifest,
published or in the trash, no draft, and no job that has not ended. The claim of a version stays: numbers are never
used again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from parfocal.catalog.drafts import Drafts
from parfocal.catalog.entries import Entries, Published, each
from parfocal.catalog.lineage import Lineage, active_jobs
from parfocal.catalog.places import KINDS, Kind, Place, place_of
from parfocal.runtime.errors import (
    ConflictError,
    DamagedError,
    NotFoundError,
    ParfocalError,
    PreconditionError,
)
from parfocal.runtime.store.grants import Grants
from parfocal.runtime.store.manifests import Manifest
from parfocal.runtime.store.publish import CLAIM, TRASH
from parfocal.runtime.store.store import Location

_log = logging.getLogger(__name__)
_RECORD: Final = "deleted.json"


class Record(BaseModel):
    """What the trash notes of a deleted entry; `state` says whether it is being restored or removed."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    deleted_at: datetime
    deleted_by: str
    state: Literal["deleted", "restoring", "removing"] = "deleted"


@dataclass(frozen=True)
class Deleted:
    """An entry in the trash."""

    found: Published
    record: Record


class Trash:
    """Deletes and restores entries; safe to use from several threads and instances.

    Parameters
    ----------
    entries
        Reads what is published.
    days
        The retention; 0 means for ever.
    """

    def __init__(self, entries: Entries, days: float) -> None:
        self._entries = entries
        self._store = entries.store
        self._grants = Grants(entries.store)
        self._days = days

    def delete(self, place: Place, who: str) -> tuple[Deleted, list[Place], datetime | None]:
        """Move an entry to the trash; return it, what refers to it, and when its files may be removed.

        Raises
        ------
        NotFoundError
            There is no such entry.
        PreconditionError
            A job that has not ended uses it.
        """
        try:
            found = self._entries.read(place)
        except DamagedError as error:
            found = _unreadable(place, error)
        users = [job for job, places in active_jobs(self._entries, place.project).items() if place in places]
        readers = self._readers(place)
        users += [
            f"a job of the project {project}"
            for project in readers
            for places in active_jobs(self._entries, project).values()
            if place in places
        ]
        if users:
            raise PreconditionError(
                f"The {place.kind.word} {place.title} is in use by {', '.join(users[:5])}"
                f"{f' and {len(users) - 5} more jobs' if len(users) > 5 else ''}. Wait for the end, or cancel first."
            )
        record = Record(deleted_at=datetime.now(UTC), deleted_by=who)
        folder = self._folder(place)
        self._store.copy(place.manifest, folder / place.kind.manifest)
        self._store.write(folder / _RECORD, record.model_dump_json().encode())
        self._store.delete(place.manifest)
        after = record.deleted_at + timedelta(days=self._days) if self._days else None
        referrers = [
            referrer
            for project in (place.project, *readers)
            for referrer in Lineage(self._entries, project).referrers(place)
        ]
        return Deleted(found, record), referrers, after

    def restore(self, place: Place) -> Published:
        """Take an entry out of the trash.

        Raises
        ------
        NotFoundError
            It is not in the trash, or its files are being removed.
        """
        folder = self._folder(place)
        absent = f"There is no {place.kind.word} {place.title!r} in the trash of project {place.project!r}."
        try:
            record, etag = self._record(folder)
            if record.state == "removing":
                raise NotFoundError(f"{absent} Its files are being removed.")
            # Whoever removes files changes the record as well: one of both is refused.
            self._change(folder, record, etag, "restoring")
            data = self._store.read(folder / place.kind.manifest)
        except NotFoundError as error:
            raise NotFoundError(error.message if error.message.startswith(absent) else absent) from error
        except ConflictError as error:
            raise NotFoundError(f"{absent} Its files are being removed.") from error
        try:
            self._store.create(place.manifest, data)
        except ConflictError:
            _log.info("%s was restored before", place.location)
        self._remove_record(place)
        return self._entries.read(place)

    def deleted(self, kind: Kind, project: str) -> Iterator[Deleted]:
        """Yield the entries of a kind in the trash of a project, in the order of names; damaged ones are logged."""
        root = kind.root(self._store) / project / TRASH
        for name in sorted(filter(kind.is_name, self._store.folders(root))):
            versions = self._store.folders(root / name) if kind.versioned else ["0"]
            numbers = sorted((int(text) for text in versions if text.isdecimal()), reverse=True)
            places = [place_of(self._store, kind, project, name, number) for number in numbers]
            yield from filter(None, each(self._read, places))

    def empty(self, *, now: float | None = None) -> int:
        """Remove the files of what has been in the trash for longer than the retention; return how many entries."""
        if not self._days:
            return 0
        before = datetime.fromtimestamp(time.time() if now is None else now, UTC) - timedelta(days=self._days)
        return sum(self._empty_project(project, before) for project in self._entries.projects())

    def _empty_project(self, project: str, before: datetime) -> int:
        inside = [item for kind in KINDS for item in self.deleted(kind, project)]
        old = [item for item in inside if item.record.deleted_at < before and item.record.state != "restoring"]
        if not old:
            return 0
        lineage = Lineage(self._entries, project, [item.found for item in inside])
        used = {place for places in active_jobs(self._entries, project).values() for place in places}
        used |= Drafts(self._store).bases(project)
        removed = 0
        elsewhere: dict[str, tuple[Lineage, set[Place]]] = {}
        for item in old:
            place = item.found.place
            if place in used or lineage.referrers(place):
                continue
            try:
                if self._is_used_elsewhere(place, elsewhere):
                    continue
                removed += self._remove(place)
            except ParfocalError as error:
                _log.warning("%s stays in the trash: %s", place.location, error)
        return removed

    def _readers(self, place: Place) -> list[str]:
        """Return the other projects that an entry is or was shared with."""
        if not place.kind.is_shareable:
            return []
        return sorted(self._grants.of(place.kind.root(self._store), place.project, place.name))

    def _is_used_elsewhere(self, place: Place, known: dict[str, tuple[Lineage, set[Place]]]) -> bool:
        """Return whether a project that an entry is or was shared with uses it; `known` remembers what was read."""
        for project in self._readers(place):
            if project not in known:
                inside = [item.found for kind in KINDS for item in self.deleted(kind, project)]
                jobs = active_jobs(self._entries, project)
                known[project] = (
                    Lineage(self._entries, project, inside),
                    {used for places in jobs.values() for used in places},
                )
            lineage, used = known[project]
            if place in used or lineage.referrers(place):
                return True
        return False

    def _remove(self, place: Place) -> bool:
        folder = self._folder(place)
        record, etag = self._record(folder)
        if record.state == "restoring":  # since it was listed
            return False
        if self._store.exists(place.manifest):  # a deletion or a restoration that was interrupted
            self._remove_record(place)
            return False
        self._change(folder, record, etag, "removing")
        for item in list(self._store.objects(place.location)):
            if item.location != place.location / CLAIM:
                self._store.delete(item.location)
        self._remove_record(place)
        _log.info("%s was removed for good", place.location)
        return True

    def _read(self, place: Place) -> Deleted | None:
        folder = self._folder(place)
        try:
            record, _ = self._record(folder)
        except NotFoundError:
            return None  # a deletion that has just begun, or a removal that has just ended
        except DamagedError as error:
            _log.warning("an entry of the trash is left out: %s", error.message)
            return None
        try:
            manifest = place.kind.model.read(self._store, folder / place.kind.manifest)
        except NotFoundError:
            return None
        except DamagedError as error:
            return Deleted(_unreadable(place, error), record)
        return Deleted(Published(place, manifest, "", 0), record)

    def _record(self, folder: Location) -> tuple[Record, str]:
        data, etag = self._store.read_versioned(folder / _RECORD)
        try:
            return Record.model_validate_json(data), etag
        except ValidationError as error:
            raise DamagedError(f"{folder / _RECORD} is damaged. Remove it, or restore it from a backup.") from error

    def _change(self, folder: Location, record: Record, etag: str, state: str) -> None:
        changed = record.model_copy(update={"state": state})
        self._store.replace(folder / _RECORD, changed.model_dump_json().encode(), etag)

    def _remove_record(self, place: Place) -> None:
        # The record last: without it nobody would look for the manifest.
        for name in (place.kind.manifest, _RECORD):
            self._store.delete(self._folder(place) / name)

    def _folder(self, place: Place) -> Location:
        return place.kind.root(self._store) / place.project / TRASH / place.relative


def _unreadable(place: Place, error: DamagedError) -> Published:
    """Return an entry whose manifest cannot be read: it can be deleted all the same."""
    return Published(place, Manifest(project=place.project, warnings=(error.message,)), "", 0)
