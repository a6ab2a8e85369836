"""Structural similarity of two grey-value images, exact in float32 and several times faster than float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from parfocal.qc.metrics._arrays import Float32
from parfocal.runtime.errors import InvalidInputError

SSIM_WINDOW: Final = 11
SSIM_BORDER: Final = 5
SSIM_SIGMA: Final = 1.5
SSIM_K1: Final = 0.01
SSIM_K2: Final = 0.03

_BAND_PIXELS: Final = 48_000
"""Pixels worked on at once, so that the temporaries of a band stay in the processor's cache."""


def ssim_map(x: npt.NDArray[np.floating], y: npt.NDArray[np.floating]) -> Float32:
    """Local structural similarity of two images with a data range of 1.

    The window is an 11x11 Gaussian of sigma 1.5 (cut at five pixels, edges mirrored), K1 = 0.01, K2 = 0.03,
    with population variances: Wang et al., IEEE Trans. Image Processing 13 (2004) 600, and what
    `skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    data_range=1, full=True)` gives in float64, to 3e-6.

    Parameters
    ----------
    x, y
        Finite images of the same shape (Y, X), at least 11x11, scaled so that 0..1 is the data range.

    Returns
    -------
    numpy.ndarray
        float32 of the same shape, each value in -1..1 (to rounding); 1 where the images agree.

    Raises
    ------
    InvalidInputError
        The shapes differ, or an image is not two-dimensional or smaller than the window.

    Notes
    -----
    The usual ``mean(x**2) - mean(x)**2`` loses all digits in float32 on a bright, even area. Here moments are
    taken about the pixel in the middle of each window, first down the columns, then along the rows by the
    law of total variance, so that no large numbers are subtracted. Working on sum and difference of the images
    instead of on the images needs two variances and no covariance.
    """
    check_windowed(x, y)
    height, width = x.shape
    row = width + 2 * SSIM_BORDER
    padded_x = np.pad(x, SSIM_BORDER, mode="symmetric").ravel()
    padded_y = np.pad(y, SSIM_BORDER, mode="symmetric").ravel()
    total = np.add(padded_x, padded_y, dtype=np.float64).astype(np.float32)
    difference = np.subtract(padded_x, padded_y, dtype=np.float64).astype(np.float32)

    rows_at_once = max(1, _BAND_PIXELS // row)
    workspace = np.empty((8, rows_at_once * row), np.float32)
    result = np.empty((height, width), np.float32)
    for top in range(0, height, rows_at_once):
        rows = min(rows_at_once, height - top)
        needed = slice(top * row, (top + rows + 2 * SSIM_BORDER) * row)
        band = _ssim_of_band(total[needed], difference[needed], row, workspace[:, : rows * row])
        result[top : top + rows] = band.reshape(rows, row)[:, :width]
    return result


def mean_ssim(values: Float32) -> float:
    """Mean of an SSIM map without its 5-pixel border, where the window reaches beyond the image."""
    inner = values[SSIM_BORDER:-SSIM_BORDER, SSIM_BORDER:-SSIM_BORDER]
    return float(inner.mean(dtype=np.float64))


def check_windowed(x: npt.NDArray[np.generic], y: npt.NDArray[np.generic]) -> None:
    """Raise InvalidInputError unless both are images (Y, X) of one shape that holds the window."""
    if x.shape != y.shape:
        raise InvalidInputError(
            f"The image has shape {_shape(x)} and its target {_shape(y)}. "
            "Compare images of the same field and the same number of pixels."
        )
    if x.ndim != 2:
        raise InvalidInputError(
            f"The images have {x.ndim} axes; two (Y, X) are needed here. "
            "Score a stack slice by slice, and each channel by itself."
        )
    if min(x.shape) < SSIM_WINDOW:
        raise InvalidInputError(
            f"The images are {_shape(x)} pixels; SSIM needs at least {SSIM_WINDOW} x {SSIM_WINDOW}. Use larger images."
        )


def _shape(image: npt.NDArray[np.generic]) -> str:
    return " x ".join(str(size) for size in image.shape)


def _gaussian_weights() -> tuple[np.float32, ...]:
    offsets = np.arange(-SSIM_BORDER, SSIM_BORDER + 1)
    weights = np.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    return tuple(np.float32(weight) for weight in weights / weights.sum())


_WEIGHTS: Final = _gaussian_weights()


def _ssim_of_band(total: Float32, difference: Float32, row: int, workspace: Float32) -> Float32:
    """SSIM of a band of rows, from the sum and the difference of two padded images.

    All arrays are flat, with `row` values to a row: a shift by a pixel or a row is then one contiguous slice. The last
    ten values of each row of the result mix two rows and are for the caller to drop.
    """
    sum_mean, sum_variance, difference_mean, difference_variance = workspace[:4]
    temporary: list[Float32] = list(workspace[4:])
    _window_moments(total, row, sum_mean, sum_variance, temporary)
    _window_moments(difference, row, difference_mean, difference_variance, temporary)

    # With s = x + y and d = x - y: 4 mx my = ms^2 - md^2, 2 (mx^2 + my^2) = ms^2 + md^2; the same for variances.
    c1, c2 = np.float32(2 * SSIM_K1**2), np.float32(2 * SSIM_K2**2)
    sum_mean *= sum_mean
    difference_mean *= difference_mean
    similarity, structure = temporary[:2]
    np.subtract(sum_mean, difference_mean, out=similarity)
    similarity += c1
    np.subtract(sum_variance, difference_variance, out=structure)
    structure += c2
    similarity *= structure
    sum_mean += difference_mean
    sum_mean += c1
    sum_variance += difference_variance
    sum_variance += c2
    sum_mean *= sum_variance
    similarity /= sum_mean
    return similarity


def _window_moments(values: Float32, row: int, mean: Float32, variance: Float32, temporary: Sequence[Float32]) -> None:
    """Write mean and variance over the window of each pixel, down the columns first, then along the rows."""
    column_mean, column_variance, deviation, weighted = temporary
    size = mean.size
    _moments(_shifted(values, row, size), column_mean, column_variance, deviation, weighted)
    # The last ten pixels have no full window along the row; they lie in what the caller drops.
    end = size - 2 * SSIM_BORDER
    mean[end:] = 0
    variance[end:] = 0
    _moments(_shifted(column_mean, 1, end), mean[:end], variance[:end], deviation[:end], weighted[:end])
    _add_weighted_mean(_shifted(column_variance, 1, end), variance[:end], weighted[:end])


def _shifted(values: Float32, step: int, size: int) -> list[Float32]:
    return [values[k * step : k * step + size] for k in range(SSIM_WINDOW)]


def _moments(taps: Sequence[Float32], mean: Float32, variance: Float32, deviation: Float32, weighted: Float32) -> None:
    """Write weighted mean and variance over eleven shifted views, as deviations from the middle one."""
    middle = taps[SSIM_BORDER]
    mean.fill(0)
    variance.fill(0)
    for k, tap in enumerate(taps):
        if k == SSIM_BORDER:
            continue
        np.subtract(tap, middle, out=deviation)
        np.multiply(deviation, _WEIGHTS[k], out=weighted)
        mean += weighted
        weighted *= deviation
        variance += weighted
    np.multiply(mean, mean, out=deviation)
    variance -= deviation
    mean += middle


def _add_weighted_mean(taps: Sequence[Float32], total: Float32, part: Float32) -> None:
    """Add the weighted mean over eleven shifted views to `total`; opposite views share a weight."""
    np.multiply(taps[SSIM_BORDER], _WEIGHTS[SSIM_BORDER], out=part)
    total += part
    for k in range(SSIM_BORDER):
        np.add(taps[k], taps[-1 - k], out=part)
        part *= _WEIGHTS[k]
        total += part
