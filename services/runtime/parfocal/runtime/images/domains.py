"""Compares how much structure two kinds of image show, before one is translated into the other without pairs.

A network whose results must look like images of the second kind adds false structures if the first kind has too few,
and removes structures if it has too many (Cohen, Luck, Honari, "Distribution matching losses can hallucinate features
in medical image translation", MICCAI 2018). Grey values do not show this: they usually differ between two kinds. So the
fraction of an image that shows structure is compared, and the size of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from parfocal.runtime.images.files import PixelSize
from parfocal.runtime.images.noise import noise_sigma

_WINDOW: Final = 9
_LARGEST_SIDE: Final = 1024
# In noise alone the standard deviation of 81 pixels varies by 8 % around that of the noise.
_ABOVE_NOISE: Final = 1.5
_LEAST_CONTRAST: Final = 0.05
_MOST_RATIO: Final = 2.0
_LEAST_DIFFERENCE: Final = 0.1
_PIXEL_SIZE_FACTOR: Final = 1.25


def structured_share(pixels: NDArray[Any]) -> float:
    """Return the fraction of an image that shows structure, 0 to 1, whatever its brightness and contrast.

    A pixel counts if the standard deviation of the 9 x 9 pixels around it is above 1.5 times that of the noise and
    above a twentieth of the span between the 2nd and the 99.8th percentile.

    Parameters
    ----------
    pixels
        Grey values, (…, Y, X) or (Y, X, colours); finite. Only the middle plane or channel is measured, and
        only the centre of a large image.
    """
    if pixels.ndim > 2 and pixels.shape[-1] in (3, 4):
        pixels = pixels[..., 1]
    while pixels.ndim > 2:
        pixels = pixels[pixels.shape[0] // 2]
    window = tuple(
        slice(max(0, (length - _LARGEST_SIDE) // 2), max(0, (length - _LARGEST_SIDE) // 2) + _LARGEST_SIDE)
        for length in pixels.shape
    )
    plane = pixels[window].astype(np.float64)
    low, high = np.percentile(plane, (2, 99.8))
    if not high > low:
        return 0.0
    plane -= plane.mean()
    variance = ndimage.uniform_filter(plane**2, _WINDOW) - ndimage.uniform_filter(plane, _WINDOW) ** 2
    noise = noise_sigma(plane) if min(plane.shape) >= 3 else 0.0
    least = max(_ABOVE_NOISE * noise, _LEAST_CONTRAST * (high - low))
    return float(np.mean(variance > least**2))


def unlike_domains(
    sources: Sequence[NDArray[Any]],
    targets: Sequence[NDArray[Any]],
    *,
    pixel_sizes: tuple[PixelSize | None, PixelSize | None] = (None, None),
) -> list[str]:
    """Return, as sentences for people, the differences of two sets of images that lead a network to false structure.

    Only clear differences are named: the medians of `structured_share` differ by more than a factor of two and by more
    than 0.1, and the ranges of the two sets do not overlap; or pixels of one set are more than a quarter larger. False
    structure is possible without any of them.

    Parameters
    ----------
    sources, targets
        Images as for `structured_share`, one or more of each.
    pixel_sizes
        Pixel sizes of the sources and of the targets; None where unknown.
    """
    found = []
    shares = [np.array([structured_share(np.asarray(image)) for image in images]) for images in (sources, targets)]
    few, many = sorted(shares, key=lambda each: float(np.median(each)))
    lower, upper = float(np.median(few)), float(np.median(many))
    if few.max() < many.min() and upper > _MOST_RATIO * lower and upper - lower > _LEAST_DIFFERENCE:
        mine, theirs = (float(np.median(each)) for each in shares)
        found.append(
            f"Structure covers {mine:.0%} of a source image and {theirs:.0%} of a target image (medians). Trained "
            "without pairs, a network makes up or removes structures to even this out: choose images of both kinds "
            "that show as much as each other, and do not measure anything in the results."
        )
    widths = [size.x for size in pixel_sizes if size is not None]
    if len(widths) == 2 and max(widths) > _PIXEL_SIZE_FACTOR * min(widths):
        found.append(
            f"Pixels of the source images are {widths[0]:.3g} µm wide and those of the target images {widths[1]:.3g} "
            "µm. Trained without pairs, a network changes the size of structures to even this out: scale the images of "
            "one kind first."
        )
    return found
