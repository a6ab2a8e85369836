"""Going through images that the memory need not hold: bands of rows, and windows that stand for a very large image.

Where a number is a sum over pixels, bands add up to what the whole image gives, to the rounding of sums; where a pixel
depends on its surroundings, a band comes with the rows around it. An image of up to `BAND_PIXELS` is a single band.
What needs all pixels of an image at once, as a spectrum does, is taken from `sample_windows` of one with more than
`LARGE_PIXELS`: their places follow from its shape alone, so that the same image always gives the same number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from parfocal.runtime.images.scratch import IN_MEMORY, Scratch, release
from parfocal.runtime.images.scratch import blocks as windows

BAND_PIXELS = 2**22
"""The most pixels of a band."""
LARGE_PIXELS = 2**25
"""The most pixels of an image that is worked on as a whole by what needs all of its pixels at once."""
SAMPLE_SIDE = 1024
SAMPLED = "up to 16 windows of 1024 x 1024 pixels on a grid, or 4 narrower ones of all planes of a stack"
"""What `sample_windows` are, for sentences."""
_SAMPLES = 4
"""Windows along each side of a sampled plane."""


@dataclass(frozen=True)
class Band:
    """Some rows of a plane.

    Attributes
    ----------
    rows
        The rows.
    padded
        The rows with those around them, as far as there are any.
    """

    rows: slice
    padded: slice

    @property
    def context(self) -> tuple[int, int]:
        """How many rows there are around it: above and below."""
        return self.rows.start - self.padded.start, self.padded.stop - self.rows.stop

    @property
    def core(self) -> slice:
        """The rows of the band among its padded ones."""
        return slice(self.rows.start - self.padded.start, self.rows.stop - self.padded.start)


def bands(shape: Sequence[int], around: int = 0, multiple: int = 2) -> Iterator[Band]:
    """Yield the bands of a plane, or of a stack along its first axis.

    Parameters
    ----------
    shape
        Shape of the array.
    around
        Rows that are needed around each.
    multiple
        Each but the last has a multiple of so many rows.
    """
    height = shape[0]
    step = height
    if math.prod(shape) > BAND_PIXELS:
        step = max(multiple, BAND_PIXELS // math.prod(shape[1:]) // multiple * multiple)
    for start in range(0, height, step):
        stop = min(start + step, height)
        yield Band(slice(start, stop), slice(max(0, start - around), min(height, stop + around)))


def blocks(shape: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Yield windows of any image, each of as many pixels as a band, for what looks at each pixel by itself."""
    return windows(shape, BAND_PIXELS)


def by_blocks(
    function: Callable[..., npt.NDArray[Any]],
    arrays: Sequence[npt.NDArray[Any]],
    dtype: npt.DTypeLike,
    scratch: Scratch = IN_MEMORY,
) -> npt.NDArray[Any]:
    """Apply a function to arrays of one shape block by block, pixel by pixel, and return its results in `scratch`."""
    shape = arrays[0].shape
    out = scratch.zeros(shape, dtype)
    # An array without pixels is for the function to refuse.
    for window in list(blocks(shape)) or [(slice(None),) * len(shape)]:
        out[window] = function(*(array[window] for array in arrays))
        for array in (*arrays, out):
            release(array)
    return out


def filtered_bands(
    image: npt.NDArray[Any], function: Callable[[npt.NDArray[Any]], npt.NDArray[Any]], around: int
) -> Iterator[npt.NDArray[Any]]:
    """Yield the bands of an image (…, Y, X) after a filter of its planes: plane by plane, each from top to bottom.

    Parameters
    ----------
    image
        Need not be in memory.
    function
        Returns the filtered rows of a part of a plane.
    around
        Rows that it needs around each pixel.
    """
    for plane in image.reshape(-1, *image.shape[-2:]):
        for band in bands(plane.shape, around):
            yield function(plane[band.padded])[band.core]
            release(image)


def filtered(
    image: npt.NDArray[Any],
    function: Callable[[npt.NDArray[Any]], npt.NDArray[Any]],
    around: int,
    scratch: Scratch = IN_MEMORY,
) -> npt.NDArray[np.float32]:
    """Return an image after a filter of its planes, float32, which lies in `scratch`; see `filtered_bands`."""
    out: npt.NDArray[np.float32] = scratch.zeros(image.shape, np.float32)
    rows, start = out.reshape(-1, image.shape[-1]), 0
    for part in filtered_bands(image, function, around):
        rows[start : start + len(part)] = part
        start += len(part)
        release(out)
    return out


def is_large(shape: Sequence[int]) -> bool:
    """Return whether an image is too large for what needs all of its pixels at once."""
    return math.prod(shape) > LARGE_PIXELS


def sample_windows(shape: Sequence[int]) -> list[tuple[slice, ...]]:
    """Return the windows that stand for a large image, on a grid from edge to edge; of another one all of it.

    Parameters
    ----------
    shape
        (Y, X), or (Z, Y, X), whose windows have all planes.

    Returns
    -------
    list of tuple of slice
        Of large planes up to 4 x 4 windows of 1024 x 1024 pixels, fewer along a side that is too short for them. Of
        stacks up to 2 x 2 windows, as wide as makes them together as large.
    """
    if not is_large(shape):
        return [(slice(None),) * len(shape)]
    depth = math.prod(shape[:-2])
    count = _SAMPLES if depth == 1 else _SAMPLES // 2
    side = SAMPLE_SIDE if depth == 1 else max(16, math.isqrt((_SAMPLES * SAMPLE_SIDE) ** 2 // (count**2 * depth)))
    places = [_places(length, side, count) for length in shape[-2:]]
    leading = (slice(None),) * (len(shape) - 2)
    return [(*leading, rows, columns) for rows in places[0] for columns in places[1]]


def _places(length: int, side: int, count: int) -> list[slice]:
    side = min(side, length)
    count = min(count, length // side)
    if count == 1:
        starts = [(length - side) // 2]
    else:
        starts = [number * (length - side) // (count - 1) for number in range(count)]
    return [slice(start, start + side) for start in starts]
