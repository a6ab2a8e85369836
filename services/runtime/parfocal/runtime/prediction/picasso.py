"""Localisations as Picasso reads them: a table in HDF5, and what it says of the recording in YAML.

The file has one dataset, `locs`: a table of 32-bit numbers in one piece. Only what such a file needs of the HDF5 file
format specification, version 1.1 (superblock 0), is written: everything before the table has a fixed size, so that
rows go to disk as they come, and their number is put in at the end. The library h5py would have to be in the
environment of every method for this one table. Tests read the files with it.

Places are those of the table for ThunderSTORM, in pixels: 0 is the corner of the first pixel. It is what Picasso makes
of such a table as well. Columns that a method knows nothing of are left out, because Picasso drops rows with gaps.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

import numpy as np

from parfocal.runtime.datasets.coordinates import Localisations
from parfocal.runtime.images.files import PixelSize

PICASSO: Final = "picasso"
"""Name of the table among the files of an image, and of their folder."""
_SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"
_NOWHERE: Final = 2**64 - 1
_START: Final = 4096
"""Byte at which the table begins."""
_GROUP, _TREE, _HEAP, _NAMES, _ENTRIES, _DATASET = 96, 136, 680, 712, 728, 1056
"""Bytes at which the parts before it begin."""
_NAME: Final = b"locs"


class PicassoFile:
    """The two files of one image, filled as localisations come.

    Parameters
    ----------
    folder, stem
        Where files go, and what the image is called.
    frames, plane
        Number of frames, and their shape (Y, X) in pixels.
    size
        Of a pixel.
    """

    def __init__(self, folder: Path, stem: str, frames: int, plane: tuple[int, int], size: PixelSize) -> None:
        self._dtype = _row_type(["x", "y"])
        self._rows = 0
        self._names = {PICASSO: f"{PICASSO}/{stem}.hdf5", f"{PICASSO}_info": f"{PICASSO}/{stem}.yaml"}
        path = folder / self._names[PICASSO]
        path.parent.mkdir(parents=True, exist_ok=True)
        (folder / self._names[f"{PICASSO}_info"]).write_text(_information(frames, plane, size), encoding="utf-8")
        self._file = path.open("wb")
        self._file.write(hdf5_head(self._dtype, 0))

    def write(self, found: Localisations) -> None:
        """Append localisations; the first ones decide which columns there are."""
        if not len(found.frame):
            return
        known = {
            "x": found.x,
            "y": found.y,
            "photons": found.intensity if np.isfinite(found.intensity).all() else None,
            "lpx": found.uncertainty,
            "lpy": found.uncertainty,
            "confidence": found.confidence,
        }
        if not self._rows:
            self._dtype = _row_type([name for name, values in known.items() if values is not None])
        table = np.zeros(len(found.frame), self._dtype)
        table["frame"] = found.frame
        for name, values in known.items():
            if name in (self._dtype.names or ()):
                table[name] = np.nan if values is None else values
        self._file.write(table.tobytes())
        self._rows += len(table)

    def finish(self) -> dict[str, str]:
        """Complete the files and return them by kind."""
        self._file.seek(0)
        self._file.write(hdf5_head(self._dtype, self._rows))
        self.close()
        return dict(self._names)

    def close(self) -> None:
        """Let go of the file, complete or not."""
        self._file.close()


def hdf5_head(dtype: np.dtype[np.void], rows: int) -> bytes:
    """Return the first 4096 bytes of an HDF5 file with the table `locs`, whose rows follow.

    Parameters
    ----------
    dtype
        Of a row: columns of type <u4 or <f4.
    rows
        How many there are.
    """
    data = rows * dtype.itemsize
    end = _START + data
    root = struct.pack("<QQIIQQ", 0, _GROUP, 1, 0, _TREE, _HEAP)
    sizes = struct.pack("<BBBBBBBBHHI", 0, 0, 0, 0, 0, 8, 8, 0, 4, 16, 0)
    superblock = _SIGNATURE + sizes + struct.pack("<QQQQ", 0, _NOWHERE, end, _NOWHERE) + root
    group = _header([(0x11, struct.pack("<QQ", _TREE, _HEAP))])
    tree = b"TREE" + struct.pack("<BBHQQ", 0, 0, 1, _NOWHERE, _NOWHERE) + struct.pack("<QQQ", 0, _ENTRIES, 8)
    heap = b"HEAP" + struct.pack("<BBBBQQQ", 0, 0, 0, 0, 16, 1, _NAMES)
    names = bytes(8) + _padded(_NAME + b"\0")
    entry = struct.pack("<QQIIQQ", 8, _DATASET, 0, 0, 0, 0)
    entries = b"SNOD" + struct.pack("<BBH", 1, 0, 1) + entry
    dataset = _header(
        [
            (0x01, struct.pack("<BBBBIQ", 1, 1, 0, 0, 0, rows)),
            (0x03, _compound(dtype)),
            (0x05, struct.pack("<BBBB", 2, 2, 2, 0)),
            (0x08, struct.pack("<BBQQ", 3, 1, _START if rows else _NOWHERE, data)),
        ]
    )
    content = bytearray(_START)
    places = (0, _GROUP, _TREE, _HEAP, _NAMES, _ENTRIES, _DATASET)
    for place, part in zip(places, (superblock, group, tree, heap, names, entries, dataset), strict=True):
        content[place : place + len(part)] = part
    assert len(content) == _START
    return bytes(content)


def _row_type(names: list[str]) -> np.dtype[np.void]:
    return np.dtype([("frame", "<u4"), *((name, "<f4") for name in names)])


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 8)


def _header(messages: list[tuple[int, bytes]]) -> bytes:
    """Return an object header, version 1, with messages of these types."""
    parts = [(kind, _padded(content)) for kind, content in messages]
    body = b"".join(struct.pack("<HHBBBB", kind, len(content), 0, 0, 0, 0) + content for kind, content in parts)
    return struct.pack("<BBHIII", 1, 0, len(messages), 1, len(body), 0) + body


def _compound(dtype: np.dtype[np.void]) -> bytes:
    """Return the message of a type of rows."""
    names = dtype.names or ()
    content = struct.pack("<BBBBI", 0x16, len(names), 0, 0, dtype.itemsize)
    for name in names:
        member, offset = dtype.fields[name][:2]  # type: ignore[index]
        content += _padded(name.encode("ascii") + b"\0") + struct.pack("<IBBBBIIIIII", offset, *[0] * 10)
        content += _FLOAT if member == np.dtype("<f4") else _UNSIGNED
    return content


# Little-endian numbers of 32 bits: IEEE 754 with its sign in bit 31, and unsigned.
_FLOAT: Final = struct.pack("<BBBBI", 0x11, 0x20, 0x1F, 0, 4) + struct.pack("<HHBBBBI", 0, 32, 23, 8, 0, 23, 127)
_UNSIGNED: Final = struct.pack("<BBBBI", 0x10, 0, 0, 0, 4) + struct.pack("<HH", 0, 32)


def _information(frames: int, plane: tuple[int, int], size: PixelSize) -> str:
    """Return what Picasso asks of a recording; the size of its pixels in nm."""
    nanometres = 1e3 * float(np.sqrt(size.x * size.y))
    return (
        f"Generated by: Parfocal\nFrames: {frames}\nHeight: {plane[0]}\nWidth: {plane[1]}\nPixelsize: {nanometres:g}\n"
    )
