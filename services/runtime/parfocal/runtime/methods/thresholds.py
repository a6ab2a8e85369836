"""Scores at thresholds of the foreground probability, without applying each threshold to the image."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

THRESHOLDS: Final = tuple(round(0.01 * step, 2) for step in range(1, 100))
"""The thresholds that are tried: 0.01 to 0.99."""


def threshold_counts(target: NDArray[Any], probability: NDArray[np.floating]) -> NDArray[np.int64]:
    """Count true positives, false positives and false negatives at each of `THRESHOLDS`.

    Parameters
    ----------
    target
        Mask or class indices: above 0 is foreground, below 0 is not annotated and not counted.
    probability
        Probability of foreground, of the same shape, 0 to 1. A pixel that reaches the threshold is foreground.

    Returns
    -------
    NDArray[np.int64]
        (thresholds, 3): tp, fp and fn. Counts of several images add up.
    """
    known = target >= 0
    place = np.searchsorted([*THRESHOLDS], probability[known].astype(np.float64), side="right")
    inside = target[known] > 0
    reached = [
        np.bincount(place[part], minlength=len(THRESHOLDS) + 1)[::-1].cumsum()[::-1][1:] for part in (inside, ~inside)
    ]
    return np.stack([reached[0], reached[1], np.count_nonzero(inside) - reached[0]], axis=-1)
