"""Whether an image was compressed with loss: JPEG changes blocks of 8 x 8 pixels each by itself."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_BLOCK: Final = 8


def blockiness(pixels: NDArray[Any]) -> float:
    """Return how much more neighbouring pixels differ across the borders of JPEG's blocks than inside them.

    Blocks are those of an image that was not cropped since. Of each column and each row of neighbours the mean absolute
    difference is taken, and of these the medians of borders and of the others are divided; the smaller of the ratios
    along X and along Y counts, because structures seldom lie on both grids.

    Parameters
    ----------
    pixels
        Grey values (Y, X), or (Z, Y, X), whose planes are looked at together; at least 32 pixels a side, else 1.

    Returns
    -------
    float
        1 where there are no blocks.
    """
    if min(pixels.shape[-2:]) < 4 * _BLOCK:
        return 1.0
    ratios = []
    for axis in (-1, -2):
        steps = np.abs(np.diff(np.moveaxis(pixels, axis, -1).astype(np.float32), axis=-1))
        means = steps.mean(axis=tuple(range(steps.ndim - 1)))
        border = np.arange(1, len(means) + 1) % _BLOCK == 0
        inside = float(np.median(means[~border]))
        ratios.append(float(np.median(means[border])) / inside if inside > 0 else 1.0)
    return min(ratios)
