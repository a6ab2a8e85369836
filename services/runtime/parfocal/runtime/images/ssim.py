"""Structural similarity of two grey-value images, exact in float32 and several times faster than float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images._window_moments import (
    BAND_PIXELS,
    SSIM_BORDER,
    SSIM_K1,
    SSIM_K2,
    SSIM_SIGMA,
    SSIM_WINDOW,
    Float32,
    similarity,
    window_moments,
)

__all__ = [
    "SSIM_BORDER",
    "SSIM_K1",
    "SSIM_K2",
    "SSIM_SIGMA",
    "SSIM_WINDOW",
    "check_windowed",
    "mean_ssim",
    "mean_ssim_by_part",
    "ssim_and_contrast_maps",
    "ssim_map",
    "sum_and_difference",
]


def ssim_map(x: npt.NDArray[np.floating], y: npt.NDArray[np.floating], *, sample_covariance: bool = False) -> Float32:
    """Local structural similarity of two images with a data range of 1.

    The window is an 11x11 Gaussian of sigma 1.5 (cut at five pixels, edges mirrored), K1 = 0.01, K2 = 0.03,
    with population variances: Wang et al., IEEE Trans. Image Processing 13 (2004) 600, and what
    `skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    data_range=1, full=True)` gives in float64, to 3e-6.

    Parameters
    ----------
    x, y
        Finite images of the same shape (Y, X), at least 11x11, scaled so that 0..1 is the data range.
    sample_covariance
        Take variances over 120 instead of 121 pixels of the window, as scikit-image does unless told otherwise.

    Returns
    -------
    numpy.ndarray
        float32 of the same shape, each value in -1..1 (to rounding); 1 where the images agree.

    Raises
    ------
    InvalidInputError
        The shapes differ, or an image is not two-dimensional or smaller than the window.
    """
    # Sample variances are larger by 121/120; a constant smaller by as much gives the same ratio.
    factor = 1 - 1 / SSIM_WINDOW**2 if sample_covariance else 1.0
    return _maps(x, y, SSIM_K2**2 * factor, None)


def ssim_and_contrast_maps(x: npt.NDArray[np.floating], y: npt.NDArray[np.floating]) -> tuple[Float32, Float32]:
    """As `ssim_map`, and the map of its contrast and structure terms alone, without that of the means.

    The second is ``(2 cov + C2) / (var x + var y + C2)``, what multi-scale SSIM takes from all scales but the last.
    """
    contrast = np.empty(x.shape, np.float32)
    return _maps(x, y, SSIM_K2**2, contrast), contrast


def _maps(x: npt.NDArray[np.floating], y: npt.NDArray[np.floating], c2: float, contrast: Float32 | None) -> Float32:
    check_windowed(x, y)
    height, width = x.shape
    row = width + 2 * SSIM_BORDER
    total, difference = sum_and_difference(x, y)
    rows_at_once = max(1, BAND_PIXELS // row)
    workspace = np.empty((8, rows_at_once * row), np.float32)
    result = np.empty((height, width), np.float32)
    for top in range(0, height, rows_at_once):
        rows = min(rows_at_once, height - top)
        needed = slice(top * row, (top + rows + 2 * SSIM_BORDER) * row)
        band = list(workspace[:, : rows * row])
        window_moments(total[needed], row, band[0], band[1], band[4:])
        window_moments(difference[needed], row, band[2], band[3], band[4:])
        ssim, structure = similarity((band[0], band[1]), (band[2], band[3]), band[4:], c2, contrast is not None)
        # The last ten values of each row mix two rows.
        result[top : top + rows] = ssim.reshape(rows, row)[:, :width]
        if contrast is not None:
            contrast[top : top + rows] = structure.reshape(rows, row)[:, :width]
    return result


def sum_and_difference(x: npt.NDArray[np.floating], y: npt.NDArray[np.floating]) -> tuple[Float32, Float32]:
    """Return x + y and x - y, mirrored at the edges by five pixels, as flat arrays."""
    total, difference = (
        np.pad(function(x, y, dtype=np.float64).astype(np.float32), SSIM_BORDER, mode="symmetric").ravel()
        for function in (np.add, np.subtract)
    )
    return total, difference


def mean_ssim(values: Float32) -> float:
    """Mean of an SSIM map without its 5-pixel border, where the window reaches beyond the image."""
    return float(_without_border(values).mean(dtype=np.float64))


def mean_ssim_by_part(values: Float32, foreground: npt.NDArray[np.bool_] | Float32) -> tuple[float, float]:
    """Means of an SSIM map inside and outside a foreground, both without the border as in `mean_ssim`.

    Parameters
    ----------
    values
        The map, float32 (Y, X).
    foreground
        Of the same shape: which pixels are foreground (bool), or to which part, 0..1, each of them is (float32).
        `mean_ssim` is the mean of both, weighted by what belongs to each.

    Returns
    -------
    inside, outside : float
        NaN where nothing of the foreground, or nothing outside of it, lies within the border.
    """
    inner, weights = _without_border(values), _without_border(foreground)
    total = float(inner.sum(dtype=np.float64))
    if weights.dtype == np.bool_:
        weight = float(np.count_nonzero(weights))
        inside = float(inner[weights].sum(dtype=np.float64))
    else:
        # Parts of pixels are whole multiples of a power of two: their sums are exact, and 0 means none.
        weight = float(weights.sum(dtype=np.float64))
        inside = float(np.einsum("ij,ij->", inner, weights, dtype=np.float64))
    rest = inner.size - weight
    return inside / weight if weight > 0 else math.nan, (total - inside) / rest if rest > 0 else math.nan


def _without_border(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values[SSIM_BORDER:-SSIM_BORDER, SSIM_BORDER:-SSIM_BORDER]


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
