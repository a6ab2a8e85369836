"""The inboxes of a project: which there are, and what lies in them. Nothing in them is changed here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from parfocal import v1
from parfocal.catalog.uploads.records import INBOXES
from parfocal.runtime.errors import NotFoundError, Violation
from parfocal.runtime.store.confinement import confine
from parfocal.runtime.store.names import check_name, is_name
from parfocal.runtime.store.store import Location, Store

_AT_ONCE: Final = 500


class Inboxes:
    """The inboxes of all projects; safe to use from several threads and instances."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def of(self, project: str) -> list[v1.Inbox]:
        """Return the inboxes of a project by name.

        Those that an operator has opened are called BUCKET/PREFIX, those that `parfocal ingest` fills have plain names.
        """
        check_name("project", project)
        opened = [uri.rstrip("/") for owner, uri in self._store.settings.inbox_places if owner == project]
        found = {uri.removeprefix("s3://"): uri for uri in opened}
        folder = self._store.results / project / INBOXES
        found |= {name: str(folder / name) for name in self._store.folders(folder) if is_name(name)}
        return [v1.Inbox(name=name, uri=uri) for name, uri in sorted(found.items())]

    def files(self, project: str, inbox: str, folder: str) -> Iterator[list[v1.InboxFile]]:
        """Yield the files of an inbox, or of a folder in it, in order of names, some hundreds at a time.

        What systems hide, and whatever cannot be named, is left out.
        """
        root = self._place(project, inbox)
        part: list[v1.InboxFile] = []
        for item in self._store.objects(root / folder if folder else root):
            name = item.location.key.removeprefix(f"{root.key}/")
            if item.is_folder or "\\" in name or any(not each or each.startswith(".") for each in name.split("/")):
                continue
            part.append(v1.InboxFile(name=name, size=item.size))
            if len(part) == _AT_ONCE:
                yield part
                part = []
        if part:
            yield part

    def chunks(self, project: str, inbox: str, name: str) -> Iterator[bytes]:
        """Yield a file of an inbox piece by piece; raise NotFoundError where there is none."""
        yield from self._store.chunks(self._place(project, inbox) / name)

    def _place(self, project: str, name: str) -> Location:
        for inbox in self.of(project):
            if inbox.name == name:
                return confine(self._store, project, inbox.uri, "inbox")
        text = f"The project {project!r} has no inbox {name!r}. An operator opens one (PARFOCAL_INBOXES)."
        raise NotFoundError(text, [Violation("inbox", text)])
