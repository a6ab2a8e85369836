"""How sharp an image is, to be compared with other images of the same kind."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from parfocal.qc.metrics._arrays import check_values
from parfocal.qc.metrics.bands import filtered_bands
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.correlation import dot
from parfocal.runtime.images.pixel_values import value_range

_FINE: Final = (1.0, 2.0)
_COARSE: Final = (2.0, 8.0)


def sharpness(image: npt.NDArray[Any], noise: float = 0.0) -> float | None:
    """Return how strong the fine structures of an image are beside its coarse ones.

    A focus measure after Subbarao et al. (Optical Engineering 32, 2824, 1993), who take the energy of a band of
    spatial frequencies: the standard deviation of the image between Gaussians of sigma 1 and 2 pixels, divided by that
    between 2 and 8 pixels. Blur takes the fine structures first. The quotient does not depend on offset and gain, and
    what white noise adds to both is subtracted, or noisy images would seem the sharpest (as they do by the variance
    of the Laplacian, Pertuz et al., Pattern Recognition 46, 1415, 2013).

    The number depends on what an image shows: only images of the same kind can be compared.

    Parameters
    ----------
    image
        Finite grey values (Y, X) or (Z, Y, X), whose planes are filtered each by itself; they need not be in memory.
    noise
        Standard deviation of white noise in the image, in grey values; see `parfocal.qc.metrics.data.noise`.

    Returns
    -------
    float or None
        Sharpness from 0 (no fine structures) to about 2. None if the image is constant, or if noise hides the
        structures: those of either size have less than half the variance of the noise there.

    Raises
    ------
    InvalidInputError
        Other axes, not numeric or not finite.
    """
    check_values(image, "image")
    if image.ndim not in (2, 3):
        raise InvalidInputError(f"Sharpness is measured in images (Y, X) or (Z, Y, X), not {image.shape}.")
    lowest = np.asarray(value_range(image)[0], np.float64)
    energies = []
    for narrow, wide in (_FINE, _COARSE):

        def structures(part: npt.NDArray[Any], narrow: float = narrow, wide: float = wide) -> npt.NDArray[np.float32]:
            pixels = (part - lowest).astype(np.float32)
            return np.asarray(ndimage.gaussian_filter(pixels, narrow) - ndimage.gaussian_filter(pixels, wide))

        sums = np.zeros(2)
        for part in filtered_bands(image, structures, math.ceil(4 * wide)):
            values = part.astype(np.float64)
            sums += values.sum(), dot(values, values)
        of_noise = noise**2 * white_noise_gain(narrow, wide)
        # The mean of such a band is near 0.
        energies.append(float(sums[1] / image.size - (sums[0] / image.size) ** 2) - of_noise)
        if energies[-1] <= 0 or energies[-1] < of_noise / 2:
            return None
    return math.sqrt(energies[0] / energies[1])


def white_noise_gain(narrow: float, wide: float) -> float:
    """Return the variance that is left of white noise of variance 1 between two Gaussians of an image's plane.

    The integral of (g_a - g_b)^2 over the plane: 1 / (4 pi a^2) + 1 / (4 pi b^2) - 1 / (pi (a^2 + b^2)).
    """
    a, b = narrow**2, wide**2
    return (1 / (4 * a) + 1 / (4 * b) - 1 / (a + b)) / math.pi
