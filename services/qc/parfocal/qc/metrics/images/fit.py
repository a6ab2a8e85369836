"""The fit of an image to its target, on which the scores of restored images and volumes rest.

A target is scaled by its own 0.1 and 99.9 percentiles. An image is fitted to it by least squares, ``a * image + b``,
because a restoration is free in brightness and offset. Neither need be in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from parfocal.qc.metrics._arrays import Float64, check_pair, check_values, naming, percentiles
from parfocal.qc.metrics.bands import bands
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.correlation import dot, resolution
from parfocal.runtime.images.scratch import release

LOW_PERCENTILE: Final = 0.1
HIGH_PERCENTILE: Final = 99.9

PSNR_CEILING: Final = 100.0
"""PSNR in dB of an image without error, and the most that is reported: 100 dB is an RMSE of 1e-5 of the data
range, less than one step of a 16-bit camera, and a finite number keeps means and tables finite."""

CONTRAST_INVERTED: Final = "contrast inverted"
CONSTANT_PREDICTION: Final = "prediction is constant"


@dataclass(frozen=True)
class AffineFit:
    """Least-squares fit ``scale * image + offset`` of an image to a scaled target.

    `scale` is in data ranges of the target per grey value of the image, `offset` in data ranges, `pearson` in
    -1..1. Of a constant image the scale is undefined: `scale` and `pearson` are 0 then, `offset` is the target's
    mean and `constant` is true.
    """

    scale: float
    offset: float
    pearson: float
    constant: bool = False


@dataclass(frozen=True)
class ScaledTarget:
    """A target in units of its own range, which is scaled part by part where it is needed.

    Attributes
    ----------
    pixels
        Grey values, which need not be in memory.
    low, high
        The grey values that become 0 and 1.
    """

    pixels: npt.NDArray[Any]
    low: float = 0.0
    high: float = 1.0

    def rows(self, rows: slice) -> Float64:
        """Return some rows, scaled; nothing is clipped."""
        scaled = self.pixels[rows].astype(np.float64)
        scaled -= self.low
        scaled /= self.high - self.low
        return scaled


def with_range(target: npt.NDArray[Any], *, name: str | None = None) -> ScaledTarget:
    """Return a target with its 0.1 and 99.9 percentiles; see `scale_target`, which scales all of it at once."""
    with naming(name):
        check_values(target, "target")
        return ScaledTarget(target, *target_range(target))


def scale_target(target: npt.NDArray[Any], *, name: str | None = None) -> Float64:
    """Scale a target so that its 0.1 and 99.9 percentiles become 0 and 1; nothing is clipped.

    Parameters
    ----------
    target
        Finite grey values of any integer or floating type, any shape.
    name
        Name of the image, for the error message.

    Returns
    -------
    numpy.ndarray
        float64 of the same shape.

    Raises
    ------
    InvalidInputError
        The target is empty, not numeric, not finite, or (almost) constant.
    """
    return with_range(target, name=name).rows(slice(None))


def target_range(target: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the 0.1 and 99.9 percentiles of a target; InvalidInputError if they are one value."""
    low, high = percentiles(target, LOW_PERCENTILE, HIGH_PERCENTILE)
    if not high - low > resolution(target):
        raise InvalidInputError(
            f"The target is constant, or nearly: its {LOW_PERCENTILE} and {HIGH_PERCENTILE} percentiles are both "
            f"{low:g}. An image cannot be compared with it; leave it out of the test set."
        )
    return low, high


def has_range(target: npt.NDArray[Any], *, name: str | None = None) -> bool:
    """Return whether a target can be scaled: planes of a stack that cannot are above or below the sample.

    Raises
    ------
    InvalidInputError
        The target is empty, not numeric or not finite.
    """
    with naming(name):
        check_values(target, "target")
    low, high = percentiles(target, LOW_PERCENTILE, HIGH_PERCENTILE)
    return high - low > resolution(target)


def affine_fit(image: npt.NDArray[Any], target_scaled: Float64, *, name: str | None = None) -> AffineFit:
    """Fit an image to its scaled target by least squares.

    Parameters
    ----------
    image
        Finite grey values of any integer or floating type.
    target_scaled
        Result of `scale_target`, of the same shape.
    name
        Name of the image, for the error message.

    Raises
    ------
    InvalidInputError
        The image is empty, not numeric, not finite or not of the target's shape.
    """
    with naming(name):
        check_pair(image, target_scaled)
        return fit_of(ImagePair(image, ScaledTarget(target_scaled)))[0]


