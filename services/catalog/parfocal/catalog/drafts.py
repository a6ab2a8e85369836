"""Drafts: what people draw or correct before it becomes a version of a dataset.

```
datasets/<project>/.drafts/<draft>/draft.json               what it began with, when and by whom
                                  /images/<key>.json        the operations on one image, and its revision
                                  /leases/<key>.json        who is working on the image
                                  /files/<sha256>           label images that operations refer to
```

The catalogue knows nothing of what the operations mean. It keeps them in their order, and it makes sure that of two
writers at the same revision exactly one is accepted, and that a change that is sent again counts once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from parfocal.catalog.entries import each
from parfocal.catalog.places import Place, place_at
from parfocal.runtime.errors import (
    AlreadyExistsError,
    ConflictError,
    DamagedError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
    Violation,
)
from parfocal.runtime.store.confinement import confine
from parfocal.runtime.store.names import check_name, check_request_id, is_job_id
from parfocal.runtime.store.publish import sha256_of
from parfocal.runtime.store.store import Location, Store

LEASE: Final = timedelta(minutes=2)
KINDS: Final = ("labels", "classes", "boxes")
LARGEST_IMAGE: Final = 3 * 2**20
"""Bytes of all operations on one image: they travel in one message, which gRPC limits to 4 MiB."""
LARGEST_FILE: Final = 2**30
"""Bytes of one label image that is brought back."""

_FOLDER: Final = ".drafts"
_RECORD: Final = "draft.json"
_TITLE, _NAME, _CLASSES = 200, 512, 100
_REMEMBERED: Final = 64
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_M = TypeVar("_M", bound=BaseModel)


class Record(BaseModel):
    """What a draft began with."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    title: str
    kind: Literal["labels", "classes", "boxes"]
    base_uri: str
    model_uri: str = ""
    classes: tuple[str, ...] = ()
    created_at: datetime
    created_by: str


class ImageState(BaseModel):
    """What was done to one image; `changes` are the ids of the last changes, so that one sent again counts once."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    image: str
    revision: int = 0
    done: bool = False
    applied: int = 0
    operations: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    changed_at: datetime | None = None
    editors: tuple[str, ...] = ()


class Lease(BaseModel):
    """Who works on an image, and until when."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    session: str
    holder: str
    expires_at: datetime


@dataclass(frozen=True)
class Change:
    """What somebody wants to save; see `ChangeDraftImageRequest`."""

    change_id: str
    session: str
    revision: int
    operations: Sequence[str] = ()
    applied: int | None = None
    done: bool | None = None


