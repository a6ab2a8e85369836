"""Outlines of the objects in a label image, along the edges of their pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# Right, down, left, up, as steps along Y and X; each turned to the right is the next.
_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))
# From a corner of the grid and a direction, the pixel ahead on the left-hand and on the right-hand side.
_AHEAD = (((-1, 0), (0, 0)), ((0, 0), (0, -1)), ((0, -1), (-1, -1)), ((-1, -1), (-1, 0)))


def trace_outlines(labels: NDArray[Any]) -> list[NDArray[np.float32]]:
    """Return the outer outline of each object, a polygon that goes around its pixels clockwise.

    Pixels that touch at a corner belong together. Of an object in several pieces the first one is outlined, and holes
    are not.

    Parameters
    ----------
    labels
        Integers (Y, X): 0 is background, objects are numbered from 1 without gaps.

    Returns
    -------
    list of NDArray
        Per object float32 (corners, 2) as y and x in pixels; the centre of the first pixel is at 0.
    """
    outlines = []
    for number, window in enumerate(ndimage.find_objects(labels), start=1):
        inside = np.pad(labels[window] == number, 1)
        corners = _around(inside.tolist(), int(np.argmax(inside[1])))
        offset = np.array([part.start for part in window]) - 1.5
        outlines.append((np.array(corners) + offset).astype(np.float32))
    return outlines


def _around(inside: list[list[bool]], column: int) -> list[tuple[int, int]]:
    """Return the corners of the grid where the outline turns, from the upper left one of the first pixel."""
    first = y, x = 1, column
    heading = 0
    corners = [first]
    while True:
        y, x = y + _STEPS[heading][0], x + _STEPS[heading][1]
        (left_y, left_x), (right_y, right_x) = _AHEAD[heading]
        if inside[y + left_y][x + left_x]:
            turn = -1
        elif inside[y + right_y][x + right_x]:
            turn = 0
        else:
            turn = 1
        heading = (heading + turn) % 4
        # The first corner is that of a pixel with nothing above or to the left of it: it is passed to the right once.
        if (y, x) == first and heading == 0:
            return corners
        if turn:
            corners.append((y, x))
