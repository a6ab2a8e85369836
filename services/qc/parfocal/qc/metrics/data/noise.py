"""Whether anything in an image rises above its noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from parfocal.qc.metrics._arrays import check_values
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.noise import noise_sigma

_SMOOTHING: Final = 2.0
_PERCENTILES: Final = (2.0, 99.8)


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


def measure_noise(image: npt.NDArray[Any]) -> Noise:
    """Return noise and signal of an image (Y, X) or (Z, Y, X); see `Noise`.

    Raises
    ------
    InvalidInputError
        Other axes, smaller than 3x3 pixels, not numeric or not finite.
    """
    pixels = _checked(image)
    sigmas = (0.0,) * (pixels.ndim - 2) + (_SMOOTHING, _SMOOTHING)
    low, high = np.percentile(ndimage.gaussian_filter(pixels, sigmas), _PERCENTILES)
    calmed = ndimage.median_filter(pixels, size=(1,) * (pixels.ndim - 2) + (3, 3))
    calmed = ndimage.gaussian_filter(calmed, sigmas, output=calmed)
    return Noise(noise_sigma(pixels), float(high - low), float(calmed.max() - calmed.min()))


def _checked(image: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    check_values(image, "image")
    if image.ndim not in (2, 3) or min(image.shape[-2:]) < 3:
        raise InvalidInputError(f"Noise is measured in images (Y, X) or (Z, Y, X) of 3x3 pixels; not {image.shape}.")
    return (image - np.asarray(image.min(), np.float64)).astype(np.float32)
