"""A local cache of published files. A file's identity is its SHA-256 from the manifest."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from numpy.typing import NDArray

from parfocal.runtime import traces
from parfocal.runtime.errors import DamagedError, DiskFullError
from parfocal.runtime.images._files import partial_path
from parfocal.runtime.images.files import inspect_image
from parfocal.runtime.images.memmaps import decode_to_memmap
from parfocal.runtime.store.housekeeping import free_space
from parfocal.runtime.store.manifests import FileEntry
from parfocal.runtime.store.publish import sha256_of
from parfocal.runtime.store.store import Location, Store, translate_disk_error

_RESERVE = 64 * 2**20


class Cache:
    """Files by digest in one folder, shared by all workers of a machine.

    A file appears under its digest only when complete, so that concurrent workers work without a lock. What is handed
    out is never the cache's own file but a second name of it (a hard link): it stays, whatever leaves the cache, and
    its mere existence says that the file is in use. Whatever is incomplete lies among the second names as well and goes
    with them. Threads of one job share the second names, so for each digest they wait for each other: files of equal
    content are fetched once, and no second name is replaced while another thread takes it.

    Parameters
    ----------
    state
        State folder of the machine; the cache is in it.
    held
        Folder for the second names, as good as always on the same disk. It belongs to one job and is removed with the
        job's scratch folder.
    """

    def __init__(self, state: Path, held: Path) -> None:
        self.folder = state / "cache"
        self._state = state
        self._held = held
        self._locks: dict[str, Lock] = {}

    def fetch(self, store: Store, place: Location, entry: FileEntry) -> Path:
        """Return a local copy of one published file; raise DamagedError if the store's copy is damaged."""
        # The original suffix stays, because image readers go by it.
        name = f"{entry.sha256}{''.join(Path(entry.name).suffixes[-2:])}"
        held, cached = self._held / name, self.folder / entry.sha256[:2] / name
        with self._lock(held):
            if not held.exists():
                try:
                    self._fetch(store, place, entry, held, cached)
                except OSError as error:
                    raise translate_disk_error(error) from error
        return held

    def _fetch(self, store: Store, place: Location, entry: FileEntry, held: Path, cached: Path) -> None:
        """Give a file its second name, from the cache or else from the store."""
        if self._take(cached, held):
            if held.stat().st_size == entry.size:
                return
            held.unlink()
        self._require_space(entry.size)
        part = partial_path(held)
        try:
            store.download(place / entry.name, part)
            if sha256_of(part) != entry.sha256:
                raise DamagedError(
                    f"{place / entry.name} differs from its manifest: the stored file is damaged. "
                    "Publish the data again as a new version."
                )
            part.replace(held)
        finally:
            part.unlink(missing_ok=True)
        _give_name(held, cached)

    def fetch_all(self, store: Store, place: Location, entries: Iterable[FileEntry]) -> list[Path]:
        """Return local copies of several published files, in their order."""
        entries = list(entries)
        size = sum(entry.size for entry in entries)
        with traces.span("download", {"files": len(entries), "bytes": size}), ThreadPoolExecutor(max_workers=4) as pool:
            return list(pool.map(lambda entry: self.fetch(store, place, entry), entries))

    def mirror(self, store: Store, place: Location, entries: Iterable[FileEntry], folder: Path) -> Path:
        """Lay out published files below `folder` under their public names."""
        entries = list(entries)
        for entry, path in zip(entries, self.fetch_all(store, place, entries), strict=True):
            # Location's rules keep a hostile name inside `folder`.
            _give_name(path, folder / (Location("", "") / entry.public_name).key)
        return folder

    def decode(self, path: Path, sha256: str) -> NDArray[Any]:
        """Return the pixels of an image with this digest, memory-mapped and read only; decoded once on a machine.

        Raises
        ------
        InvalidInputError
            The image cannot be read.
        DiskFullError
            There is no room for the pixels.
        """
        held, cached = self._held / f"{sha256}.npy", self.folder / "decoded" / f"{sha256}.npy"
        with self._lock(held):
            known = held.stat().st_ino if held.exists() or self._take(cached, held) else None
            if known is None:
                header = inspect_image(path)
                self._require_space(math.prod(header.shape) * header.dtype.itemsize)
            pixels = decode_to_memmap(path, self._held, sha256)
            if held.stat().st_ino != known:  # new, or the cache's was damaged
                _give_name(held, cached)
        return pixels

    def _lock(self, held: Path) -> Lock:
        """Return the lock of one second name; `dict.setdefault` gives all threads the same."""
        return self._locks.setdefault(held.name, Lock())

    def _take(self, cached: Path, held: Path) -> bool:
        """Give a file of the cache its second name and mark it as used now; return False if it is not there."""
        try:
            _give_name(cached, held)
        except FileNotFoundError:
            return False
        with contextlib.suppress(FileNotFoundError):  # it may leave the cache at any time
            os.utime(cached)
        return True

    def _require_space(self, size: int) -> None:
        free = free_space(self._held, self._state, size + _RESERVE)
        if free < size + _RESERVE:
            raise DiskFullError(
                f"The cache folder {self.folder} has {free / 2**20:.0f} MiB left, but {size / 2**20:.0f} MiB are "
                "required. Free some space, or move the cache by setting PARFOCAL_STATE_DIR."
            )


def _give_name(path: Path, target: Path) -> None:
    """Make `target` a second name of the file `path`, or a copy where the file system has no such names."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(target)
    try:
        try:
            os.link(path, partial)
        except FileNotFoundError:
            raise
        except OSError:
            shutil.copyfile(path, partial)
        partial.replace(target)
    finally:
        # Replacing a name by another one of the same file leaves both.
        partial.unlink(missing_ok=True)
