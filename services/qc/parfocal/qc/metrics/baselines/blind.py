"""The Gaussian filter that suits images best, chosen without a target for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from parfocal.qc.metrics._arrays import Float32
from parfocal.qc.metrics.baselines.gaussian import DEFAULT_SIGMAS, gaussian_baseline
from parfocal.qc.metrics.parallel import map_bounded
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.scratch import IN_MEMORY, Scratch

# Of one image: all planes of a long time-lapse would take minutes.
_MOST_PIXELS: Final = 2**24


@dataclass(frozen=True)
class BlindGaussian:
    """A Gaussian filter, and how it was chosen.

    Attributes
    ----------
    sigma
        Standard deviation of the Gaussian filter, in pixels.
    errors
        ``(sigma, error)`` of every candidate, by rising sigma: the mean over the images of the mean squared error of
        each pixel foretold from the others, as a fraction of the image's variance.
    images
        Number of images.
    """

    sigma: float
    errors: tuple[tuple[float, float], ...]
    images: int

    def apply(self, source: npt.NDArray[Any], scratch: Scratch = IN_MEMORY) -> Float32:
        """Return the filtered source, (…, Y, X), which lies in `scratch`."""
        planes = gaussian_baseline(source.reshape(-1, *source.shape[-2:]), self.sigma, scratch)
        return planes.reshape(source.shape)

    def describe(self) -> dict[str, Any]:
        """Return what was chosen and how, as plain JSON types."""
        return {
            "name": "Gaussian filter",
            "filter": "gaussian",
            "sigma_pixels": self.sigma,
            "chosen_on": "images themselves",
            "images": self.images,
            "candidates": [{"sigma_pixels": sigma, "error": error} for sigma, error in self.errors],
        }


def choose_blind_gaussian(
    images: Iterable[npt.NDArray[Any]], sigmas: Sequence[float] = DEFAULT_SIGMAS
) -> BlindGaussian:
    """Choose the sigma that foretells each pixel best from its neighbours, the pixel itself left out.

    Where the noise of pixels is independent, this error is that to the unknown clean image plus a constant (Batson and
    Royer, Noise2Self, ICML 2019).

    Parameters
    ----------
    images
        Grey values (…, Y, X), taken one by one; of stacks of more than 16 million pixels, planes at even distances.
    sigmas
        Candidates in pixels, rising.

    Raises
    ------
    InvalidInputError
        There are no images with contrast.
    """

    def errors_of(image: npt.NDArray[Any]) -> npt.NDArray[np.float64] | None:
        step = -(-image.size // _MOST_PIXELS)
        planes = image.reshape(-1, *image.shape[-2:])[::step].astype(np.float32)
        spread = float(planes.std(dtype=np.float64))
        if not spread > 0:
            return None
        # Of unit variance, so that no square leaves the range of float32.
        planes /= np.float32(spread)
        return np.array([_left_out_error(planes, sigma) for sigma in sigmas])

    found = [errors for errors in map_bounded(errors_of, images) if errors is not None]
    if not found:
        raise InvalidInputError("None of the images has any contrast. Check that they are the right ones.")
    mean = np.mean(found, axis=0)
    return BlindGaussian(
        sigma=float(sigmas[int(mean.argmin())]),
        errors=tuple(zip(map(float, sigmas), mean.tolist(), strict=True)),
        images=len(found),
    )


def _left_out_error(planes: Float32, sigma: float) -> float:
    """Return the mean squared error of pixels foretold from all others under the filter."""
    point = np.zeros((1, 2 * int(4 * sigma + 1) + 1, 2 * int(4 * sigma + 1) + 1), np.float32)
    point[0, point.shape[1] // 2, point.shape[2] // 2] = 1
    own = float(gaussian_baseline(point, sigma).max())
    foretold = (gaussian_baseline(planes, sigma) - own * planes) / (1 - own)
    return float(((foretold - planes) ** 2).mean(dtype=np.float64))
