"""Structural similarity of two grey-value images, exact in float32 and several times faster than float64.

An image that the memory does not hold is gone through in bands of rows. The maps of a band are those of the whole image
if the band comes with the five rows on either side that windows reach into (`context`), and `SsimMeans` adds bands up.
"""

from __future__ import annotations

import math

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
    "SsimMeans",
    "check_windowed",
    "mean_ssim",
    "mean_ssim_by_part",
    "ssim_and_contrast_maps",
    "ssim_map",
    "sum_and_difference",
]


def ssim_map(
    x: npt.NDArray[np.floating],
    y: npt.NDArray[np.floating],
    *,
    sample_covariance: bool = False,
    context: tuple[int, int] = (0, 0),
) -> Float32:
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
    context
        How many rows at the top and at the bottom are there for the windows of the others alone, at most 5. What is
        missing to 5 lies beyond the edge of the image, which is mirrored.

    Returns
    -------
    numpy.ndarray
        float32 of the same shape but for the rows of `context`, each value in -1..1 (to rounding); 1 where the images
        agree.

    Raises
    ------
    InvalidInputError
        The shapes differ, or an image is not two-dimensional or smaller than the window.
    """
    # Sample variances are larger by 121/120; a constant smaller by as much gives the same ratio.
    factor = 1 - 1 / SSIM_WINDOW**2 if sample_covariance else 1.0
    return _maps(x, y, SSIM_K2**2 * factor, context, with_contrast=False)[0]


def ssim_and_contrast_maps(
    x: npt.NDArray[np.floating], y: npt.NDArray[np.floating], *, context: tuple[int, int] = (0, 0)
) -> tuple[Float32, Float32]:
    """As `ssim_map`, and the map of its contrast and structure terms alone, without that of the means.

    The second is ``(2 cov + C2) / (var x + var y + C2)``, what multi-scale SSIM takes from all scales but the last.
    """
    return _maps(x, y, SSIM_K2**2, context, with_contrast=True)


def _maps(
    x: npt.NDArray[np.floating],
    y: npt.NDArray[np.floating],
    c2: float,
    context: tuple[int, int],
    *,
    with_contrast: bool,
) -> tuple[Float32, Float32]:
    """Return the map of SSIM, and that of contrast and structure, which is empty unless it is asked for."""
    if any(context):
        check_pair(x, y)
    else:
        check_windowed(x, y)
    height, width = x.shape[0] - sum(context), x.shape[1]
    row = width + 2 * SSIM_BORDER
    total, difference = sum_and_difference(x, y, context=context)
    rows_at_once = max(1, BAND_PIXELS // row)
    workspace = np.empty((8, rows_at_once * row), np.float32)
    result = np.empty((height, width), np.float32)
    contrast = np.empty((height if with_contrast else 0, width), np.float32)
    for top in range(0, height, rows_at_once):
        rows = min(rows_at_once, height - top)
        needed = slice(top * row, (top + rows + 2 * SSIM_BORDER) * row)
        band = list(workspace[:, : rows * row])
        window_moments(total[needed], row, band[0], band[1], band[4:])
        window_moments(difference[needed], row, band[2], band[3], band[4:])
        ssim, structure = similarity((band[0], band[1]), (band[2], band[3]), band[4:], c2, with_contrast)
        # The last ten values of each row mix two rows.
        result[top : top + rows] = ssim.reshape(rows, row)[:, :width]
        if with_contrast:
            contrast[top : top + rows] = structure.reshape(rows, row)[:, :width]
    return result, contrast


def sum_and_difference(
    x: npt.NDArray[np.floating], y: npt.NDArray[np.floating], *, context: tuple[int, int] = (0, 0)
) -> tuple[Float32, Float32]:
    """Return x + y and x - y as flat arrays, mirrored at the edges by what is missing to five rows of `context`."""
    above, below = (SSIM_BORDER - rows for rows in context)
    total, difference = (
        np.pad(
            function(x, y, dtype=np.float64).astype(np.float32),
            ((above, below), (SSIM_BORDER, SSIM_BORDER)),
            mode="symmetric",
        ).ravel()
        for function in (np.add, np.subtract)
    )
    return total, difference


class SsimMeans:
    """Means of an SSIM map that comes in bands of rows, all without its 5-pixel border.

    Parameters
    ----------
    height
        Rows of the whole map.
    """

    def __init__(self, height: int) -> None:
        self._height = height
        self._total = self._inside = self._weight = 0.0
        self._pixels = 0

    def add(self, top: int, values: Float32, foreground: npt.NDArray[np.bool_] | Float32 | None = None) -> None:
        """Add the rows of the map from `top` on, and what of them is foreground, as for `mean_ssim_by_part`."""
        rows = slice(max(SSIM_BORDER - top, 0), max(self._height - SSIM_BORDER - top, 0))
        inner = values[rows, SSIM_BORDER:-SSIM_BORDER]
        self._total += float(inner.sum(dtype=np.float64))
        self._pixels += inner.size
        if foreground is None:
            return
        weights = foreground[rows, SSIM_BORDER:-SSIM_BORDER]
        if weights.dtype == np.bool_:
            self._weight += float(np.count_nonzero(weights))
            self._inside += float(inner[weights].sum(dtype=np.float64))
        else:
            # Parts of pixels are whole multiples of a power of two: their sums are exact, and 0 means none.
            self._weight += float(weights.sum(dtype=np.float64))
            self._inside += float(np.einsum("ij,ij->", inner, weights, dtype=np.float64))

    @property
    def whole(self) -> float:
        """Mean over the whole map."""
        return self._total / self._pixels

    @property
    def by_part(self) -> tuple[float, float]:
        """Means inside and outside the foreground, NaN where there is nothing of it."""
        rest = self._pixels - self._weight
        return (
            self._inside / self._weight if self._weight > 0 else math.nan,
            (self._total - self._inside) / rest if rest > 0 else math.nan,
        )


def mean_ssim(values: Float32) -> float:
    """Mean of an SSIM map without its 5-pixel border, where the window reaches beyond the image."""
    means = SsimMeans(len(values))
    means.add(0, values)
    return means.whole


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
    means = SsimMeans(len(values))
    means.add(0, values, foreground)
    return means.by_part


def check_windowed(x: npt.NDArray[np.generic], y: npt.NDArray[np.generic]) -> None:
    """Raise InvalidInputError unless both are images (Y, X) of one shape that holds the window."""
    check_pair(x, y)
    if min(x.shape) < SSIM_WINDOW:
        raise InvalidInputError(
            f"The images are {_shape(x)} pixels; SSIM needs at least {SSIM_WINDOW} x {SSIM_WINDOW}. Use larger images."
        )


def check_pair(x: npt.NDArray[np.generic], y: npt.NDArray[np.generic]) -> None:
    """Raise InvalidInputError unless both are images (Y, X) of one shape."""
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


def _shape(image: npt.NDArray[np.generic]) -> str:
    return " x ".join(str(size) for size in image.shape)
