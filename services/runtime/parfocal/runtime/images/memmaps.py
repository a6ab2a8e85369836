"""Arrays in .npy files, memory-mapped: decoded images in a cache, and what trainings make of them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from parfocal.runtime.errors import DiskFullError
from parfocal.runtime.images._files import writing
from parfocal.runtime.images.files import DEFAULT_LIMITS, Decoder, opened_image, read_image
from parfocal.runtime.images.scratch import reserve


def decode_to_memmap(path: Path, folder: Path, key: str) -> NDArray[Any]:
    """Decode an image once into `folder` and return it memory-mapped, read only.

    A TIFF whose pixels need no change is decoded part by part into the file: it may be larger than the memory.

    Parameters
    ----------
    path
        The image; it is not looked at when the folder has the pixels already.
    folder
        A cache folder of this machine; made when missing.
    key
        Names the content, e.g. the SHA-256 of the file. The same key always means the same pixels.

    Returns
    -------
    NDArray
        The pixels as `read_image` gives them.

    Raises
    ------
    InvalidInputError
        As for `read_image`.
    DiskFullError
        The folder has no room.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,128}", key):
        raise ValueError(f"key {key!r} is no digest")
    target = folder / f"{key}.npy"
    if (mapped := _load_mapped(target)) is not None:
        return mapped
    with opened_image(path, DEFAULT_LIMITS) as (header, decode):
        if isinstance(decode, Decoder) and decode.plain:
            with writing_memmap(target, header.shape, header.dtype) as out:
                decode.into(out)
            return read_memmap(target)
    return write_memmap(target, read_image(path).pixels)


@contextmanager
def writing_memmap(path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> Iterator[NDArray[Any]]:
    """Give an array to be filled, which is a .npy file afterwards, see `read_memmap`; DiskFullError without room."""
    dtype = np.dtype(dtype)
    with writing(path) as handle:
        head = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(handle, head)
        begin = handle.tell()
        reserve(handle.fileno(), begin + math.prod(shape) * dtype.itemsize)
        handle.flush()
        mapped = np.memmap(handle, dtype, "r+", begin, shape)
        yield mapped
        mapped.flush()


def write_memmap(path: Path, pixels: NDArray[Any]) -> NDArray[Any]:
    """Write an array to a .npy file and return it memory-mapped, read only; raise DiskFullError without room."""
    pixels = np.ascontiguousarray(pixels)
    with writing(path) as handle:
        # Not np.save: it hides a full disk behind an OSError without a number.
        np.lib.format.write_array_header_1_0(handle, np.lib.format.header_data_from_array_1_0(pixels))
        handle.write(pixels.data)
    return read_memmap(path)


def read_memmap(path: Path) -> NDArray[Any]:
    """Return an array that was written to a .npy file, memory-mapped and read only."""
    mapped = _load_mapped(path)
    if mapped is None:
        raise DiskFullError(f"{path} could not be read back after writing: check the disk of the cache folder")
    return mapped


def _load_mapped(path: Path) -> NDArray[Any] | None:
    """Memory-map a cached array; None when it is not there or no longer whole."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    return array
