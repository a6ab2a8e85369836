"""The records of uploads: what was begun, when and by whom, and how far it is.

```
<kind>/<project>/.incoming/<what>.<request>.json    the record; changed only by If-Match
                          /<request>/<manifest>     the manifest as the client proposes it
                          /<request>/<what>/        where a store ignores what is signed: files not yet verified
```

A file that the store has may be removed, so that another one can be sent in its place. Whoever does so changes the
record first, and whoever publishes changes it after all files have been verified. So one of both is refused, and what
was verified is what is published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from parfocal import v1
from parfocal.catalog.places import DATASET, MODEL, RESULT, Kind, place_of
from parfocal.runtime.errors import (
    ConflictError,
    DamagedError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
    Violation,
)
from parfocal.runtime.store.names import check_name, check_request_id
from parfocal.runtime.store.publish import INPUTS
from parfocal.runtime.store.store import Location, Store

# SeaweedFS shows no folder called `.uploads`: it keeps parts of its own there.
FOLDER: Final = ".incoming"
INBOX: Final = "inbox"
INBOXES: Final = "_inboxes"
"""Folder of a project's results with its inboxes; no result can have this name."""

_KINDS: Final[Mapping[int, tuple[str, Kind]]] = {
    v1.UPLOAD_KIND_DATASET: ("dataset", DATASET),
    v1.UPLOAD_KIND_MODEL: ("model", MODEL),
    v1.UPLOAD_KIND_RESULT: ("result", RESULT),
    v1.UPLOAD_KIND_INPUTS: (INPUTS, RESULT),
    v1.UPLOAD_KIND_INBOX: (INBOX, RESULT),
}


