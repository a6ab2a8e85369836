"""Fourier ring and shell correlation of an image with its target: down to which size of detail the two agree.

Definition (Saxton and Baumeister, J. Microscopy 127 (1982) 127; shells: Harauz and van Heel, Optik 73 (1986) 146)

1. The mean is subtracted and each axis tapered by a Tukey window (a cosine over an eighth of its length at either end),
   because an image's edges do not fit together and would correlate.
2. Of both Fourier transforms the coefficients of one ring (shell, in a volume) make one correlation,
   ``Re(sum(F1 conj(F2))) / sqrt(sum(|F1|^2) sum(|F2|^2))``. Rings are those of *physical* frequency: where pixels or
   planes have different distances, shells are ellipsoids of the discrete transform. A ring is as wide as one
   coefficient of the shorter of the axes Y and X, and rings end at the Nyquist frequency of X, half a cycle per pixel.
3. The curve is smoothed: each value becomes the median over five rings, which removes the chance of single rings and
   leaves a falling curve as it is.
4. The resolution is the inverse of the frequency at which the smoothed curve first falls below 1/7, between rings by
   straight lines (the limit of Rosenthal and Henderson, J. Mol. Biol. 333 (2003) 721, used for ring correlation by
   Nieuwenhuizen et al., Nature Methods 10 (2013) 557).

A curve that never falls below 1/7 gives the Nyquist limit, two pixels, and says so: the resolution is that at least.
One that begins below 1/7 gives NaN: the images agree in nothing.

The limit was made for two noisy images of one specimen. Against a target the number says how fine the detail is that
the prediction shares with it; it cannot be finer than the target. It depends neither on brightness nor on offset.

Images of more than `LARGE_PIXELS` pixels are correlated in `parfocal.qc.metrics.bands.sample_windows`, whose products
are added up before they are divided by one another; the rings are those of a window.

In stacks whose planes are farther apart than pixels are wide, the shells beyond the Nyquist frequency of Z hold the
detail within planes alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.fft import rfftn
from scipy.ndimage import median_filter
from scipy.signal.windows import tukey

from parfocal.qc.metrics._arrays import Float64, check_pair, check_values, naming
from parfocal.qc.metrics.bands import sample_windows
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.scratch import release

FRC_THRESHOLD: Final = 1 / 7
_TAPERED: Final = 0.25
"""Fraction of each axis under the cosine, both ends together."""

_SMOOTHED: Final = 5
SMALLEST_SPECTRUM: Final = 16
"""Pixels that an image needs along Y and X to have a curve."""


@dataclass(frozen=True)
class Spectrum:
    """The Fourier transform of a tapered image, or of windows of a large one.

    Attributes
    ----------
    coefficients
        Of each window, or of the image alone, the half that `scipy.fft.rfftn` gives.
    shape
        Shape of the image.
    window
        Shape of a window; that of the image where it is a single one.
    """

    coefficients: Sequence[npt.NDArray[np.complex64]]
    shape: tuple[int, ...]
    window: tuple[int, ...]


@dataclass(frozen=True)
class FourierCorrelation:
    """Correlation by spatial frequency.

    Attributes
    ----------
    frequency
        Middle of each ring or shell in cycles per pixel of X, rising.
    correlation, smoothed
        -1..1; 0 where one image has no contrast at that frequency.
    coefficients
        Number of Fourier coefficients in each.
    resolution
        Resolution in pixels along X; NaN where the images do not agree at all.
    at_least
        The curve never falls below 1/7: the resolution is `resolution`, the Nyquist limit, or better.
    """

    frequency: Float64
    correlation: Float64
    smoothed: Float64
    coefficients: npt.NDArray[np.int64]
    resolution: float
    at_least: bool


def fourier_correlation(
    image: npt.NDArray[Any],
    target: npt.NDArray[Any],
    *,
    pixel_size: tuple[float, ...] | None = None,
    name: str | None = None,
) -> FourierCorrelation:
    """Ring correlation of two images (Y, X), or shell correlation of two stacks (Z, Y, X); see the module.

    Parameters
    ----------
    image, target
        Finite grey values of one shape, of any integer or floating type, at least 16 pixels in Y and X.
    pixel_size
        Distance of pixels along each axis, in the order of the axes and any unit; None for one distance along all.
    name
        Name of the image, for the error message.

    Raises
    ------
    InvalidInputError
        Different shapes, other numbers of axes, too small, not numeric, NaN or infinite.
    """
    with naming(name):
        check_values(target, "target")
        check_pair(image, target)
    return correlate_spectra(spectrum(image, name=name), spectrum(target, name=name), pixel_size=pixel_size)


def spectrum(image: npt.NDArray[Any], *, name: str | None = None) -> Spectrum:
    """Return the Fourier transform of an image (Y, X) or (Z, Y, X), tapered and without its mean.

    Input, baseline and prediction are correlated with one target: its spectrum is needed only once.

    Raises
    ------
    InvalidInputError
        The image is not numeric, not finite, not of two or three axes, or smaller than 16 pixels in Y or X.
    """
    with naming(name):
        check_values(image, "image")
        if image.ndim not in (2, 3) or min(image.shape[-2:]) < SMALLEST_SPECTRUM:
            raise InvalidInputError(
                f"Fourier correlation requires images (Y, X) or (Z, Y, X) of at least {SMALLEST_SPECTRUM} x "
                f"{SMALLEST_SPECTRUM} pixels; this one has shape {image.shape}."
            )
    windows, coefficients = sample_windows(image.shape), []
    for window in windows:
        coefficients.append(_transformed(image[window]))
        release(image)
    return Spectrum(coefficients, image.shape, image[windows[0]].shape)


def _transformed(image: npt.NDArray[Any]) -> npt.NDArray[np.complex64]:
    """Return the Fourier transform of an image or of a window, tapered and without its mean."""
    planes = image if image.ndim == 3 else image[np.newaxis]
    mean = float(np.mean([plane.mean(dtype=np.float64) for plane in planes]))
    # Without the zeros at the ends of the window, which would leave out the first and the last plane of a stack.
    along_z, along_y, along_x = (
        tukey(size + 2, _TAPERED)[1:-1].astype(np.float32) if size > 1 else np.ones(1, np.float32)
        for size in planes.shape
    )
    within = np.outer(along_y, along_x)
    tapered = np.empty(planes.shape, np.float32)
    for result, plane, taper in zip(tapered, planes, along_z, strict=True):
        np.subtract(plane, mean, out=result, dtype=np.float64, casting="same_kind")
        result *= taper * within
    coefficients: npt.NDArray[np.complex64] = rfftn(tapered.reshape(image.shape), overwrite_x=True)
    return coefficients


def correlate_spectra(
    image: Spectrum, target: Spectrum, *, pixel_size: tuple[float, ...] | None = None
) -> FourierCorrelation:
    """As `fourier_correlation`, from the results of `spectrum`."""
    if image.shape != target.shape:
        raise InvalidInputError(f"The image has shape {image.shape} and its target {target.shape}.")
    shape = target.window
    distances = np.ones(len(shape)) if pixel_size is None else np.asarray(pixel_size, np.float64)
    if len(distances) != len(shape) or not (distances > 0).all():
        raise InvalidInputError(f"The pixel size {pixel_size} does not fit an image of {len(shape)} axes.")
    distances = distances / distances[-1]
    width = 1 / min(shape[-1] * distances[-1], shape[-2] * distances[-2])
    rings = math.floor(0.5 / width + 1e-9)
    sums = np.zeros((3, rings + 2))
    counts = np.zeros(rings + 2, np.int64)
    squared_z = (np.fft.fftfreq(shape[0]) / distances[0]) ** 2 if len(shape) == 3 else np.zeros(1)
    for pair in zip(image.coefficients, target.coefficients, strict=True):
        planes = (each.reshape(-1, shape[-2], shape[-1] // 2 + 1) for each in pair)
        for square, x, y in zip(squared_z, *planes, strict=True):
            ring, plane_counts = _rings(shape[-2:], float(distances[-2]), float(square), width, rings)
            counts += plane_counts
            for total, product in zip(sums, (_product(x, y), _product(x, x), _product(y, y)), strict=True):
                # rfftn leaves out the mirror images of all columns but the first, and the last of an even width.
                product[:, 1 : (shape[-1] + 1) // 2] *= 2
                total += np.bincount(ring, product.ravel(), rings + 2)
    kept = slice(1, rings + 1)
    frequency = np.arange(1, rings + 1) * width
    norm = np.sqrt(sums[1] * sums[2])[kept]
    correlation = np.divide(sums[0][kept], norm, out=np.zeros(rings), where=norm > 0)
    return _resolved(frequency, correlation, counts[kept])


@lru_cache(maxsize=4)  # images of a set have one shape
def _rings(
    shape: tuple[int, ...], distance_y: float, squared_z: float, width: float, rings: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64]]:
    """Ring of each coefficient of a plane, `rings` + 1 beyond the last, and the coefficients in each ring."""
    squares = np.add.outer((np.fft.fftfreq(shape[0]) / distance_y) ** 2, np.fft.rfftfreq(shape[1]) ** 2)
    ring = np.minimum(np.rint(np.sqrt(squares + squared_z) / width), rings + 1).astype(np.intp)
    twice = ring[:, 1 : (shape[1] + 1) // 2]
    counts = np.bincount(ring.ravel(), minlength=rings + 2) + np.bincount(twice.ravel(), minlength=rings + 2)
    return ring.ravel(), counts


def _product(x: npt.NDArray[np.complex64], y: npt.NDArray[np.complex64]) -> Float64:
    """Real part of x times the conjugate of y, in float64."""
    result: Float64 = x.real.astype(np.float64) * y.real
    result += x.imag.astype(np.float64) * y.imag
    return result


def _resolved(frequency: Float64, correlation: Float64, counts: npt.NDArray[np.int64]) -> FourierCorrelation:
    smoothed = median_filter(correlation, _SMOOTHED, mode="nearest")
    below = np.flatnonzero(smoothed < FRC_THRESHOLD)
    resolution, at_least = 2.0, True
    if below.size:
        at_least, first = False, int(below[0])
        if first == 0:
            resolution = math.nan
        else:
            step = (smoothed[first - 1] - FRC_THRESHOLD) / (smoothed[first - 1] - smoothed[first])
            resolution = 1 / float(frequency[first - 1] + step * (frequency[first] - frequency[first - 1]))
    return FourierCorrelation(frequency, correlation, smoothed, counts, resolution, at_least)
