"""Making snapshots of a store in use."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from parfocal.runtime.errors import DamagedError, InvalidInputError, NotFoundError, ParfocalError, PreconditionError
from parfocal.runtime.store.backup.snapshot import (
    INDEX,
    JOB,
    NOT_KEPT,
    PATIENCE_SECONDS,
    Kept,
    OnFile,
    Snapshot,
    buckets,
    each,
    is_ledger,
    names_others,
    read_snapshot,
)
from parfocal.runtime.store.store import Location, ObjectInfo, Store, patiently, translate_disk_error
from parfocal.runtime.store.verdicts import VERDICT_FILE

_log = logging.getLogger(__name__)
_PARTIAL: Final = ".partial"
_CHECKPOINTS: Final = "checkpoints"
# A training saves its next checkpoint after a minute; one that is faster is copied as far as it has come.
_CHECKPOINT_TRIES: Final = 5


@dataclass(frozen=True)
class Saved:
    """A snapshot that was made: its folder, what it holds, and how many objects the snapshot before had not."""

    folder: Path
    snapshot: Snapshot
    copied: int


def save(store: Store, folder: Path, on_file: OnFile = lambda _done, _all: None) -> Saved:
    """Make a snapshot of the store in a new folder below `folder`, named by the time, while services run.

    Raises
    ------
    PreconditionError
        Another back-up to this folder is under way.
    UnavailableError
        The store does not answer, or refuses the access.
    DiskFullError
        There is no room.
    """
    with _own(folder):
        started = datetime.now(UTC)
        target = folder / f"{started:%Y-%m-%dT%H-%M-%S}Z"
        if target.exists():
            raise PreconditionError(f"{target} exists already: wait for a second and try again.")
        for left in folder.glob(f"*{_PARTIAL}"):
            # Nobody else is at work here: a back-up that was interrupted.
            shutil.rmtree(left)
        partial = target.with_name(target.name + _PARTIAL)
        partial.mkdir(mode=0o700)
        copy = _Copy(store, partial, _newest(folder), on_file)
        try:
            copy.everything()
            snapshot = Snapshot(
                started_at=started,
                finished_at=datetime.now(UTC),
                buckets=buckets(store),
                objects=dict(sorted(copy.kept.items())),
            )
            (partial / INDEX).write_text(snapshot.model_dump_json(indent=1) + "\n", "utf-8")
            os.sync()
            partial.rename(target)
        except OSError as error:
            raise translate_disk_error(error) from error
    return Saved(target, snapshot, copy.copied)


class _Copy:
    """Copies a store into a folder; `before` is the folder of an older snapshot, with what it holds."""

    def __init__(self, store: Store, target: Path, before: tuple[Path, Snapshot] | None, on_file: OnFile) -> None:
        self._store = store
        self._target = target
        self._before = before
        self._on_file = on_file
        self._found = 0
        self.kept: dict[str, Kept] = {}
        self.copied = 0

    def everything(self) -> None:
        """Copy all buckets but that of what is derived."""
        store = self._store
        self._jobs()
        self._all(item for item in self._list(store.results) if is_ledger(item.location))
        self._all(item for item in self._list(store.models) if item.location.name == VERDICT_FILE)
        for root in (store.results, store.models, store.datasets):
            self._all(item for item in self._list(root) if names_others(item.location))
        for root in (store.results, store.models, store.datasets):
            self._all(item for item in self._list(root) if not names_others(item.location))

    def _jobs(self) -> None:
        """Copy the records of jobs, with the checkpoints that they name, and then what belongs to these records."""
        found = [item for item in self._list(self._store.jobs) if item.location.key.split("/")[0] not in NOT_KEPT]
        self._all(item for item in found if _part_of_job(item.location) in {"", JOB})
        for job in sorted({_job(item.location) for item in found if _part_of_job(item.location) == _CHECKPOINTS}):
            self._checkpoints(job)
        newest: dict[Location, int] = {}

        def belongs(item: ObjectInfo) -> bool:
            if _part_of_job(item.location) in {"", JOB, _CHECKPOINTS}:
                return False
            job = _job(item.location)
            if job not in newest:
                newest[job] = self._newest_event(job)
            # An event of later than the record would keep the job, once restored, from reporting that number.
            return _event(item.location) <= newest[job]

        self._all(item for item in self._list(self._store.jobs) if belongs(item))

    def _checkpoints(self, job: Location) -> None:
        """Copy the checkpoints of a job, and its record as it was when they were all there."""
        prefix = f"{job / _CHECKPOINTS}/".removeprefix("s3://")
        for _ in range(_CHECKPOINT_TRIES):
            named = self._named(job)
            for name in [name for name in self.kept if name.startswith(prefix)]:
                del self.kept[name]
                (self._target / name).unlink()
            self._all(self._list(job / _CHECKPOINTS))
            self._all([ObjectInfo(job / JOB, -1, "", is_folder=False)])
            if self._named(job) == named:
                return
        _log.warning("the checkpoints of %s change faster than they can be copied: a restore may start it anew", job)

    def _named(self, job: Location) -> list[str]:
        try:
            content = self._store.read_json(job / JOB)
            return list(content["job"].get("checkpoints", ()))
        except (NotFoundError, DamagedError, KeyError, TypeError, AttributeError):
            return []

    def _newest_event(self, job: Location) -> int:
        """Return the number of the newest event that the copied record of a job knows; -1 where there is no record."""
        try:
            content = json.loads((self._target / f"{job.bucket}/{job.key}" / JOB).read_text("utf-8"))
            return int(content["job"].get("lastSequence", 0))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return -1

    def _list(self, folder: Location) -> list[ObjectInfo]:
        return patiently(lambda: [*self._store.objects(folder)], PATIENCE_SECONDS)

    def _all(self, items: Iterable[ObjectInfo]) -> None:
        wanted = [item for item in items if not item.is_folder]
        self._found += len(wanted)
        each(self._one, wanted, len(wanted), lambda _done, _all: self._on_file(len(self.kept), self._found))

    def _one(self, item: ObjectInfo) -> None:
        name = f"{item.location.bucket}/{item.location.key}"
        path = self._target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if self._linked(name, item, path):
            return
        try:
            kept = patiently(lambda: self._download(item.location, path), PATIENCE_SECONDS)
        except NotFoundError:
            # Deleted since it was listed: by then nothing in the snapshot needs it.
            path.unlink(missing_ok=True)
            self.kept.pop(name, None)
            return
        self.kept[name] = kept
        self.copied += 1

    def _linked(self, name: str, item: ObjectInfo, path: Path) -> bool:
        """Take a file from the snapshot before, where it is the same."""
        if self._before is None:
            return False
        folder, snapshot = self._before
        known = snapshot.objects.get(name)
        if known is None or known.size != item.size or not item.etag or known.etag != item.etag:
            return False
        try:
            if (folder / name).stat().st_size != known.size:
                return False
            os.link(folder / name, path)
        except OSError:
            return False  # gone, or a file system without hard links
        self.kept[name] = known
        return True

    def _download(self, place: Location, path: Path) -> Kept:
        """Write an object to a file; return what was written, under the ETag that it had before and after."""
        while True:
            etag, digest, size = self._store.stat(place).etag, hashlib.sha256(), 0
            path.unlink(missing_ok=True)
            with path.open("xb") as file:
                for chunk in self._store.chunks(place):
                    file.write(chunk)
                    digest.update(chunk)
                    size += len(chunk)
            found = self._store.stat(place)
            if (found.etag, found.size) == (etag, size):
                path.chmod(0o400)
                return Kept(size=size, etag=etag, sha256=digest.hexdigest())


def _part_of_job(place: Location) -> str:
    """Return what of a job's record an object is: job.json, events, checkpoints, …; empty: not part of one."""
    parts = place.key.split("/")
    return parts[2] if len(parts) > 2 and not parts[0].startswith(".") else ""


def _job(place: Location) -> Location:
    return Location(place.bucket, "/".join(place.key.split("/")[:2]))


def _event(place: Location) -> int:
    """Return the number of an event of a job; 0 for anything else."""
    number = place.name.removesuffix(".json")
    return int(number) if place.parent.name == "events" and number.isdecimal() else 0


def _newest(folder: Path) -> tuple[Path, Snapshot] | None:
    """Return the newest finished snapshot below a folder that can be read."""
    for path in sorted((path.parent for path in folder.glob(f"*/{INDEX}")), reverse=True):
        try:
            return path, read_snapshot(path)
        except ParfocalError as error:
            _log.warning("%s", error)
    return None


@contextmanager
def _own(folder: Path) -> Iterator[None]:
    """Let nobody else back up to `folder` meanwhile; it is made for its owner only if it does not exist."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise PreconditionError(f"Another back-up to {folder} is under way: wait for its end.") from error
            yield
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise InvalidInputError(
            f"{folder} cannot be used: {error.strerror}. Name a folder that can be written."
        ) from error
