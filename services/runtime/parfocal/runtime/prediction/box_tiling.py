"""Boxes found in images of any size: tiles that overlap by the size of the objects, and each object only once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.errors import OutOfMemoryError
from parfocal.runtime.methods.average_precision import box_overlaps
from parfocal.runtime.methods.outputs import Detections
from parfocal.runtime.methods.steps import AllSteps
from parfocal.runtime.prediction.tiling import Pixels, Tiling, choose_tile, out_of_memory_in_part

Detect = Callable[[NDArray[np.float32]], Detections]
"""Returns the boxes in one tile (Y, X, channels), in pixels from the tile's upper left corner."""
# Of a box for each pixel, of which networks find far fewer: its corners, class and confidence take 28.
_MOST_BYTES_OF_PIXEL: Final = 32


def suppress_overlaps(found: Detections, most: float) -> Detections:
    """Return the boxes that survive greedy non-maximum suppression, the most certain first.

    A box is left out if its intersection over union with a more certain one of the same class is `most` or higher.

    Parameters
    ----------
    found
        Boxes in any order.
    most
        From 0 to 1.
    """
    order = np.argsort(-found.confidence, kind="stable")
    kept: list[int] = []
    while len(order):
        first, order = order[0], order[1:]
        kept.append(int(first))
        overlaps = box_overlaps(found.corners[first : first + 1], found.corners[order])[0]
        order = order[(overlaps < most) | (found.classes[order] != found.classes[first])]
    return _select(found, np.array(kept, np.int64))


def find_boxes(
    detect: Detect, image: Pixels, tiling: Tiling, *, divisor: int, margin: int, most_overlap: float
) -> Detections:
    """Return the boxes in an image of any size.

    Neighbouring tiles overlap by twice the margin. Each tile answers for the boxes whose middle lies in its core, up to
    the middle of the overlap, so that every object no longer than twice the margin is seen whole by the tile that
    answers for it. Cores reach one divisor into each other, lest a box be lost whose middle two tiles see in different
    places; what is found twice is suppressed at the end. At the lower and right border tiles are filled up to a legal
    size with their median: mirrored pixels would show objects that are not there.

    Parameters
    ----------
    detect
        Finds the boxes in one tile.
    image
        (Y, X, channels), or something of which windows along Y and X can be had.
    tiling
        The most pixels of a tile, and whom to tell. When memory runs out, tiles are halved and the image is started
        again.
    divisor
        The sides of a tile are multiples of this many pixels.
    margin
        In pixels, at least one divisor.
    most_overlap
        Intersection over union from which two boxes of one class are the same object.

    Raises
    ------
    OutOfMemoryError
        Even the smallest tile needs more memory than there is.
    """
    shape = image.shape[:2]
    least = _round_up(2 * margin + divisor, divisor)
    tile = choose_tile(shape, divisor, tiling.most_pixels)
    while True:
        axes = [_plan(length, max(along, least), divisor, margin) for length, along in zip(shape, tile, strict=True)]
        try:
            return suppress_overlaps(_run(detect, image, axes, tiling), most_overlap)
        except (MemoryError, OutOfMemoryError) as error:
            tile = tuple(axis.tile for axis in axes)
            if tiling.steps is not None:
                raise out_of_memory_in_part(tile) from error
            longest = int(np.argmax(tile))
            if (smaller := max(_round_up(tile[longest] // 2, divisor), least)) >= tile[longest]:
                raise OutOfMemoryError(
                    f"Prediction ran out of memory even with tiles of {tile[0]} x {tile[1]} pixels. Free memory on "
                    "this machine or use a larger one."
                ) from error
            tile = (*tile[:longest], smaller, *tile[longest + 1 :])


@dataclass(frozen=True)
class _Axis:
    """The tiles along one axis: their length, where they start, and which middles each of them answers for."""

    tile: int
    starts: tuple[int, ...]
    cores: tuple[tuple[float, float], ...]


def _plan(length: int, wanted: int, divisor: int, margin: int) -> _Axis:
    padded = _round_up(length, divisor)
    tile = min(_round_up(wanted, divisor), padded)
    if tile == padded:
        return _Axis(tile, (0,), ((-math.inf, math.inf),))
    stride = max((tile - 2 * margin) // divisor, 1) * divisor
    count = 1 + math.ceil((padded - tile) / stride)
    starts = tuple(min(number * stride, padded - tile) for number in range(count))
    seams = [(first + tile + second) / 2 for first, second in itertools.pairwise(starts)]
    low, high = [-math.inf, *(seam - divisor for seam in seams)], [*(seam + divisor for seam in seams), math.inf]
    return _Axis(tile, starts, tuple(zip(low, high, strict=True)))


def _run(detect: Detect, image: Pixels, axes: Sequence[_Axis], tiling: Tiling) -> Detections:
    shape = np.array(image.shape[:2])
    places = list(itertools.product(*(range(len(axis.starts)) for axis in axes)))

    def look(number: int) -> dict[str, NDArray[Any]]:
        place = places[number]
        start = np.array([axis.starts[at] for axis, at in zip(axes, place, strict=True)])
        low, high = np.array([axis.cores[at] for axis, at in zip(axes, place, strict=True)]).T
        tile = _cut(image, start.tolist(), [axis.tile for axis in axes])
        here = detect(tile)
        corners = here.corners + np.tile(start, 2).astype(np.float32)
        middle = (corners[:, :2] + corners[:, 2:]) / 2
        mine = np.all((middle >= np.maximum(low, 0)) & (middle < np.minimum(high, shape)), axis=1)
        corners = np.clip(corners, 0, np.tile(shape, 2)).astype(np.float32)
        mine &= np.all(corners[:, 2:] > corners[:, :2], axis=1)
        if tiling.on_tile is not None:
            tiling.on_tile(number + 1, len(places))
        return {name: each[mine] for name, each in (vars(here) | {"corners": corners}).items()}

    plan = " x ".join(f"{axis.tile} at {' '.join(map(str, axis.starts))}" for axis in axes)
    most = math.prod(axis.tile for axis in axes) * _MOST_BYTES_OF_PIXEL
    steps = tiling.steps or AllSteps()
    found = [Detections(**arrays) for arrays in steps.run(plan, len(places), look, most_bytes=most)]
    return Detections(
        np.concatenate([each.corners for each in found]),
        np.concatenate([each.classes for each in found]),
        np.concatenate([each.confidence for each in found]),
    )


def _cut(image: Pixels, start: Sequence[int], lengths: Sequence[int]) -> NDArray[np.float32]:
    """Return one tile, filled up with the median of each channel where it reaches beyond the image."""
    ends = [min(first + length, most) for first, length, most in zip(start, lengths, image.shape[:2], strict=True)]
    part = np.asarray(image[tuple(slice(*along) for along in zip(start, ends, strict=True))], np.float32)
    if part.shape[:2] == tuple(lengths):
        return part
    tile = np.empty((*lengths, part.shape[2]), np.float32)
    tile[:] = np.median(part, axis=(0, 1))
    tile[: part.shape[0], : part.shape[1]] = part
    return tile


def _select(found: Detections, which: NDArray[np.int64]) -> Detections:
    return Detections(found.corners[which], found.classes[which], found.confidence[which])


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
