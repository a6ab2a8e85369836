"""Targets of StarDist's loss of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom


def class_targets(
    labels: NDArray[Any], classes: NDArray[Any], count: int, grid: Sequence[int], ignored: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return the probability of each class for a batch, as stardist makes it (`mask_to_categorical`, then `zoom`).

    Parameters
    ----------
    labels
        Label images behind a batch axis; what is not above 0 is background.
    classes
        Images of the class of the object each pixel belongs to, of the same shape; 0 where it is unknown.
    count
        Number of classes.
    grid
        Steps of the network's grid along the spatial axes.
    ignored
        Mask on the grid, with a trailing axis of length 1, of the pixels that are ignored.

    Returns
    -------
    NDArray
        float32 on the grid, with the background and the classes behind: 1 for the true one, 0 for others, and -1 where
        the loss shall not look. Objects of unknown class still count as foreground.
    """
    inside = labels > 0
    known = np.where(inside, classes, 0)
    probability = (known[..., np.newaxis] == np.arange(count + 1)).astype(np.float32)
    probability[..., 0] = ~inside
    probability[inside & (known == 0), 1:] = -1
    if max(grid) > 1:
        # Not by slicing: the grid of stardist's own targets of classes is up to a pixel beside that of the others.
        probability = zoom(probability, (1, *(1 / step for step in grid), 1), order=0)
    return np.where(ignored, np.float32(-1), probability)
