"""Choice of the threshold of the foreground probability on validation images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.methods.thresholds import THRESHOLDS


def ious(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the intersection over union of the counts at each threshold; 1 where nothing is there or found."""
    union = counts.sum(axis=-1)
    return np.where(union > 0, counts[:, 0] / np.maximum(union, 1), 1.0)


def best_threshold(curve: NDArray[np.float64]) -> float:
    """Return the threshold with the highest IoU; of several that nearest to one half."""
    best = np.flatnonzero(curve == curve.max())
    return min((THRESHOLDS[place] for place in best), key=lambda value: abs(value - 0.5))
