"""A local cache of published files. A file's identity is its SHA-256 from the manifest."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from parfocal.runtime.errors import DamagedError, DiskFullError
from parfocal.runtime.manifests import FileEntry
from parfocal.runtime.publish import sha256_of
from parfocal.runtime.store import Location, Store, translate_disk_error

_RESERVE = 64 * 2**20


class Cache:
    """Files by digest below one folder, shared by all workers of a machine.

    A file appears under its digest only when complete, so concurrent workers need no lock.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fetch(self, store: Store, place: Location, entry: FileEntry) -> Path:
        """Return a local copy of one published file; raise InvalidInputError if the store's copy is damaged."""
        # The original suffix stays, because image readers go by it.
        path = self.folder / entry.sha256[:2] / f"{entry.sha256}{''.join(Path(entry.name).suffixes[-2:])}"
        if path.exists() and path.stat().st_size == entry.size:
            os.utime(path)
            return path
        self._require_space(entry.size)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=".incoming-") as incoming:
                part = Path(incoming) / "part"
                store.download(place / entry.name, part)
                if sha256_of(part) != entry.sha256:
                    raise DamagedError(
                        f"{place / entry.name} differs from its manifest: the stored file is damaged. "
                        "Publish the data again as a new version."
                    )
                part.rename(path)
        except OSError as error:
            raise translate_disk_error(error) from error
        return path

    def fetch_all(self, store: Store, place: Location, entries: Iterable[FileEntry]) -> list[Path]:
        """Return local copies of several published files, in their order."""
        with ThreadPoolExecutor(max_workers=4) as pool:
            return list(pool.map(lambda entry: self.fetch(store, place, entry), list(entries)))

    def mirror(self, store: Store, place: Location, entries: Iterable[FileEntry], folder: Path) -> Path:
        """Lay out published files below `folder` under their own names (links into the cache)."""
        entries = list(entries)
        for entry, path in zip(entries, self.fetch_all(store, place, entries), strict=True):
            # Location's rules keep a hostile name inside `folder`.
            target = folder / (Location("", "") / entry.name).key
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                target.unlink(missing_ok=True)
                os.link(path, target)
            except OSError:
                shutil.copyfile(path, target)
        return folder

    def decoded(self) -> Path:
        """Return the folder for images decoded to memory-mapped arrays."""
        folder = self.folder / "decoded"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _require_space(self, size: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if free < size + _RESERVE:
            raise DiskFullError(
                f"The cache folder {self.folder} has {free / 2**20:.0f} MiB left, but {size / 2**20:.0f} MiB are "
                "needed. Free some space, or move the cache by setting PARFOCAL_STATE_DIR."
            )
