"""The levels of a pyramid: each has half as many rows and columns as the one before."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def level_shapes(height: int, width: int, smallest: int) -> list[tuple[int, int]]:
    """Return the rows and columns of each level of a plane, the full size first, until both are at most `smallest`."""
    shapes = [(height, width)]
    while max(shapes[-1]) > smallest:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    return shapes


def halved(band: NDArray[Any]) -> NDArray[Any]:
    """Return the means of 2 x 2 pixels (Y, X, …) as floats; at a border of odd length, of the pixels that there are."""
    precise = band.dtype if band.dtype.kind == "f" else np.dtype(np.float64 if band.dtype.itemsize > 2 else np.float32)
    odd = [length % 2 for length in band.shape[:2]]
    padded = np.pad(band, [*((0, each) for each in odd), *((0, 0),) * (band.ndim - 2)], "edge") if any(odd) else band
    total = np.zeros((padded.shape[0] // 2, padded.shape[1] // 2, *band.shape[2:]), precise)
    for row, column in np.ndindex(2, 2):
        total += padded[row::2, column::2]
    return total / precise.type(4)


def as_type(pixels: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return pixels in another type; means of whole numbers are rounded."""
    return (np.rint(pixels) if dtype.kind in "ui" and pixels.dtype.kind == "f" else pixels).astype(dtype)
