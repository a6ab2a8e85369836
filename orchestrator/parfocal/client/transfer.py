"""Files between this computer and the store, with progress and checked by their digests."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Lock
from typing import TypeVar

from parfocal import v1
from parfocal.client.client import Client
from parfocal.runtime.errors import (
    AlreadyExistsError,
    DiskFullError,
    InvalidInputError,
    NotFoundError,
    ParfocalError,
    UnavailableError,
)
from parfocal.runtime.store.manifests import FileEntry
from parfocal.runtime.store.publish import sha256_of
from parfocal.runtime.store.store import Location

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_R = TypeVar("_R")
_THREADS = 4
_SIGNED_AT_ONCE = 100

OnProgress = Callable[[int, int, str], None]
"""Called with the number of files done, their number in all, and the name of the one just done."""


def no_progress(_done: int, _total: int, _name: str) -> None:
    """Show nothing."""


def for_each(
    items: Iterable[tuple[str, _T]], action: Callable[[_T], _R], on_progress: OnProgress = no_progress
) -> list[_R]:
    """Return `action` of each named item, in order; a few run at a time, and the first failure ends all."""
    named = list(items)
    done = 0
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        futures: dict[Future[_R], str] = {pool.submit(action, item): name for name, item in named}
        pending = set(futures)
        try:
            while pending:
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                    done += 1
                    on_progress(done, len(named), futures[future])
        except BaseException:
            # Also on Ctrl-C: what has not begun must not begin.
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        return [future.result() for future in futures]


def download_files(
    client: Client,
    uri: str,
    entries: Iterable[FileEntry],
    folder: Path,
    *,
    overwrite: bool = False,
    on_progress: OnProgress = no_progress,
    name: Callable[[FileEntry], str] = lambda entry: entry.public_name,
    finish: Callable[[FileEntry, Path, Path], object] = lambda _, part, path: part.replace(path),
) -> list[Path]:
    """Download files of the entry at an address below `folder` and return their paths.

    Parameters
    ----------
    client, uri, entries
        Files of what is published at an address.
    folder
        Where they go.
    overwrite
        Whether files that exist are replaced.
    on_progress
        Called after each file.
    name
        Returns the name that a file gets below `folder`: its public name, if nothing else is asked for.
    finish
        Given an entry, the fetched file and a path, makes the file at that path.

    Raises
    ------
    AlreadyExistsError
        Some exist already and `overwrite` is false; nothing was written.
    InvalidInputError
        The store's copy differs from the manifest.
    """
    # Location's rules keep a hostile name inside `folder`.
    targets = [(entry, folder / (Location("", "") / name(entry)).key) for entry in entries]
    if not overwrite:
        refuse_existing([path for _, path in targets])
    signed = _Signed(client, uri, [entry.public_name for entry, _ in targets])

    def fetch(item: tuple[FileEntry, Path]) -> Path:
        entry, path = item
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=".incoming-") as incoming:
                part = Path(incoming) / "part"
                signed.fetch(entry.public_name, part)
                if sha256_of(part) != entry.sha256:
                    raise InvalidInputError(
                        f"{uri}/{entry.name} differs from its manifest: the stored file is damaged."
                    )
                finish(entry, part, path)
        except OSError as error:
            raise local_error(error, path) from error
        return path

    return for_each([(entry.public_name, (entry, path)) for entry, path in targets], fetch, on_progress)


class _Signed:
    """Requests that fetch files, signed a hundred at a time when they are needed: they expire.

    Where the store cannot be reached from here, files come through the catalogue, which is slower.
    """

    def __init__(self, client: Client, uri: str, names: Sequence[str]) -> None:
        self._catalog = client.catalog
        self._uri = uri
        self._names = list(names)
        self._known: dict[str, v1.SignedRequest] = {}
        self._lock = Lock()
        self._direct = True

    def fetch(self, name: str, path: Path) -> None:
        """Write a file to `path`."""
        status = 0
        for _ in range(2 if self._direct else 0):
            try:
                status = self._catalog.fetch(self._request(name), path)
            except UnavailableError as error:
                _log.warning("%s Files come through the catalogue.", error.message)
                self._direct = False
                break
            if status == 200:
                return
            if status != 403:
                break
            with self._lock:  # expired
                self._known.clear()
        if not self._direct:
            with path.open("wb") as file:
                for data in self._catalog.parts(self._uri, name):
                    file.write(data)
            return
        if status == 404:
            raise NotFoundError(f"{self._uri}/{name} is missing in the store. Restore it from a backup.")
        raise UnavailableError(f"The store refused to give {self._uri}/{name} (status {status}). Look into its log.")

    def _request(self, name: str) -> v1.SignedRequest:
        with self._lock:
            if name not in self._known:
                begin = self._names.index(name)
                wanted = self._names[begin : begin + _SIGNED_AT_ONCE]
                answer = self._catalog.sign_downloads(self._uri, wanted)
                self._known = {file.name: file.request for file in answer}
            return self._known[name]


def refuse_existing(paths: Iterable[Path]) -> None:
    """Raise AlreadyExistsError naming those of `paths` that exist."""
    there = [path for path in paths if path.exists()]
    if there:
        names = ", ".join(path.name for path in there[:5]) + (f" and {len(there) - 5} more" if len(there) > 5 else "")
        raise AlreadyExistsError(
            f"{there[0].parent} has {names} already; nothing was written. Choose another folder, or --overwrite."
        )


def check_output(folder: Path, names: Sequence[str], *, overwrite: bool) -> None:
    """Look whether results can be written to a folder before hours are spent on them; it is not made yet.

    Raises
    ------
    AlreadyExistsError
        It has files of these names already, and `overwrite` is false.
    DiskFullError, InvalidInputError
        It cannot be made or written.
    """
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".incoming-"):
            pass
    except OSError as error:
        raise local_error(error, there / names[0]) from error
    if not overwrite:
        refuse_existing([folder / name for name in names])


def local_error(error: OSError, path: Path) -> ParfocalError:
    """Return what people are told where a file cannot be written to this computer."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFullError(f"There is no room for {path}: free space on this disk, or choose another folder.")
    if isinstance(error, FileExistsError | NotADirectoryError):
        return InvalidInputError(f"{path.parent} is a file, not a folder. Choose another folder.")
    why = os.strerror(error.errno) if error.errno else str(error)
    return InvalidInputError(f"{path} cannot be written: {why}. Choose another folder.")
