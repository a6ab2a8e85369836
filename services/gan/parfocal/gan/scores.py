"""Scores of whole images against their targets, by which the best epoch of pix2pix is chosen."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# Of Wang et al.; the window ends at 3.5 standard deviations, which is 11 pixels wide.
_SIGMA: Final = 1.5
_TRUNCATE: Final = 3.5
_K1, _K2 = 0.01, 0.03


def structural_similarity(prediction: NDArray[Any], target: NDArray[Any]) -> float:
    """Return the mean structural similarity of two normalised images, at most 1.

    Wang, Bovik, Sheikh and Simoncelli, IEEE Transactions on Image Processing 13, 600 (2004): Gaussian windows with a
    standard deviation of 1.5 pixels, population moments, a data range of 1, the mean over pixels and channels.

    Parameters
    ----------
    prediction, target
        Of one shape (Y, X, channels).
    """

    def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(ndimage.gaussian_filter(values, (_SIGMA, _SIGMA, 0), truncate=_TRUNCATE))

    first, second = (np.asarray(values, np.float64) for values in (prediction, target))
    mean_first, mean_second = smooth(first), smooth(second)
    variances = smooth(first**2) - mean_first**2 + smooth(second**2) - mean_second**2
    covariance = smooth(first * second) - mean_first * mean_second
    brightness = (2 * mean_first * mean_second + _K1**2) / (mean_first**2 + mean_second**2 + _K1**2)
    return float(np.mean(brightness * (2 * covariance + _K2**2) / (variances + _K2**2)))


def pearson(prediction: NDArray[Any], target: NDArray[Any]) -> float:
    """Return Pearson's correlation of all values of two images; not a number where one has no contrast."""
    first, second = (np.asarray(values, np.float64).ravel() for values in (prediction, target))
    first, second = first - first.mean(), second - second.mean()
    norm = float(np.sqrt(np.sum(first**2) * np.sum(second**2)))
    return float(np.sum(first * second)) / norm if norm > 0 else float("nan")
