"""Which values of pixels can be computed with: one rule for datasets, training, prediction and quality control."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.images.scratch import blocks, release

LARGEST_VALUE: Final = 1e30
"""Far above any grey value, and far enough below float32's 3.4e38 that a network's output, scaled back, still fits."""


def count_unusable(pixels: NDArray[Any]) -> int:
    """Return how many pixels are not a number, infinite or beyond `LARGEST_VALUE`; integers never are.

    Parameters
    ----------
    pixels
        Any real array with at least one pixel.
    """
    if pixels.dtype.kind != "f":
        return 0
    # Both are NaN as soon as one pixel is.
    if all(abs(float(value)) <= LARGEST_VALUE for value in value_range(pixels)):
        return 0
    number = 0
    for window in blocks(pixels.shape):
        number += int(np.count_nonzero(~(np.abs(pixels[window]) <= LARGEST_VALUE)))
        release(pixels)
    return number


def value_range(pixels: NDArray[Any]) -> tuple[Any, Any]:
    """Return the smallest and the largest value of an image, which need not be in memory; NaN as soon as a pixel is.

    Parameters
    ----------
    pixels
        Any real array with at least one pixel.
    """
    lows, highs = [], []
    for window in blocks(pixels.shape):
        part = pixels[window]
        lows.append(part.min())
        highs.append(part.max())
        release(pixels)
    return np.min(lows), np.max(highs)
