"""How strong the noise of an image is, without a clean version of it, and whether anything rises above it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from parfocal.qc.metrics._arrays import check_values
from parfocal.runtime.errors import InvalidInputError

# The second difference along Y of the second difference along X, divided by its gain on white noise.
_DIFFERENCE: Final = np.array([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]], np.float32) / 6
_MEDIAN_OF_NORMAL: Final = 0.6744897501960817  # of the absolute value of a standard normal variable
_SMOOTHING: Final = 2.0
_PERCENTILES: Final = (2.0, 99.8)


@dataclass(frozen=True)
class Noise:
    """The noise of an image, and what rises above it.

    Attributes
    ----------
    sigma
        Standard deviation of the noise, in grey values; see `noise_sigma`.
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


def noise_sigma(image: npt.NDArray[Any]) -> float:
    """Return the standard deviation of the noise of an image, in grey values.

    The image is filtered with the difference of two Laplacians of Immerkaer (Computer Vision and Image Understanding
    64, 300, 1996), which removes planes and leaves little of edges; instead of his mean, the median of the absolute
    values divided by 0.6745 is taken (Hampel, JASA 69, 383, 1974), because structures are a minority of the pixels.
    Pixels at the smallest and largest value of the image are left out unless they are all there are: clipped pixels
    have no noise. Noise that depends on the signal (photons) is that of the typical pixel, mostly background. Noise
    that neighbouring pixels share, as after interpolation or JPEG, is underestimated. Grey values rounded to
    steps coarser than the noise give 0.

    Parameters
    ----------
    image
        Finite grey values (Y, X), or (Z, Y, X), whose planes are filtered each by itself; at least 3x3 pixels.

    Raises
    ------
    InvalidInputError
        Other axes, smaller, not numeric or not finite.
    """
    pixels = _checked(image)
    residual = ndimage.convolve(pixels, _DIFFERENCE.reshape((1,) * (pixels.ndim - 2) + (3, 3)), mode="mirror")
    inside = (pixels > pixels.min()) & (pixels < pixels.max())
    chosen = residual[inside] if inside.any() else residual
    return float(np.median(np.abs(chosen))) / _MEDIAN_OF_NORMAL


def measure_noise(image: npt.NDArray[Any]) -> Noise:
    """Return noise and signal of an image (Y, X) or (Z, Y, X); see `Noise` and `noise_sigma`."""
    pixels = _checked(image)
    sigmas = (0.0,) * (pixels.ndim - 2) + (_SMOOTHING, _SMOOTHING)
    low, high = np.percentile(ndimage.gaussian_filter(pixels, sigmas), _PERCENTILES)
    calmed = ndimage.median_filter(pixels, size=(1,) * (pixels.ndim - 2) + (3, 3))
    calmed = ndimage.gaussian_filter(calmed, sigmas, output=calmed)
    return Noise(noise_sigma(image), float(high - low), float(calmed.max() - calmed.min()))


def _checked(image: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    check_values(image, "image")
    if image.ndim not in (2, 3) or min(image.shape[-2:]) < 3:
        raise InvalidInputError(f"Noise is measured in images (Y, X) or (Z, Y, X) of 3x3 pixels; not {image.shape}.")
    # Without the offset, so that float32 keeps the digits that matter.
    return (image - np.asarray(image.min(), np.float64)).astype(np.float32)
