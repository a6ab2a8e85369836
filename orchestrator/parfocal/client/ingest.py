"""Images of a folder at the microscope into an inbox of a project, each once, whatever interrupts that.

The folder is looked at again and again, because changes on a network share are reported to nobody. What has been sent
stands in a small database of this computer; without it nothing is lost, for the inbox is asked as well.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from parfocal import v1
from parfocal.client.client import Client
from parfocal.client.convert import convert, converted_stem, is_makers_format
from parfocal.client.uploads import uploading
from parfocal.runtime.datasets.findings import count
from parfocal.runtime.errors import (
    AlreadyExistsError,
    InvalidInputError,
    NotFoundError,
    ParfocalError,
    PermissionDeniedError,
    PreconditionError,
    QuotaError,
    UnauthenticatedError,
    UnavailableError,
)
from parfocal.runtime.images.files import IMAGE_SUFFIXES, inspect_image, unreadable_name
from parfocal.runtime.store.names import check_name, new_request_id
from parfocal.runtime.store.publish import file_entry, sha256_of

DELETE_AFTER_DAYS: Final = 7.0
"""No original is deleted earlier."""
SETTLE_SECONDS: Final = 60.0
_DAY: Final = 86_400.0
_SHARE_OF_TIME: Final = 10
# Files of these names grow until they get their own.
_UNFINISHED: Final = (".tmp", ".part", ".partial", ".crdownload")
# What concerns all images: the others would fail as well.
_ENDS_ALL: Final = (UnavailableError, QuotaError, PermissionDeniedError, UnauthenticatedError)
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime INTEGER NOT NULL, seen REAL NOT NULL, state TEXT NOT NULL,
    sha256 TEXT NOT NULL DEFAULT '', name TEXT NOT NULL DEFAULT '', sent REAL NOT NULL DEFAULT 0,
    stored_sha256 TEXT NOT NULL DEFAULT '', stored_size INTEGER NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS by_digest ON files (sha256, state);
"""


@dataclass
class Pass:
    """What one look at the folder came to.

    Attributes
    ----------
    sent, known, waiting, deleted
        Images that were sent; that had been sent before, also under another name; that may still be written; and
        originals that were deleted.
    sent_bytes
        Size of those that were sent.
    left
        Why images were not sent, by their names; they are tried again when they change.
    stopped
        Why the rest was left to the next look; empty if nothing was.
    """

    sent: int = 0
    known: int = 0
    waiting: int = 0
    deleted: int = 0
    sent_bytes: int = 0
    left: dict[str, str] = field(default_factory=dict)
    stopped: str = ""

    @property
    def sentence(self) -> str:
        """The same in words."""
        parts = [f"{count(self.sent, 'image')} sent ({self.sent_bytes / 1e6:.1f} MB)"]
        parts += [f"{self.known} sent before"] if self.known else []
        parts += [f"{self.waiting} may still be written"] if self.waiting else []
        parts += [f"{len(self.left)} left out"] if self.left else []
        parts += [f"{count(self.deleted, 'original')} deleted"] if self.deleted else []
        return ", ".join(parts) + "."


@dataclass(frozen=True)
class _File:
    path: Path
    name: str
    size: int
    mtime: int

    @property
    def stands(self) -> bool:
        """Whether the file is as it was when the folder was looked at."""
        try:
            now = self.path.stat()
        except OSError:
            return False
        return (now.st_size, now.st_mtime_ns) == (self.size, self.mtime)


