"""How many pixels of an image are at the end of the range in which a camera or file can count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.images.pixel_values import value_range
from parfocal.runtime.images.scratch import blocks, release

CAMERA_MAXIMA: Final = (255, 1023, 4095, 16383, 65535)
"""The largest values of 8, 10, 12, 14 and 16 bits."""


@dataclass(frozen=True)
class Saturation:
    """Fractions of pixels whose true brightness is lost.

    Attributes
    ----------
    ceiling
        The camera's largest value, if it is the largest of the image; else None.
    at_ceiling
        Fraction of the pixels at the ceiling; 0 without one.
    at_zero
        Fraction of the pixels that are 0 or below, cut off at the lower end.
    """

    ceiling: int | None
    at_ceiling: float
    at_zero: float


def saturation(pixels: NDArray[Any]) -> Saturation:
    """Return which part of an image is saturated or cut off.

    Parameters
    ----------
    pixels
        An image of any shape, which need not be in memory. Floating images have no largest value: their fractions are
        0. So are those of images with no more than two values and one of them a ceiling, which are masks.
    """
    if pixels.dtype.kind not in "ui" or pixels.size == 0:
        return Saturation(None, 0.0, 0.0)
    lowest, highest = (int(value) for value in value_range(pixels))
    zero = top = bottom = 0
    for window in blocks(pixels.shape):
        part = pixels[window]
        zero += int(np.count_nonzero(part <= 0))
        top += int(np.count_nonzero(part == highest))
        bottom += int(np.count_nonzero(part == lowest))
        release(pixels)
    if highest not in CAMERA_MAXIMA:
        return Saturation(None, 0.0, zero / pixels.size)
    if top + bottom >= pixels.size:
        return Saturation(None, 0.0, 0.0)
    return Saturation(highest, top / pixels.size, zero / pixels.size)
