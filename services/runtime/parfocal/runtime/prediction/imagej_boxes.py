"""Boxes as ImageJ's regions of interest."""

from __future__ import annotations

import math
from typing import Final

import roifile

# ImageJ knows 255 groups, and whole numbers of 16 bits beside the fractions.
_MOST_GROUPS: Final = 255
_LARGEST: Final = 2**15 - 1
_VERSION: Final = 227


def rectangle_bytes(
    name: str, corners: tuple[float, float, float, float], *, group: int = 0, position: int = 0
) -> bytes:
    """Return the content of a .roi file.

    Parameters
    ----------
    name
        Name of the region.
    corners
        (x0, y0, x1, y1) in pixels, between pixels, with fractions.
    group
        By which ImageJ colours and selects regions, 1 to 255; 0, or a larger number: none.
    position
        Number of the plane of a stack, from 1; 0: all.
    """
    x0, y0, x1, y1 = corners
    roi = roifile.ImagejRoi()
    roi.version, roi.roitype = _VERSION, roifile.ROI_TYPE.RECT
    roi.options = roifile.ROI_OPTIONS.SUB_PIXEL_RESOLUTION
    # The whole numbers are for versions before 1.44.
    whole = (math.floor(y0), math.floor(x0), math.ceil(y1), math.ceil(x1))
    roi.top, roi.left, roi.bottom, roi.right = (min(value, _LARGEST) for value in whole)
    roi.xd, roi.yd, roi.widthd, roi.heightd = x0, y0, x1 - x0, y1 - y0
    roi.name, roi.position = name, position
    roi.group = group if group <= _MOST_GROUPS else 0
    return bytes(roi.tobytes())
