"""All files of an entry as one ZIP archive, written while it is sent: nothing is kept on a disk or whole in memory."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from datetime import UTC

from parfocal.catalog.entries import Published
from parfocal.runtime.store.store import Store


class _Pipe(io.RawIOBase):
    """A file that can only be written, and gives what was written since the last time."""

    def __init__(self) -> None:
        self._written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        self._written += data
        return len(data)

    def take(self) -> bytes:
        """Return what was written since the last time."""
        data = bytes(self._written)
        self._written.clear()
        return data


def archive(store: Store, found: Published) -> Iterator[bytes]:
    """Yield a ZIP archive of the manifest and all files of an entry, under their public names.

    Nothing is compressed: images are already.
    """
    pipe, place = _Pipe(), found.place
    written = found.manifest.created_at.astimezone(UTC).timetuple()[:6]
    files = [(place.kind.manifest, place.manifest, found.size)]
    files += [(entry.public_name, place.location / entry.name, entry.size) for entry in found.manifest.files]
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED, allowZip64=True) as target:
        for name, location, size in files:
            info = zipfile.ZipInfo(name, max(written, (1980, 1, 1, 0, 0, 0)))
            info.file_size = size
            with target.open(info, "w", force_zip64=size >= 2**31) as file:
                for data in store.chunks(location):
                    file.write(data)
                    yield pipe.take()
    yield pipe.take()
