"""What was made from what: read from the addresses that manifests and jobs mention."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import json_format

from parfocal.catalog.entries import Entries, Published, each
from parfocal.catalog.places import KINDS, Place, place_at
from parfocal.runtime.errors import DamagedError, NotFoundError
from parfocal.runtime.jobs.records import FINAL_STATES, JobStore
from parfocal.runtime.store.store import Location

_ADDRESS: Final = re.compile(r"s3://[^\s\"\\]+")


@dataclass(frozen=True)
class Link:
    """`made` mentions `source` under the name `role`."""

    made: Place
    source: Place
    role: str


def links_of(entries: Entries, found: Published) -> list[Link]:
    """Return what a manifest mentions besides itself."""
    known: dict[tuple[Place, str], None] = {}
    for role, uri in addresses(found.manifest.model_dump(mode="json", exclude={"files"})):
        source = place_at(entries.store, uri)
        if source is not None and source != found.place:
            known[source, role] = None
    return [Link(found.place, source, role) for source, role in known]


def addresses(content: Any, role: str = "") -> Iterator[tuple[str, str]]:
    """Yield each address in JSON with the name of the field that holds it."""
    if isinstance(content, str):
        if content.startswith("s3://"):
            yield role, content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from addresses(value, str(key))
    elif isinstance(content, list | tuple):
        for value in content:
            yield from addresses(value, role)


class Lineage:
    """All links between the entries of a project, as they are now."""

    def __init__(self, entries: Entries, project: str, further: list[Published] | None = None) -> None:
        self.published: dict[Place, Published] = {}
        self.links: list[Link] = []
        # Entries whose manifests are so damaged that nobody knows what they were made from.
        self._unknown: list[Place] = []
        for kind in KINDS:
            for place, found in entries.looked_at(kind, project):
                if isinstance(found, DamagedError):
                    self._add_damaged(entries, place)
                else:
                    self.published[place] = found
        for found in [*self.published.values(), *(further or [])]:
            self.links += links_of(entries, found)

    def referrers(self, place: Place) -> list[Place]:
        """Return what was made from an entry directly, and what may have been, because its manifest is damaged."""
        made = (link.made for link in self.links if link.source == place)
        return list(dict.fromkeys([*made, *(unknown for unknown in self._unknown if unknown != place)]))

    def _add_damaged(self, entries: Entries, place: Place) -> None:
        """Take from a damaged manifest what can be read: it may be restored, and then it refers to that again."""
        try:
            text = entries.store.read(place.manifest).decode("utf-8", errors="replace")
        except NotFoundError:
            return
        sources = {place_at(entries.store, uri) for uri in _ADDRESS.findall(text)} - {None, place}
        self.links += [Link(place, source, "damaged manifest") for source in sources if source is not None]
        if not sources:
            self._unknown.append(place)

    def around(self, place: Place) -> tuple[list[Place], list[Link]]:
        """Return an entry with all it was made from and all that was made from it, and the links between them."""
        found = {place: None}
        for near, far in (("made", "source"), ("source", "made")):
            new = [place]
            while new:
                reached = {getattr(link, far) for link in self.links if getattr(link, near) in new}
                new = sorted(reached - found.keys(), key=lambda one: (one.kind.number, one.title))
                found |= dict.fromkeys(new)
        return list(found), [link for link in self.links if link.made in found and link.source in found]


def active_jobs(entries: Entries, project: str) -> dict[str, set[Place]]:
    """Return for each job of a project that has not ended what it uses, by its id."""
    jobs = JobStore(entries.store)
    marks = [
        item.location
        for item in entries.store.objects(entries.store.jobs / ".open")
        if item.location.parent.name == project
    ]

    def look(mark: Location) -> tuple[str, set[Place]]:
        try:
            job = jobs.read(project, mark.name).job
        except (NotFoundError, DamagedError):
            return mark.name, set()
        if job.state in FINAL_STATES:
            return mark.name, set()
        found = (place_at(entries.store, uri) for _, uri in addresses(json_format.MessageToDict(job)))
        return job.id, {place for place in found if place is not None}

    return {job: places for job, places in each(look, marks) if places}
