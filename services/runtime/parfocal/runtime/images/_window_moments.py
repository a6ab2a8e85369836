"""Weighted means and variances in the Gaussian window of SSIM, and SSIM from them, in float32 without loss of digits.

The usual ``mean(x**2) - mean(x)**2`` loses all digits in float32 on a bright, even area. Here moments are taken about
the value in the middle of each window, one axis after the other by the law of total variance, so that no large numbers
are subtracted. Everything works in place on flat arrays, a band of rows at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

SSIM_WINDOW: Final = 11
SSIM_BORDER: Final = 5
SSIM_SIGMA: Final = 1.5
SSIM_K1: Final = 0.01
SSIM_K2: Final = 0.03

BAND_PIXELS: Final = 48_000
"""Pixels worked on at once, so that the temporaries of a band stay in the processor's cache."""


def _gaussian_weights() -> tuple[np.float32, ...]:
    offsets = np.arange(-SSIM_BORDER, SSIM_BORDER + 1)
    weights = np.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    return tuple(np.float32(weight) for weight in weights / weights.sum())


WEIGHTS: Final = _gaussian_weights()


def window_moments(values: Float32, row: int, mean: Float32, variance: Float32, temporary: Sequence[Float32]) -> None:
    """Write mean and variance over the window of each pixel, down the columns first, then along the rows."""
    column_mean, column_variance, deviation, weighted = temporary
    size = mean.size
    moments(shifted(values, row, size), column_mean, column_variance, deviation, weighted)
    # The last ten pixels have no full window along the row; they lie in what the caller drops.
    end = size - 2 * SSIM_BORDER
    mean[end:] = 0
    variance[end:] = 0
    moments(shifted(column_mean, 1, end), mean[:end], variance[:end], deviation[:end], weighted[:end])
    add_weighted_mean(shifted(column_variance, 1, end), variance[:end], weighted[:end])


def similarity(
    moments_of_sum: tuple[Float32, Float32],
    moments_of_difference: tuple[Float32, Float32],
    temporary: Sequence[Float32],
    c2: float,
    contrast: bool,
) -> tuple[Float32, Float32]:
    """SSIM of two images from mean and variance of their sum and of their difference, which are overwritten.

    Working on sum and difference instead of on the images needs two variances and no covariance. Beside SSIM stands
    the contrast and structure term, which is meaningless unless `contrast` is true; both lie in `temporary`.
    """
    (sum_mean, sum_variance), (difference_mean, difference_variance) = moments_of_sum, moments_of_difference
    # With s = x + y and d = x - y: 4 mx my = ms^2 - md^2, 2 (mx^2 + my^2) = ms^2 + md^2; the same for variances.
    c1, two_c2 = np.float32(2 * SSIM_K1**2), np.float32(2 * c2)
    sum_mean *= sum_mean
    difference_mean *= difference_mean
    result, structure = temporary[:2]
    np.subtract(sum_mean, difference_mean, out=result)
    result += c1
    np.subtract(sum_variance, difference_variance, out=structure)
    structure += two_c2
    result *= structure
    sum_mean += difference_mean
    sum_mean += c1
    sum_variance += difference_variance
    sum_variance += two_c2
    sum_mean *= sum_variance
    result /= sum_mean
    if contrast:
        structure /= sum_variance
    return result, structure


def shifted(values: Float32, step: int, size: int) -> list[Float32]:
    return [values[k * step : k * step + size] for k in range(SSIM_WINDOW)]


def moments(taps: Sequence[Float32], mean: Float32, variance: Float32, deviation: Float32, weighted: Float32) -> None:
    """Write weighted mean and variance over eleven shifted views, as deviations from the middle one."""
    middle = taps[SSIM_BORDER]
    mean.fill(0)
    variance.fill(0)
    for k, tap in enumerate(taps):
        if k == SSIM_BORDER:
            continue
        np.subtract(tap, middle, out=deviation)
        np.multiply(deviation, WEIGHTS[k], out=weighted)
        mean += weighted
        weighted *= deviation
        variance += weighted
    np.multiply(mean, mean, out=deviation)
    variance -= deviation
    mean += middle


def add_weighted_mean(taps: Sequence[Float32], total: Float32, part: Float32) -> None:
    """Add the weighted mean over eleven shifted views to `total`; opposite views share a weight."""
    np.multiply(taps[SSIM_BORDER], WEIGHTS[SSIM_BORDER], out=part)
    total += part
    for k in range(SSIM_BORDER):
        np.add(taps[k], taps[-1 - k], out=part)
        part *= WEIGHTS[k]
        total += part
