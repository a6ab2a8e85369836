"""Which pixels a shape covers.

Points are (x, y) in pixels from the upper left corner of the plane: the pixel in row r and column c covers
c <= x < c + 1 and r <= y < r + 1, and its centre is (c + 0.5, r + 0.5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]


@dataclass(frozen=True)
class Area:
    """Pixels of a plane: a boolean mask (Y, X) whose upper left pixel lies in row `y` and column `x`."""

    y: int
    x: int
    mask: NDArray[np.bool_]

    @property
    def window(self) -> tuple[slice, slice]:
        """The rows and columns of the plane that the mask covers."""
        height, width = self.mask.shape
        return slice(self.y, self.y + height), slice(self.x, self.x + width)


def polygon(points: Sequence[Point], shape: tuple[int, int]) -> Area:
    """Return the pixels whose centres lie inside a closed polygon (non-zero winding rule).

    Parameters
    ----------
    points
        The corners; the last one is joined to the first.
    shape
        (Y, X) of the plane in pixels.
    """
    area = _empty(points, shape, 0.0)
    height, width = area.mask.shape
    crossings = np.zeros((height, width + 1), np.int64)
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
        if y0 == y1:
            continue
        low, high = min(y0, y1), max(y0, y1)
        # Rows whose centre c fulfils low <= c < high, so that corners count once.
        rows = np.arange(math.ceil(low - 0.5), math.ceil(high - 0.5)) - area.y
        rows = rows[(rows >= 0) & (rows < height)]
        across = x0 + (rows + area.y + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
        # So many centres lie to the left of the edge.
        columns = np.clip(np.ceil(across - 0.5) - area.x, 0, width).astype(np.int64)
        np.add.at(crossings, (rows, columns), 1 if y1 > y0 else -1)
    winding = np.cumsum(crossings[:, ::-1], axis=1)[:, ::-1][:, 1:]
    return Area(area.y, area.x, winding != 0)


def stroke(points: Sequence[Point], diameter: float, shape: tuple[int, int]) -> Area:
    """Return the pixels that a round brush paints along a path.

    These are the pixels whose centres are not farther than half the diameter from the path, and those in which the
    corners of the path lie, so that the finest brush paints the pixel below it.

    Parameters
    ----------
    points
        The corners of the path, one or more.
    diameter
        Of the brush, in pixels.
    shape
        (Y, X) of the plane in pixels.
    """
    radius = diameter / 2
    area = _empty(points, shape, radius + 1)
    mask = area.mask
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[-1]], strict=True):
        begin = (max(0, math.floor(min(y0, y1) - radius) - area.y), max(0, math.floor(min(x0, x1) - radius) - area.x))
        end = (math.ceil(max(y0, y1) + radius) - area.y + 1, math.ceil(max(x0, x1) + radius) - area.x + 1)
        part = mask[begin[0] : max(end[0], 0), begin[1] : max(end[1], 0)]
        y, x = np.ogrid[: part.shape[0], : part.shape[1]]
        y, x = y + (begin[0] + area.y + 0.5 - y0), x + (begin[1] + area.x + 0.5 - x0)
        along_x, along_y = x1 - x0, y1 - y0
        squared = along_x * along_x + along_y * along_y
        place = np.clip((x * along_x + y * along_y) / squared, 0, 1) if squared else np.zeros((1, 1))
        part |= (x - place * along_x) ** 2 + (y - place * along_y) ** 2 <= radius * radius
    for corner in points:
        row, column = math.floor(corner[1]) - area.y, math.floor(corner[0]) - area.x
        if 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]:
            mask[row, column] = True
    return area


def line(points: Sequence[Point], shape: tuple[int, int]) -> Area:
    """Return the pixels of a thin path: each touches the next one at a side or corner (8-connected)."""
    area = _empty(points, shape, 1.0)
    corners = [(math.floor(y), math.floor(x)) for x, y in points]
    for (row0, column0), (row1, column1) in zip(corners, [*corners[1:], corners[-1]], strict=True):
        steps = max(abs(row1 - row0), abs(column1 - column0), 1)
        place = np.arange(steps + 1)
        rows = np.floor(row0 + place * ((row1 - row0) / steps) + 0.5).astype(np.int64) - area.y
        columns = np.floor(column0 + place * ((column1 - column0) / steps) + 0.5).astype(np.int64) - area.x
        inside = (rows >= 0) & (rows < area.mask.shape[0]) & (columns >= 0) & (columns < area.mask.shape[1])
        area.mask[rows[inside], columns[inside]] = True
    return area


def _empty(points: Sequence[Point], shape: tuple[int, int], margin: float) -> Area:
    """Return an empty area around points, as far as it lies in the plane."""
    xs, ys = zip(*points, strict=True)
    top, left = max(0, math.floor(min(ys) - margin)), max(0, math.floor(min(xs) - margin))
    bottom, right = min(shape[0], math.ceil(max(ys) + margin) + 1), min(shape[1], math.ceil(max(xs) + margin) + 1)
    top, left = min(top, shape[0]), min(left, shape[1])
    return Area(top, left, np.zeros((max(0, bottom - top), max(0, right - left)), bool))
