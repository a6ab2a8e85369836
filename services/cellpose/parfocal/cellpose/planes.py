"""Planes of volumes: the network of Cellpose sees volumes plane by plane, in three orientations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

ORIENTATIONS = ((0, 1, 2), (1, 0, 2), (2, 0, 1))
"""For each orientation the axis that planes are counted along, then their own two axes: YX, ZY and ZX of (Z, Y, X)."""


def resize(pixels: NDArray[Any], height: int, width: int, *, nearest: bool = False) -> NDArray[Any]:
    """Return an image (Y, X) or (Y, X, channels) resized as Cellpose does it; a single channel keeps its axis."""
    if pixels.shape[:2] == (height, width):
        return pixels
    method = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=method)).reshape(
        height, width, *pixels.shape[2:]
    )


def resize_volume(volume: NDArray[Any], shape: tuple[int, int, int]) -> NDArray[Any]:
    """Return a volume (Z, Y, X, channels) resized linearly: its planes first, then along Z."""
    depth, height, width = shape
    if volume.shape[1:3] != (height, width):
        volume = np.stack([resize(plane, height, width) for plane in volume])
    if len(volume) != depth:
        volume = np.stack([resize(np.ascontiguousarray(volume[:, y]), depth, width) for y in range(height)], axis=1)
    return volume


def cut_planes(
    source: NDArray[np.float32], labels: NDArray[Any], stretch: float, rng: np.random.Generator
) -> Iterator[tuple[NDArray[np.float32], NDArray[Any]]]:
    """Yield one plane of each orientation out of a block, all of the block's size along Y and X.

    Parameters
    ----------
    source
        (Z, side, side, channels).
    labels
        Integers (Z, side, side).
    stretch
        Distance between planes divided by the size of a pixel along Y or X.
    rng
        Draws the planes.

    Yields
    ------
    NDArray, NDArray
        A plane (side, side, channels) and its labels (side, side), -1 where a short block leaves it empty.
    """
    side = source.shape[2]
    for axis, *_ in ORIENTATIONS:
        place = int(rng.integers(source.shape[axis]))
        plane = np.ascontiguousarray(np.take(source, place, axis=axis))
        drawn = np.ascontiguousarray(np.take(labels, place, axis=axis), np.int32)
        if axis:
            height = max(1, round(len(plane) * stretch))
            plane, drawn = resize(plane, height, side), resize(drawn.astype(np.float32), height, side, nearest=True)
            start = int(rng.integers(max(1, height - side + 1)))
            plane, drawn = plane[start : start + side], drawn[start : start + side].astype(np.int32)
            missing = ((0, side - len(plane)), (0, 0))
            plane = np.pad(plane, (*missing, (0, 0)))
            drawn = np.pad(drawn, missing, constant_values=-1)
        yield plane, drawn