class Ingest:
    """Sends the images of one folder to one inbox.

    Parameters
    ----------
    client
        Speaks to the catalogue.
    folder
        Where the microscope writes.
    inbox
        Name of the inbox.
    state
        Folder of this computer for the database of what was sent.
    settle_seconds
        An image is sent when its size and time have been the same for so long.
    delete_after_days
        Age from which the original of an image is deleted that the store has and gives back unchanged; None: never.
    clock
        Seconds since 1970.

    Attributes
    ----------
    address
        Of the inbox in the store, as schedules name it.

    Raises
    ------
    InvalidInputError
        The name of the inbox cannot be used, or originals would be deleted too early.
    NotFoundError
        There is no such folder.
    PreconditionError
        Another program sends the images of this folder.
    """

    def __init__(
        self,
        client: Client,
        folder: Path,
        inbox: str,
        state: Path,
        *,
        settle_seconds: float = SETTLE_SECONDS,
        delete_after_days: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_name("inbox", inbox)
        if delete_after_days is not None and delete_after_days < DELETE_AFTER_DAYS:
            raise InvalidInputError(
                f"Originals cannot be deleted after {delete_after_days:g} days: {DELETE_AFTER_DAYS:g} is the least."
            )
        if not folder.is_dir():
            raise NotFoundError(f"There is no folder {folder}. Check its name, and that the network share is there.")
        self._client, self._folder, self._inbox = client, folder.resolve(), inbox
        self._settle, self._delete_after, self._clock = settle_seconds, delete_after_days, clock
        self.address = ""
        state.mkdir(parents=True, exist_ok=True)
        text = f"{client.catalog.address}\n{client.project}\n{inbox}\n{self._folder}"
        path = state / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.sqlite"
        self._database = sqlite3.connect(path, isolation_level=None, timeout=1.0)
        try:
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("BEGIN EXCLUSIVE")
            self._database.execute("COMMIT")
            self._database.executescript(_TABLES)
        except sqlite3.OperationalError as error:
            self._database.close()
            raise PreconditionError(
                f"Another `parfocal ingest` sends the images of {folder} to this inbox. One is enough."
            ) from error
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise PreconditionError(
                f"{path} is damaged. Delete it: what was sent is then compared with the inbox, and not sent again."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def look(self, on_sent: Callable[[str], None] = lambda _name: None) -> Pass:
        """Look at the folder once, and send what is finished; `on_sent` is told the name of each image.

        Raises
        ------
        UnavailableError
            The folder cannot be read, for example because the network share is away.
        """
        done = Pass()
        try:
            self.address = self.address or self._ask_address()
        except _ENDS_ALL as error:
            done.stopped = error.message
            return done
        for file in self._files():
            try:
                self._one(file, done, on_sent)
            except _ENDS_ALL as error:
                done.stopped = error.message
                break
        return done

    def pause(self, every: float, took: float) -> float:
        """Return how long to wait for the next look: looking takes a tenth of the time at most."""
        return max(every, (_SHARE_OF_TIME - 1) * took)

    def _ask_address(self) -> str:
        request = v1.BeginUploadRequest(
            request_id=new_request_id("ingest-look"),
            project=self._client.project,
            kind=v1.UPLOAD_KIND_INBOX,
            name=self._inbox,
        )
        begun = self._client.catalog.begin_upload(request)
        self._client.catalog.abort_upload(begun.upload)
        return str(begun.uri)

    def _files(self) -> Iterator[_File]:
        """Yield the images of the folder and its sub-folders in order of names; links are not followed."""
        folders = [self._folder]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(folder) as entries:
                    found = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                if folder == self._folder:
                    raise UnavailableError(
                        f"{folder} cannot be read ({error.strerror}). Check that the network share is there."
                    ) from error
                continue  # removed meanwhile, or not ours to read
            below = []
            for entry in found:
                if entry.name.startswith(".") or entry.name.lower().endswith(_UNFINISHED):
                    continue
                path = Path(entry.path)
                try:
                    if entry.is_dir(follow_symlinks=False):
                        below += [] if is_makers_format(path) else [path]
                    elif entry.is_file(follow_symlinks=False) and (
                        entry.name.lower().endswith(IMAGE_SUFFIXES) or is_makers_format(path)
                    ):
                        state = path.stat()
                        name = path.relative_to(self._folder).as_posix()
                        yield _File(path, name, state.st_size, state.st_mtime_ns)
                except OSError:
                    continue  # removed meanwhile
            folders += reversed(below)

    def _one(self, file: _File, done: Pass, on_sent: Callable[[str], None]) -> None:
        if (unreadable := unreadable_name(file.path)) is not None:
            done.left[unreadable.field] = unreadable.description
            return
        now = self._clock()
        row = self._database.execute(
            "SELECT size, mtime, seen, state, reason, sent FROM files WHERE path = ?", (file.name,)
        ).fetchone()
        if row is None or (row[0], row[1]) != (file.size, file.mtime):
            # Written anew: what was sent before stays in the inbox.
            self._database.execute(
                "INSERT OR REPLACE INTO files (path, size, mtime, seen, state) VALUES (?, ?, ?, ?, 'seen')",
                (file.name, file.size, file.mtime, now),
            )
            row = (file.size, file.mtime, now, "seen", "", 0.0)
        _, _, seen, state, reason, sent = row
        if state == "left":
            done.left[file.name] = reason
        elif state == "seen":
            if now - seen < self._settle:
                done.waiting += 1
            else:
                self._send(file, done, on_sent)
        else:
            done.known += 1
            if state == "sent" and self._is_old(file, sent, now):
                self._delete(file, done)

    def _send(self, file: _File, done: Pass, on_sent: Callable[[str], None]) -> None:
        try:
            digest = sha256_of(file.path)
            if not file.stands:
                done.waiting += 1
                return
            twin = self._database.execute(
                "SELECT path FROM files WHERE sha256 = ? AND state IN ('sent', 'converted', 'deleted') AND path != ?",
                (digest, file.name),
            ).fetchone()
            if twin is not None:
                self._note(file, "twin", sha256=digest, reason=f"the same as {twin[0]}")
                done.known += 1
                return
            stored, size, name = self._upload(file, digest)
        except _ENDS_ALL:
            raise
        except OSError as error:
            done.left[file.name] = f"it cannot be read ({error.strerror}); it is tried again"
            return
        except ParfocalError as error:
            why = error.violations[0].description if isinstance(error, InvalidInputError) and error.violations else ""
            reason = why or error.message
            if isinstance(error, AlreadyExistsError):
                reason = "the inbox has another image of this name, which is never replaced: save it under another name"
            self._note(file, "left", reason=reason)
            done.left[file.name] = reason
            return
        converted = is_makers_format(file.path)
        self._note(
            file,
            "converted" if converted else "sent",
            sha256=digest,
            name=name,
            stored_sha256=stored,
            stored_size=size,
            sent=self._clock(),
        )
        done.sent += 1
        done.sent_bytes += size
        on_sent(file.name)

    def _upload(self, file: _File, digest: str) -> tuple[str, int, str]:
        """Send an image, have it verified, and return SHA-256, size and name of what the store has now."""
        name = unicodedata.normalize("NFC", file.name)
        with tempfile.TemporaryDirectory(prefix="parfocal-") as scratch:
            path = file.path
            if is_makers_format(path):
                path, _ = convert(path, Path(scratch))
                folder = f"{Path(name).parent.as_posix()}/".removeprefix("./")
                name = f"{folder}{unicodedata.normalize('NFC', converted_stem(file.path))}.tif"
            else:
                inspect_image(path)
            # The same image has the same request, so an upload that was interrupted is gone on with.
            request = f"ingest-{hashlib.sha256(f'{self._inbox}/{name}/{digest}'.encode()).hexdigest()[:40]}"
            with uploading(self._client, "inbox", self._inbox, request_id=request) as upload:
                entry = upload.send(path, name, resume=True)
                if path == file.path and entry.sha256 != digest:
                    raise UnavailableError(f"{file.name} changed while it was sent; it is tried again.")
                upload.finish([entry])
        return entry.sha256, entry.size, name

    def _is_old(self, file: _File, sent: float, now: float) -> bool:
        """Return whether file and copy are old enough for the original to be deleted."""
        if self._delete_after is None:
            return False
        return now - max(sent, file.mtime / 1e9) >= self._delete_after * _DAY

    def _delete(self, file: _File, done: Pass) -> None:
        """Delete an original, after the store has given its copy back and both were found to be the same."""
        name, stored, size = self._database.execute(
            "SELECT name, stored_sha256, stored_size FROM files WHERE path = ?", (file.name,)
        ).fetchone()
        try:
            entry = file_entry(file.path, name)
            request = f"ingest-{hashlib.sha256(f'{self._inbox}/{name}/{stored}'.encode()).hexdigest()[:40]}"
            if (entry.sha256, entry.size) != (stored, size):
                done.left[file.name] = "it differs from what was sent, although its time does not: it is kept"
                return
            with uploading(self._client, "inbox", self._inbox, request_id=request) as upload:
                upload.finish([entry])
            if file.stands:
                file.path.unlink()
                self._note(file, "deleted", sha256=stored)
                done.deleted += 1
        except InvalidInputError:
            # The inbox has lost it: it is sent again, and kept.
            self._database.execute("UPDATE files SET state = 'seen' WHERE path = ?", (file.name,))
            done.left[file.name] = "it is missing in the inbox, or differs there: it is sent again"
        except OSError as error:
            done.left[file.name] = f"it cannot be deleted ({error.strerror})"

    def _note(self, file: _File, state: str, **values: str | float) -> None:
        names = ", ".join(f"{name} = ?" for name in ("state", *values))
        with closing(self._database.cursor()) as cursor:
            cursor.execute(f"UPDATE files SET {names} WHERE path = ?", (state, *values.values(), file.name))
