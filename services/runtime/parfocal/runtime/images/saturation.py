"""How many pixels of an image are at the end of the range in which a camera or file can count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

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
        An image of any shape. Floating images have no largest value: their fractions are 0. So are those of
        images with no more than two values and one of them a ceiling, which are masks.
    """
    if pixels.dtype.kind not in "ui" or pixels.size == 0:
        return Saturation(None, 0.0, 0.0)
    lowest, highest = int(pixels.min()), int(pixels.max())
    at_zero = int(np.count_nonzero(pixels <= 0)) / pixels.size
    if highest not in CAMERA_MAXIMA:
        return Saturation(None, 0.0, at_zero)
    at_top = int(np.count_nonzero(pixels == highest))
    if at_top + int(np.count_nonzero(pixels == lowest)) >= pixels.size:
        return Saturation(None, 0.0, 0.0)
    return Saturation(highest, at_top / pixels.size, at_zero)
