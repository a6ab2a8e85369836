"""Where probabilities of foreground are cut, as it suits validation images."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

THRESHOLDS: Final = tuple(round(0.01 * step, 2) for step in range(1, 100))
"""The thresholds that are tried: 0.01 to 0.99."""


def threshold_counts(target: NDArray[Any], probability: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return true positives, false positives and false negatives (thresholds, 3) at each of `THRESHOLDS`.

    Parameters
    ----------
    target
        Class indices: above 0 is foreground, below 0 is not annotated and not counted.
    probability
        Of foreground; foreground is what reaches the threshold.
    """
    known = target >= 0
    place = np.searchsorted([*THRESHOLDS], probability[known].astype(np.float64), side="right")
    inside = target[known] > 0
    reached = [
        np.bincount(place[part], minlength=len(THRESHOLDS) + 1)[::-1].cumsum()[::-1][1:] for part in (inside, ~inside)
    ]
    return np.stack([reached[0], reached[1], np.count_nonzero(inside) - reached[0]], axis=-1)


def ious(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the intersection over union of the counts at each threshold; 1 where nothing is there or found."""
    union = counts.sum(axis=-1)
    return np.where(union > 0, counts[:, 0] / np.maximum(union, 1), 1.0)


def best_threshold(curve: NDArray[np.float64]) -> float:
    """Return the threshold with the highest IoU; of several that nearest to one half."""
    best = np.flatnonzero(curve == curve.max())
    return min((THRESHOLDS[place] for place in best), key=lambda value: abs(value - 0.5))