class Record(BaseModel):
    """What was begun, and how far it is.

    Attributes
    ----------
    what, name, version, created_at, created_by
        What was begun, when and by whom.
    published
        Whether the manifest has been written.
    state
        "publishing" from the moment in which all files have been verified.
    changes
        How often files that were there have been removed.
    staged
        Whether files that come in one request are staged, because the store ignores something of what was signed.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    what: Literal["dataset", "model", "result", "inputs", "inbox"]
    name: str
    version: int
    created_at: datetime
    created_by: str
    published: bool = False
    state: Literal["open", "publishing"] = "open"
    changes: int = 0
    staged: bool = False


@dataclass(frozen=True)
class Upload:
    """An upload as it was begun; `request` is its id within the project and kind."""

    project: str
    request: str
    kind: Kind
    record: Record
    place: Location

    @property
    def word(self) -> str:
        """What names it in further calls."""
        return f"{self.record.what}/{self.request}"

    @property
    def is_inputs(self) -> bool:
        """Whether it is the input of one prediction."""
        return self.record.what == INPUTS

    @property
    def is_inbox(self) -> bool:
        """Whether its files join those of others in an inbox, of which none is ever replaced or removed."""
        return self.record.what == INBOX

    @property
    def has_manifest(self) -> bool:
        """Whether a manifest is published with it."""
        return not (self.is_inputs or self.is_inbox)


class Records:
    """Reads and changes the records; safe to use from several threads and instances."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create(self, project: str, kind: Kind, request: str, record: Record) -> Upload | None:
        """Store a new record; None where the request id has one already."""
        upload = self._upload(project, kind, request, record)
        try:
            self._store.create(self._place(upload), record.model_dump_json().encode())
        except ConflictError:
            return None
        return upload

    def known(self, project: str, what: str, kind: Kind, request: str) -> Upload | None:
        """Return what a request id has begun; None where it has begun nothing."""
        place = self._record_place(check_name("project", project), what, kind, request)
        try:
            record = _read(place, self._store.read(place))
        except NotFoundError:
            return None
        return self._upload(project, kind, request, record)

    def find(self, project: str, word: str) -> Upload:
        """Return an upload; raise NotFoundError where none of this name was begun."""
        what, _, request = word.partition("/")
        kinds = dict(_KINDS.values())
        if what not in kinds:
            raise NotFoundError(f"There is no upload {word!r}: begin it.")
        found = self.known(project, what, kinds[what], check_request_id(request))
        if found is None:
            raise NotFoundError(f"There is no upload {word!r}: begin it, it may have been removed.")
        return found

    def note_removal(self, upload: Upload, *, force: bool = False) -> None:
        """Note that a file of the upload is about to be removed, so that nobody publishes what was verified before.

        Raises
        ------
        PreconditionError
            All files have been verified, and the upload is being published. With `force` this is ignored.
        """

        def removed(record: Record) -> dict[str, Any]:
            if record.state == "publishing" and not force:
                raise PreconditionError(
                    f"The upload {upload.word} is being published: its files cannot be replaced any more. Publish it "
                    "again if that was interrupted."
                )
            return {"changes": record.changes + 1}

        self._change(upload, removed)

    def commit(self, upload: Upload) -> None:
        """Note that all files have been verified since `upload` was read: from now on none of them is removed.

        Raises
        ------
        PreconditionError
            One has been removed meanwhile.
        """
        known = upload.record.changes

        def verified(record: Record) -> dict[str, Any]:
            if record.changes != known:
                raise PreconditionError(
                    f"Files of the upload {upload.word} were replaced while they were verified. Publish it again."
                )
            return {"state": "publishing"}

        self._change(upload, verified)

    def note_published(self, upload: Upload) -> None:
        """Note that the manifest has been written."""
        self._change(upload, lambda _: {"published": True})

    def remove(self, upload: Upload) -> None:
        """Remove the record, the proposed manifest and what is staged."""
        self._store.delete(self.proposed(upload))
        if upload.record.staged:
            for item in list(self._store.objects(self._stage(upload))):
                self._store.delete(item.location)
        self._store.delete(self._place(upload))

    def remove_late(self, project: str, kind: Kind, request: str) -> None:
        """Remove what was sent by requests that were still valid when their upload had ended."""
        words = [what for what, its_kind in _KINDS.values() if its_kind is kind]
        if any(self._store.exists(self._record_place(project, what, kind, request)) for what in words):
            return
        for item in list(self._store.objects(kind.root(self._store) / project / FOLDER / request)):
            self._store.delete(item.location)

    def proposed(self, upload: Upload) -> Location:
        """Return where the manifest lies as the client proposes it."""
        return self._folder(upload) / upload.request / upload.kind.manifest

    def staged(self, upload: Upload, name: str) -> Location:
        """Return where a file lies until it has been verified, if the files of the upload are staged."""
        return self._stage(upload) / name

    def _stage(self, upload: Upload) -> Location:
        return self._folder(upload) / upload.request / upload.record.what

    def _change(self, upload: Upload, change: Callable[[Record], dict[str, Any]]) -> None:
        place = self._place(upload)
        while True:
            try:
                data, etag = self._store.read_versioned(place)
            except NotFoundError as error:
                raise NotFoundError(f"There is no upload {upload.word!r} any more: begin it again.") from error
            record = _read(place, data)
            changed = record.model_copy(update=change(record))
            if changed == record:
                return
            try:
                self._store.replace(place, changed.model_dump_json().encode(), etag)
            except ConflictError:
                continue
            return

    def _upload(self, project: str, kind: Kind, request: str, record: Record) -> Upload:
        if record.what == INBOX:
            return Upload(project, request, kind, record, self._store.results / project / INBOXES / record.name)
        place = place_of(self._store, kind, project, record.name, record.version).location
        return Upload(project, request, kind, record, place / INPUTS if record.what == INPUTS else place)

    def _folder(self, upload: Upload) -> Location:
        return upload.kind.root(self._store) / upload.project / FOLDER

    def _place(self, upload: Upload) -> Location:
        return self._record_place(upload.project, upload.record.what, upload.kind, upload.request)

    def _record_place(self, project: str, what: str, kind: Kind, request: str) -> Location:
        return kind.root(self._store) / project / FOLDER / f"{what}.{request}.json"


def kind_of_upload(number: v1.UploadKind.ValueType) -> tuple[str, Kind]:
    """Return what an upload becomes: its word and the kind of its place; raise InvalidInputError for anything else."""
    if number not in _KINDS:
        text = "must be that of a dataset, a model, a result, inputs or an inbox"
        raise InvalidInputError(f"The kind {text}.", [Violation("kind", text)])
    return _KINDS[number]


def _read(place: Location, data: bytes) -> Record:
    try:
        return Record.model_validate_json(data)
    except ValidationError as error:
        raise DamagedError(f"{place} is damaged. Remove it and begin the upload again.") from error
