"""The retention of results: what can be made again goes to the trash some time after it was made."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from parfocal import v1
from parfocal.catalog.entries import Entries, Published
from parfocal.catalog.lineage import Lineage, links_of
from parfocal.catalog.places import RESULT
from parfocal.catalog.trash import Trash
from parfocal.runtime.errors import DamagedError, NotFoundError, ParfocalError
from parfocal.runtime.jobs.records import JobStore
from parfocal.runtime.store.manifests import PART, ResultManifest

_log = logging.getLogger(__name__)
_KINDS: Final = {"prediction", "evaluation", PART}
_BY: Final = "retention"


class Retention:
    """Moves old results to the trash; safe to use from several threads and instances.

    Only predictions and evaluations go that a job has made whose record, model and images are all still there, and only
    while nothing refers to them. Their verdicts stay with the models.

    Parameters
    ----------
    entries, trash
        What is published, and where it goes.
    days
        The retention of a project; 0 means for ever.
    """

    def __init__(self, entries: Entries, trash: Trash, days: Callable[[str], float]) -> None:
        self._entries = entries
        self._trash = trash
        self._days = days
        self._jobs = JobStore(entries.store)

    def apply(self, *, now: float | None = None) -> int:
        """Move what is older than its retention to the trash; return how many results."""
        moved = 0
        for project in self._entries.projects():
            days = self._days(project)
            if not days:
                continue
            before = datetime.fromtimestamp(time.time() if now is None else now, UTC) - timedelta(days=days)
            for found in list(self._old(project, before)):
                try:
                    self._trash.delete(found.place, _BY)
                except ParfocalError as error:
                    _log.info("%s stays: %s", found.place.location, error)
                else:
                    _log.info("%s went to the trash after its retention", found.place.location)
                    moved += 1
        return moved

    def _old(self, project: str, before: datetime) -> Iterator[Published]:
        lineage = Lineage(self._entries, project)
        for found in list(lineage.published.values()):
            manifest = found.manifest
            if (
                found.place.kind is RESULT
                and isinstance(manifest, ResultManifest)
                and manifest.kind in _KINDS
                and manifest.created_at < before
                and not lineage.referrers(found.place)
                and self._can_be_made_again(found)
            ):
                yield found

    def _can_be_made_again(self, found: Published) -> bool:
        try:
            job = self._jobs.read(found.place.project, found.place.name).job
            sources = [self._entries.find(link.source) for link in links_of(self._entries, found)]
        except (NotFoundError, DamagedError):
            return False
        return job.state == v1.JOB_STATE_SUCCEEDED and all(source is not None for source in sources)
