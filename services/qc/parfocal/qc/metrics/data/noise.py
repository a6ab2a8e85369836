"""Whether anything in an image rises above its noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from parfocal.qc.metrics._arrays import Float32, check_values, percentiles
from parfocal.qc.metrics.bands import filtered, filtered_bands
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.noise import noise_sigma
from parfocal.runtime.images.pixel_values import value_range
from parfocal.runtime.images.scratch import IN_MEMORY, Scratch

_SMOOTHING: Final = 2.0
_PERCENTILES: Final = (2.0, 99.8)
_AROUND: Final = math.ceil(4 * _SMOOTHING)


@dataclass(frozen=True)
class Noise:
    """The noise of an image, and what rises above it.

    Attributes
    ----------
    sigma
        Standard deviation of the noise, in grey values; see `parfocal.runtime.images.noise.noise_sigma`.
    signal
        Difference of the 99.8 and 2 percentiles of the smoothed image (Gaussian, sigma 2 pixels), in grey values:
        the percentiles by which Parfocal normalises, without what noise adds to them.
    rise
        Largest difference of two pixels of the image smoothed by a median over 3x3 pixels and the Gaussian, in grey
        values. Unlike `signal` it sees a single small object; the median keeps hot pixels out.
    """

    sigma: float
    signal: float
    rise: float

    @property
    def snr(self) -> float | None:
        """`signal` / `sigma`; None where there is no noise to be seen."""
        return self.signal / self.sigma if self.sigma > 0 else None

    @property
    def rise_in_noise(self) -> float | None:
        """`rise` / `sigma`; None where there is no noise to be seen. White noise alone gives 0.7 to 1.5."""
        return self.rise / self.sigma if self.sigma > 0 else None


def measure_noise(image: npt.NDArray[Any], scratch: Scratch = IN_MEMORY) -> Noise:
    """Return noise and signal of an image (Y, X) or (Z, Y, X); see `Noise`.

    It need not be in memory; what is computed of it lies in `scratch`.

    Raises
    ------
    InvalidInputError
        Other axes, smaller than 3x3 pixels, not numeric or not finite.
    """
    _check(image)
    lowest = np.asarray(value_range(image)[0], np.float64)

    def smoothed(part: npt.NDArray[Any]) -> Float32:
        return np.asarray(ndimage.gaussian_filter((part - lowest).astype(np.float32), _SMOOTHING))

    def calmed(part: npt.NDArray[Any]) -> Float32:
        calm = ndimage.median_filter((part - lowest).astype(np.float32), size=3)
        return np.asarray(ndimage.gaussian_filter(calm, _SMOOTHING, output=calm))

    low, high = percentiles(filtered(image, smoothed, _AROUND, scratch), *_PERCENTILES)
    ends = [(part.min(), part.max()) for part in filtered_bands(image, calmed, _AROUND + 1)]
    rise = max(highest for _, highest in ends) - min(lowest for lowest, _ in ends)
    return Noise(noise_sigma(image, scratch=scratch), high - low, float(rise))


def _check(image: npt.NDArray[Any]) -> None:
    check_values(image, "image")
    if image.ndim not in (2, 3) or min(image.shape[-2:]) < 3:
        raise InvalidInputError(f"Noise is measured in images (Y, X) or (Z, Y, X) of 3x3 pixels; not {image.shape}.")
