"""What was made from what: read from the addresses that manifests and jobs mention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format

from parfocal.catalog.entries import Entries, Published, each
from parfocal.catalog.places import KINDS, Place, place_at
from parfocal.runtime.errors import DamagedError, NotFoundError
from parfocal.runtime.jobs.records import FINAL_STATES, JobStore
from parfocal.runtime.store.store import Location


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
        self.published = {
            found.place: found
            for kind in KINDS
            for found in entries.published(kind, project)
            if not isinstance(found, DamagedError)
        }
        every = [*self.published.values(), *(further or [])]
        self.links = [link for found in every for link in links_of(entries, found)]

    def referrers(self, place: Place) -> list[Place]:
        """Return what was made from an entry directly."""
        return list(dict.fromkeys(link.made for link in self.links if link.source == place))

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