class Drafts:
    """Creates, changes and deletes drafts; safe to use from several threads and instances.

    Parameters
    ----------
    store
        Where they lie.
    clock
        Tells the time, which decides whether leases have expired.
    """

    def __init__(self, store: Store, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._store = store
        self._clock = clock

    def create(self, project: str, draft: str, record: Record) -> Record:
        """Create a draft, or return the one that the same request id created.

        Raises
        ------
        AlreadyExistsError
            The request id stands for a draft of something else.
        InvalidInputError
            The base is no dataset or result of the project, or a name cannot be used.
        """
        check_request_id(draft)
        self._check(project, record)
        try:
            self._store.create(self._place(project, draft) / _RECORD, record.model_dump_json().encode())
        except ConflictError:
            known = self.read(project, draft)
            if (known.base_uri, known.kind) != (record.base_uri, record.kind):
                raise AlreadyExistsError(f"The request id {draft!r} belongs to a draft of {known.base_uri}.") from None
            return known
        return record

    def read(self, project: str, draft: str) -> Record:
        """Return what a draft began with; raise NotFoundError where there is none."""
        absent = f"There is no draft {draft!r} in the project {project!r}. It may have been deleted."
        if not is_job_id(draft):
            raise NotFoundError(absent)
        place = self._place(project, draft) / _RECORD
        try:
            return _parse(Record, self._store.read(place), place)
        except NotFoundError as error:
            raise NotFoundError(absent) from error

    def all(self, project: str) -> list[tuple[str, Record]]:
        """Return the drafts of a project with their ids, the newest first; one that is damaged is left out."""
        root = self._store.datasets / check_name("project", project) / _FOLDER

        def attempt(draft: str) -> tuple[str, Record] | None:
            try:
                return draft, self.read(project, draft)
            except (NotFoundError, DamagedError):
                return None  # being deleted, or of no use to anybody

        found = [item for item in each(attempt, self._store.folders(root)) if item is not None]
        return sorted(found, key=lambda item: item[1].created_at, reverse=True)

    def images(self, project: str, draft: str) -> list[tuple[ImageState, Lease | None]]:
        """Return the images that were changed or are being worked on, by name."""
        folder = self._place(project, draft)
        keys = {
            item.location.name
            for name in ("images", "leases")
            for item in self._store.objects(folder / name, recursive=False)
            if not item.is_folder
        }

        def state(key: str) -> tuple[ImageState, Lease | None] | None:
            known = self._state(folder / "images" / key)[0]
            return (known, self._lease(folder / "leases" / key)[0]) if known is not None else None

        found = [item for item in each(state, sorted(keys)) if item is not None]
        return sorted(found, key=lambda item: item[0].image)

    def image(self, project: str, draft: str, image: str) -> tuple[ImageState, Lease | None]:
        """Return the state of one image, whether it was changed or not, and who works on it."""
        folder, key = self._place(project, draft), _key(image)
        state, _ = self._state(folder / "images" / key)
        return state or ImageState(image=image), self._lease(folder / "leases" / key)[0]

    def change(self, project: str, draft: str, image: str, change: Change, who: str) -> tuple[ImageState, Lease | None]:
        """Save a change and return the state after it; one that is saved already is not saved again.

        Raises
        ------
        ConflictError
            Somebody has changed the image since that revision.
        PreconditionError
            Another window works on the image.
        InvalidInputError
            An operation is no JSON object, or there are too many.
        """
        check_request_id(change.change_id)
        check_request_id(change.session)
        folder, key = self._place(project, draft), _key(image)
        place = folder / "images" / key
        state, etag = self._state(place)
        known = state or ImageState(image=image)
        if change.change_id in known.changes:
            return known, self._lease(folder / "leases" / key)[0]
        lease = self._hold(folder / "leases" / key, image, change.session, who)
        if change.revision != known.revision:
            raise _stale(image)
        changed = _changed(known, change, who, self._clock())
        data = changed.model_dump_json().encode()
        try:
            if etag:
                self._store.replace(place, data, etag)
            else:
                self._store.create(place, data)
        except ConflictError as error:
            # The same change may have arrived twice at the same moment.
            now, _ = self._state(place)
            if now is None or change.change_id not in now.changes:
                raise _stale(image) from error
            return now, lease
        return changed, lease

    def lease(
        self, project: str, draft: str, image: str, session: str, who: str, *, take_over: bool, release: bool
    ) -> tuple[ImageState, Lease | None]:
        """Take, renew or end the lease of an image; return its state and who works on it now."""
        check_request_id(session)
        folder, key = self._place(project, draft), _key(image)
        place = folder / "leases" / key
        if release:
            held, _ = self._lease(place)
            if held is not None and held.session == session:
                self._store.delete(place)
        else:
            with contextlib.suppress(PreconditionError):  # the answer says who
                self._hold(place, image, session, who, take_over=take_over)
        return self.image(project, draft, image)

    def write_file(self, project: str, draft: str, path: Path) -> str:
        """Keep a file and return its SHA-256."""
        digest = sha256_of(path)
        place = self._place(project, draft) / "files" / digest
        if not self._store.exists(place):
            self._store.upload(path, place)
        return digest

    def file(self, project: str, draft: str, digest: str) -> Iterator[bytes]:
        """Yield a file that was kept, piece by piece; raise NotFoundError where there is none."""
        if not _DIGEST.fullmatch(digest):
            text = "must be a SHA-256: 64 digits 0-9 and a-f"
            raise InvalidInputError(f"The digest {text}.", [Violation("sha256", text)])
        yield from self._store.chunks(self._place(project, draft) / "files" / digest)

    def file_place(self, project: str, draft: str) -> Location:
        """Return the folder of the files of a draft."""
        return self._place(project, draft) / "files"

    def bases(self, project: str) -> set[Place]:
        """Return what the drafts of a project began with, and the models they correct."""
        uris = {uri for _, record in self.all(project) for uri in (record.base_uri, record.model_uri)}
        return {place for uri in uris if (place := place_at(self._store, uri)) is not None}

    def delete(self, project: str, draft: str) -> None:
        """Delete a draft; raise NotFoundError where there is none."""
        self.read(project, draft)
        place = self._place(project, draft)
        # The record first: what is left of an interrupted deletion is no draft any more.
        self._store.delete(place / _RECORD)
        for item in list(self._store.objects(place)):
            self._store.delete(item.location)

    def _hold(self, place: Location, image: str, session: str, who: str, *, take_over: bool = False) -> Lease:
        """Take or renew a lease; raise PreconditionError where another window has one that has not expired."""
        now = self._clock()
        held, etag = self._lease(place, expired=True)
        if held is not None and held.session != session and held.expires_at > now and not take_over:
            raise _busy(image, held)
        lease = Lease(session=session, holder=who, expires_at=now + LEASE)
        if held is not None and held.session == session and held.expires_at - now > LEASE * 0.75:
            return held
        data = lease.model_dump_json().encode()
        try:
            if etag:
                self._store.replace(place, data, etag)
            else:
                self._store.create(place, data)
        except ConflictError as error:
            held, _ = self._lease(place)
            if held is not None and held.session == session:
                return held
            raise _busy(image, held) from error
        return lease

    def _state(self, place: Location) -> tuple[ImageState | None, str]:
        try:
            data, etag = self._store.read_versioned(place)
        except NotFoundError:
            return None, ""
        return _parse(ImageState, data, place), etag

    def _lease(self, place: Location, *, expired: bool = False) -> tuple[Lease | None, str]:
        try:
            data, etag = self._store.read_versioned(place)
        except NotFoundError:
            return None, ""
        lease = _parse(Lease, data, place)
        return (lease if expired or lease.expires_at > self._clock() else None), etag

    def _place(self, project: str, draft: str) -> Location:
        return self._store.datasets / check_name("project", project) / _FOLDER / check_request_id(draft)

    def _check(self, project: str, record: Record) -> None:
        problems = []
        for name, uri in (("base_uri", record.base_uri), ("model_uri", record.model_uri)):
            place = place_at(self._store, uri) if uri else None
            words = ("dataset", "result") if name == "base_uri" else ("model",)
            if not uri and name == "model_uri":
                continue
            if place is None or place.kind.word not in words or not self._may_read(project, uri):
                text = f"must be the address of a {' or '.join(words)} of the project, or of one that is shared with it"
                problems.append(Violation(name, text))
            elif not self._store.exists(place.manifest):
                problems.append(Violation(name, f"names no {place.kind.word} that is published"))
        if not 0 < len(record.title) <= _TITLE or not record.title.isprintable():
            problems.append(Violation("title", f"must have 1 to {_TITLE} printable characters"))
        if len(record.classes) > _CLASSES or len(set(record.classes)) != len(record.classes):
            problems.append(Violation("classes", f"must be at most {_CLASSES} different names"))
        if any(not 0 < len(name) <= _CLASSES or not name.isprintable() for name in record.classes):
            problems.append(Violation("classes", f"must have names of 1 to {_CLASSES} printable characters"))
        if problems:
            text = "; ".join(f"{problem.field} {problem.description}" for problem in problems)
            raise InvalidInputError(f"The draft cannot be created: {text}.", problems)

    def _may_read(self, project: str, uri: str) -> bool:
        try:
            confine(self._store, project, uri, "base_uri")
        except NotFoundError:
            return False
        return True


def _changed(known: ImageState, change: Change, who: str, now: datetime) -> ImageState:
    kept, applied = known.operations, known.applied
    if change.operations:
        for number, text in enumerate(change.operations):
            _check_operation(f"operations[{number}]", text)
        # Something new after steps were undone: these cannot be done again.
        kept = (*kept[:applied], *change.operations)
        applied = len(kept)
    elif change.applied is not None:
        if not 0 <= change.applied <= len(kept):
            text = f"must be between 0 and {len(kept)}, not {change.applied}"
            raise InvalidInputError(f"The number of operations that count {text}.", [Violation("applied", text)])
        applied = change.applied
    if sum(len(text.encode()) for text in kept) > LARGEST_IMAGE:
        raise PreconditionError(
            f"So many corrections of {known.image} do not fit into one draft. Save a version of the dataset, and go on "
            "in a new draft of it."
        )
    return known.model_copy(
        update={
            "revision": known.revision + 1,
            "done": known.done if change.done is None else change.done,
            "applied": applied,
            "operations": kept,
            "changes": (*known.changes, change.change_id)[-_REMEMBERED:],
            "changed_at": now,
            "editors": tuple(dict.fromkeys((*known.editors, who))),
        }
    )


def _check_operation(field: str, text: str) -> None:
    try:
        if isinstance(json.loads(text), dict):
            return
    except (ValueError, RecursionError):
        pass
    raise InvalidInputError(f"{field} must be a JSON object.", [Violation(field, "must be a JSON object")])


def _stale(image: str) -> ConflictError:
    return ConflictError(f"{image} was changed in another window since. Load it again; nothing of either is lost.")


def _busy(image: str, held: Lease | None) -> PreconditionError:
    who = held.holder if held is not None else "Somebody else"
    return PreconditionError(f"{who} is editing {image} in another window. Take another image, or take this one over.")


def _key(image: str) -> str:
    if not 0 < len(image.encode()) <= _NAME or not image.isprintable():
        text = f"must have 1 to {_NAME} printable bytes"
        raise InvalidInputError(f"The name of the image {text}.", [Violation("image", text)])
    return f"{hashlib.sha256(image.encode()).hexdigest()[:40]}.json"


def _parse(model: type[_M], data: bytes, place: Location) -> _M:
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise DamagedError(f"{place} is damaged. Restore it from a backup, or delete the draft.") from error
