"""Arrays that are larger than the memory should hold: they lie in a file and are used like any other array.

Whoever goes through such an array does so window by window (`blocks`) and releases the pages behind it (`release`), so
that the memory of a process depends on the windows and not on the image.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from parfocal.runtime.errors import DiskFullError

BLOCK_PIXELS: Final = 2**22
"""The most pixels of a window in which an array is gone through."""


@dataclass(frozen=True)
class Scratch:
    """Where arrays lie: in memory, or in files of a folder from a certain size on.

    Attributes
    ----------
    folder
        Must have room for the arrays. None: all arrays are in memory.
    most_bytes
        The largest array that is in memory, in bytes.
    """

    folder: Path | None = None
    most_bytes: int = 2**24

    def holds(self, shape: Sequence[int], dtype: DTypeLike) -> bool:
        """Return whether an array of this shape and dtype is in memory."""
        return self.folder is None or math.prod(shape) * np.dtype(dtype).itemsize <= self.most_bytes

    def zeros(self, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        """Return an array of zeros, whose file, if it has one, goes with the last reference to it.

        Raises
        ------
        DiskFullError
            The folder has no room for it.
        """
        if self.folder is None or self.holds(shape, dtype):
            return np.zeros(tuple(shape), dtype)
        self.folder.mkdir(parents=True, exist_ok=True)
        size = math.prod(shape) * np.dtype(dtype).itemsize
        with tempfile.TemporaryFile(dir=self.folder) as file:
            try:
                reserve(file.fileno(), size)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise DiskFullError(
                        f"No room for {size / 2**30:.1f} GiB of pixels in {self.folder}: free space on this disk, then "
                        "try again."
                    ) from error
                raise
            return np.memmap(file, dtype, "r+", 0, tuple(shape))


IN_MEMORY: Final = Scratch()
"""All arrays are in memory."""


def reserve(descriptor: int, size: int) -> None:
    """Make a file as long as this, in bytes, with all room at once.

    A disk that is full when a mapped page is written ends the process.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)


def release(array: NDArray[Any]) -> None:
    """Let go of the memory that a mapped array, or the one that this is a view of, has taken; nothing is lost.

    Other arrays are left as they are.
    """
    held: Any = array
    owner: Any = None
    while isinstance(held, np.ndarray):
        owner, held = held, held.base
    # What is written to a private or anonymous mapping would be lost.
    shared = isinstance(owner, np.memmap) and owner.mode in ("r", "r+", "w+")
    if shared and isinstance(held, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        held.madvise(mmap.MADV_DONTNEED)


def blocks(shape: Sequence[int], most_pixels: int = BLOCK_PIXELS) -> Iterator[tuple[slice, ...]]:
    """Yield the windows that an array is gone through in, in C order; a small array is a single one.

    Parameters
    ----------
    shape
        Shape of the array.
    most_pixels
        The most elements of a window, which are contiguous: whole rows, or a part of one.
    """
    steps, rest = [], math.prod(shape)
    for length in shape:
        rest //= max(1, length)
        steps.append(max(1, min(length, most_pixels // max(1, rest))))
    counts = [-(-length // step) for length, step in zip(shape, steps, strict=True)]
    for place in np.ndindex(*counts):
        yield tuple(
            slice(at * step, min((at + 1) * step, length)) for at, step, length in zip(place, steps, shape, strict=True)
        )


def contiguous(array: NDArray[Any], scratch: Scratch) -> NDArray[Any]:
    """Return an array whose elements lie in C order: itself, or a copy of it that `scratch` holds if it is large."""
    if array.flags.c_contiguous or scratch.holds(array.shape, array.dtype):
        return array
    out = scratch.zeros(array.shape, array.dtype)
    for window in blocks(array.shape):
        out[window] = array[window]
        release(array)
        release(out)
    return out


def copied(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array of any strides in memory, copied window by window."""
    out = np.empty(array.shape, array.dtype)
    for window in blocks(array.shape):
        out[window] = array[window]
        release(array)
    return out