def fitted_psnr(image: npt.NDArray[Any], target_scaled: Float64) -> float:
    """PSNR in dB of an image fitted to a scaled target, without the cost of maps and SSIM."""
    check_pair(image, target_scaled)
    pair = ImagePair(image, ScaledTarget(target_scaled))
    fit, means = fit_of(pair)
    squares = 0.0
    for band in bands(image.shape):
        residual = np.clip(pair.target(band.rows), 0, 1)
        residual -= np.clip(fitted_to_target(pair.centred(band.rows, means)[0], fit, means), 0, 1)
        squares += dot(residual, residual)
    return psnr_of(math.sqrt(squares / image.size))


def failure_of(fit: AffineFit) -> str | None:
    """Return why an image with this fit has failed, or None."""
    if fit.constant:
        return CONSTANT_PREDICTION
    return CONTRAST_INVERTED if fit.scale <= 0 else None


def psnr_of(nrmse: float) -> float:
    """PSNR in dB of a root mean square error in data ranges, at most `PSNR_CEILING`; NaN of NaN."""
    if math.isnan(nrmse):
        return math.nan
    return min(PSNR_CEILING, 0.0 - 20 * math.log10(nrmse)) if nrmse > 0 else PSNR_CEILING


class ImagePair:
    """Image and scaled target in float64, band by band; of a single band they are made once."""

    def __init__(self, image: npt.NDArray[Any], target: ScaledTarget) -> None:
        self.pixels, self._scaled = image, target
        self._single = len(list(bands(image.shape))) == 1
        self._kept: dict[str, Float64] = {}

    def image(self, rows: slice) -> Float64:
        """Return rows of the image; not to be changed."""
        return self._rows("image", rows, lambda chosen: self.pixels[chosen].astype(np.float64))

    def target(self, rows: slice) -> Float64:
        """Return rows of the target; not to be changed."""
        return self._rows("target", rows, self._scaled.rows)

    def release(self) -> None:
        """Let go of the memory that mapped arrays have taken."""
        release(self.pixels)
        release(self._scaled.pixels)

    def centred(self, rows: slice, means: tuple[float, float]) -> tuple[Float64, Float64]:
        """Return rows of both without the means of the whole: new arrays."""
        return self.image(rows) - means[0], self.target(rows) - means[1]

    def _rows(self, which: str, rows: slice, make: Callable[[slice], Float64]) -> Float64:
        if not self._single:
            return make(rows)
        if which not in self._kept:
            self._kept[which] = make(slice(None))
        return self._kept[which][rows]


def fit_of(pair: ImagePair) -> tuple[AffineFit, tuple[float, float]]:
    """Return the fit, and the means of image and target; means and sums in float64."""
    image = pair.pixels
    sums = np.zeros(2)
    for band in bands(image.shape):
        sums += pair.image(band.rows).sum(), pair.target(band.rows).sum()
        pair.release()
    image_mean, target_mean = (float(total) / image.size for total in sums)
    variance = covariance = target_variance = spread = 0.0
    for band in bands(image.shape):
        x, y = pair.centred(band.rows, (image_mean, target_mean))
        variance += dot(x, x)
        covariance += dot(x, y)
        target_variance += dot(y, y)
        spread = max(spread, float(x.max()), -float(x.min()))
        pair.release()
    if variance <= 0 or spread <= resolution(image):
        fit = AffineFit(scale=0.0, offset=target_mean, pearson=0.0, constant=True)
    else:
        scale = covariance / variance
        target_norm = math.sqrt(target_variance)
        pearson = covariance / (math.sqrt(variance) * target_norm) if target_norm > 0 else 0.0
        fit = AffineFit(scale, target_mean - scale * image_mean, max(-1.0, min(1.0, pearson)))
    return fit, (image_mean, target_mean)


def fitted_to_target(image_centred: Float64, fit: AffineFit, means: tuple[float, float]) -> Float64:
    """Return an image without its mean as it is fitted to the target: a new array, which is not clipped."""
    # The fitted image has the mean of the target: adding it to the centred image loses fewer digits than `offset`.
    fitted = image_centred * fit.scale
    fitted += means[1]
    return fitted
