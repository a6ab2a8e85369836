"""MicroSSIM: SSIM on the scale of fluorescence micrographs, fitted to a whole set of test images.

Definition (Ashesh, Deschamps and Jug, arXiv:2408.08747). Over all images of the set:

1. The 3rd percentile of all target pixels is subtracted from the targets, that of all image pixels from the images:
   camera offset and background light make the luminance term of SSIM meaningless.
2. Images are multiplied by one factor, the one with the highest mean SSIM over the windows of all images. It makes
   up for another dynamic range, and only for that: one factor serves all images, so a prediction whose brightness
   varies from image to image is not excused.

The MicroSSIM of an image is then its mean SSIM (11x11 Gaussian window, sample covariance) with the range of its own
target as data range.

What the fit needs is kept as samples, so that memory does not grow with the size of the images: the local moments in
windows of 7x7 pixels at up to `WINDOWS` evenly spaced places of each image, and the pixels in their middle for the
percentiles. With all windows the numbers are those of the authors' package `microssim` 0.0.5 wherever
all targets have one range; where ranges differ the package takes the constants of SSIM from the last image given, and
this module those of each image. The package is not used itself because it needs PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view
from scipy.optimize import minimize_scalar

from parfocal.qc.metrics._arrays import Float32, Float64, check_pair, check_values, naming
from parfocal.qc.metrics.bands import BAND_PIXELS, Band, bands
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.pixel_values import value_range
from parfocal.runtime.images.scratch import release
from parfocal.runtime.images.ssim import SSIM_BORDER, SSIM_K1, SSIM_K2, SsimMeans, check_windowed, ssim_map

MICRO_SSIM_PERCENTILE: Final = 3.0
WINDOWS: Final = 4096
_WINDOW: Final = 7
_HALVINGS: Final = 12
"""How far from the factor of least squares the best one is looked for, in factors of 2 to either side."""


@dataclass(frozen=True)
class MicroSample:
    """Samples of one image and its target for the fit, in grey values.

    Attributes
    ----------
    moments
        float32 (5, windows): means of target and image, their sample variances, and their covariance.
    target_pixels, image_pixels
        Pixels for the percentiles.
    data_range
        Largest minus smallest value of the target.
    """

    moments: Float32
    target_pixels: npt.NDArray[Any]
    image_pixels: npt.NDArray[Any]
    data_range: float


@dataclass(frozen=True)
class MicroFit:
    """Offsets to subtract from targets and images, in grey values, and factor by which images are multiplied."""

    target_offset: float
    image_offset: float
    factor: float


def sample_for_fit(image: npt.NDArray[Any], target: npt.NDArray[Any], *, windows: int | None = WINDOWS) -> MicroSample:
    """Return what the fit needs of one image (Y, X).

    Parameters
    ----------
    image, target
        Finite grey values of one shape, at least 11x11, of any integer or floating type.
    windows
        Largest number of windows and pixels to use, evenly spaced; None for all.

    Raises
    ------
    InvalidInputError
        Different shapes, not two axes, smaller than 11x11, not numeric, NaN or infinite.
    """
    check_windowed(image, target)
    check_values(target, "target")
    check_pair(image, target)
    step = 1 if windows is None else max(1, math.ceil(math.sqrt(target.size / windows)))
    moments = [
        _moments(target[part], image[part], step)
        for part in _rows_of_places(target, image, 0, len(target) - _WINDOW + 1, step, _WINDOW)
    ]
    start = min(step // 2, min(target.shape) - 1)
    pixels = [
        [values[part][::step, start::step].ravel() for values in (target, image)]
        for part in _rows_of_places(target, image, start, len(target), step, 1)
    ]
    target_pixels, image_pixels = (np.concatenate(each) for each in zip(*pixels, strict=True))
    return MicroSample(
        moments=np.concatenate(moments, axis=1),
        target_pixels=target_pixels,
        image_pixels=image_pixels,
        data_range=_range(target),
    )


def _rows_of_places(
    target: npt.NDArray[Any], image: npt.NDArray[Any], start: int, stop: int, step: int, height: int
) -> Iterator[slice]:
    """Yield rows of both that hold some places, each of `height` rows, at every `step`-th row."""
    tops = range(start, stop, step)
    together = max(1, BAND_PIXELS // (step * target.shape[1]))
    for first in range(0, len(tops), together):
        yield slice(tops[first], tops[min(first + together, len(tops)) - 1] + height)
        # A few rows of each place map many more pages of a file.
        release(target)
        release(image)


def _moments(target: npt.NDArray[Any], image: npt.NDArray[Any], step: int) -> Float32:
    """Return means, sample variances and covariance of the windows at every `step`-th place along both axes."""
    x, y = (
        sliding_window_view(values, (_WINDOW, _WINDOW))[::step, ::step].reshape(-1, _WINDOW**2).astype(np.float64)
        for values in (target, image)
    )
    means = x.mean(axis=1), y.mean(axis=1)
    x -= means[0][:, np.newaxis]
    y -= means[1][:, np.newaxis]
    products = (np.einsum("ij,ij->i", a, b) / (_WINDOW**2 - 1) for a, b in ((x, x), (y, y), (x, y)))
    return np.stack([*means, *products]).astype(np.float32)


def fit_micro_ssim(samples: Sequence[MicroSample]) -> MicroFit:
    """Fit MicroSSIM to the samples of all images of a set.

    Raises
    ------
    InvalidInputError
        There are no samples, or a target is constant.
    """
    if not samples or not all(sample.data_range > 0 for sample in samples):
        raise InvalidInputError("MicroSSIM requires at least one image, and targets with contrast.")
    target_offset, image_offset = (
        float(np.percentile(np.concatenate(pixels), MICRO_SSIM_PERCENTILE))
        for pixels in ([each.target_pixels for each in samples], [each.image_pixels for each in samples])
    )
    # In units of each target's range: a quotient of SSIM does not depend on the unit.
    scaled = []
    for sample in samples:
        mean_x, mean_y, var_x, var_y, covariance = sample.moments.astype(np.float64)
        unit = sample.data_range
        moments = (mean_x - target_offset) / unit, (mean_y - image_offset) / unit
        scaled.append(np.stack([*moments, var_x / unit**2, var_y / unit**2, covariance / unit**2]))
    terms = np.concatenate(scaled, axis=1)
    return MicroFit(target_offset, image_offset, _best_factor(terms))


def micro_ssim(image: npt.NDArray[Any], target: npt.NDArray[Any], fit: MicroFit, *, name: str | None = None) -> float:
    """MicroSSIM of one image (Y, X), -1..1, after a fit to the set it belongs to: the mean of `micro_ssim_map`.

    Raises
    ------
    InvalidInputError
        As `sample_for_fit`, or the target is constant.
    """
    return micro_ssim_means(image, target, fit, name=name).whole


def micro_ssim_means(
    image: npt.NDArray[Any],
    target: npt.NDArray[Any],
    fit: MicroFit,
    foreground: npt.NDArray[np.bool_] | None = None,
    *,
    name: str | None = None,
) -> SsimMeans:
    """Return the means of `micro_ssim_map`, of images that need not be in memory; `foreground` is as for those."""
    means = SsimMeans(len(target))
    for band, values in _mapped(image, target, fit, name):
        means.add(band.rows.start, values, None if foreground is None else foreground[band.rows])
        if foreground is not None:
            release(foreground)
    return means


def micro_ssim_map(
    image: npt.NDArray[Any], target: npt.NDArray[Any], fit: MicroFit, *, name: str | None = None
) -> Float32:
    """SSIM of the fitted image at every pixel, whose means are MicroSSIM, inside and outside a foreground too.

    Parameters
    ----------
    image, target
        Finite grey values (Y, X) of one shape, at least 11x11, of any integer or floating type.
    fit
        Fit of MicroSSIM to the set that the images belong to.
    name
        Name of the image, for the error message.

    Returns
    -------
    numpy.ndarray
        float32 (Y, X), -1..1 to rounding. Means are without the border, see `SsimMeans`.

    Raises
    ------
    InvalidInputError
        As `sample_for_fit`, or the target is constant.
    """
    result = np.empty(target.shape, np.float32)
    for band, values in _mapped(image, target, fit, name):
        result[band.rows] = values
    return result


def _mapped(
    image: npt.NDArray[Any], target: npt.NDArray[Any], fit: MicroFit, name: str | None
) -> Iterator[tuple[Band, Float32]]:
    """Yield the bands of an image, each with its part of the map."""
    with naming(name):
        check_windowed(image, target)
        check_values(target, "target")
        check_pair(image, target)
        data_range = _range(target)
        if not data_range > 0:
            raise InvalidInputError("The target is constant, so that it cannot be compared with. Leave the image out.")
    for band in bands(target.shape, SSIM_BORDER):
        x, y = target[band.padded].astype(np.float64), image[band.padded].astype(np.float64)
        release(target)
        release(image)
        x -= fit.target_offset
        x /= data_range
        y -= fit.image_offset
        y *= fit.factor / data_range
        yield band, ssim_map(x, y, sample_covariance=True, context=band.context)


def _range(target: npt.NDArray[Any]) -> float:
    lowest, highest = value_range(target)
    return float(highest) - float(lowest)


def _best_factor(terms: Float64) -> float:
    """Return the factor of the image with the highest mean SSIM over all windows."""
    mean_x, mean_y, var_x, var_y, covariance = terms
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    means_product, square_x, square_y = mean_x * mean_y, mean_x**2 + c1, mean_y**2
    variance_x = var_x + c2

    def loss(logarithm: float) -> float:
        factor = 2.0**logarithm
        similarity = (2 * factor * means_product + c1) / (square_x + factor**2 * square_y)
        similarity *= (2 * factor * covariance + c2) / (variance_x + factor**2 * var_y)
        return -float(similarity.mean())

    image_power = float((square_y + var_y).sum())
    if image_power <= 0:
        return 1.0  # a constant image, which no factor changes
    start = 0.5 * np.log2(float((mean_x**2 + var_x).sum()) / image_power)
    # A grid first: the mean over windows may have several maxima.
    grid = start + np.arange(-_HALVINGS, _HALVINGS + 0.5, 0.5)
    best = grid[int(np.argmin([loss(point) for point in grid]))]
    found = minimize_scalar(loss, bounds=(best - 0.5, best + 0.5), method="bounded", options={"xatol": 1e-7})
    return float(2.0**found.x)
