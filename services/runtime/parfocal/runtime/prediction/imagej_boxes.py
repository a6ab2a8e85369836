"""Boxes as ImageJ's regions of interest, written without a package for it: a rectangle is 128 bytes and its name.

The layout is that of `ij.io.RoiDecoder` of ImageJ: big-endian numbers, a header of 64 bytes, a second one of 64 bytes
with position, name and group, and the name in UTF-16.
"""

from __future__ import annotations

import math
import struct
from typing import Final

_VERSION: Final = 227
_RECTANGLE: Final = 1
_SUB_PIXEL: Final = 128
_HEADER: Final = 64
_MOST_GROUPS: Final = 255
_LARGEST: Final = 2**15 - 1


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
    # The whole numbers are for versions before 1.44; they end at 32767 where the fractions do not.
    whole = [min(round(value), _LARGEST) for value in (math.floor(y0), math.floor(x0), math.ceil(y1), math.ceil(x1))]
    header = bytearray(_HEADER)
    struct.pack_into(">4shBx4h", header, 0, b"Iout", _VERSION, _RECTANGLE, *whole)
    struct.pack_into(">4f", header, 18, x0, y0, x1 - x0, y1 - y0)
    struct.pack_into(">h", header, 50, _SUB_PIXEL)
    struct.pack_into(">2i", header, 56, position, _HEADER)
    text = name.encode("utf-16-be")
    second = bytearray(_HEADER)
    struct.pack_into(">2i", second, 16, 2 * _HEADER, len(text) // 2)
    struct.pack_into(">B", second, 30, group if group <= _MOST_GROUPS else 0)
    return bytes(header + second + text)
