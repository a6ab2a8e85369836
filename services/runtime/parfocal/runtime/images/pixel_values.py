"""Which values of pixels can be computed with: one rule for datasets, training, prediction and quality control."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

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
    # Both are NaN as soon as one pixel is. No array of the image's size is made unless something is wrong.
    if abs(float(pixels.min())) <= LARGEST_VALUE and abs(float(pixels.max())) <= LARGEST_VALUE:
        return 0
    return int(np.count_nonzero(~(np.abs(pixels) <= LARGEST_VALUE)))
