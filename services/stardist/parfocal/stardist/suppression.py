"""Choice among proposals whose outlines may have any shape.

The package stardist intersects polygons that it makes of a centre and of distances, and so knows star-convex ones only.
Here proposals are sets of pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Kept:
    """The proposals that are kept.

    Attributes
    ----------
    indices
        int64 (K,): which ones, in their order.
    labels
        int32 (Y, X): 0 for background, k + 1 where the proposal `indices[k]` is the first that covers the pixel. So
        the labels of the first k proposals alone are those up to k.
    """

    indices: NDArray[np.int64]
    labels: NDArray[np.int32]


def pixels_inside(outlines: NDArray[np.floating], shape: tuple[int, int]) -> list[NDArray[np.int64]]:
    """Return for each polygon the pixels whose centres it contains.

    All polygons are painted together, row by row: between the first and the second place where a row of pixels crosses
    the polygon, between the third and the fourth, and so on.

    Parameters
    ----------
    outlines
        (N, corners, 2) as y and x in pixels; they may leave the image.
    shape
        Shape of the image in pixels.

    Returns
    -------
    list of NDArray
        Pixels of each polygon as rising indices into the flat image.
    """
    height, width = shape
    count, corners = outlines.shape[:2]
    y, x = (outlines[..., axis].reshape(-1) for axis in (0, 1))
    next_y, next_x = (np.roll(outlines[..., axis], -1, axis=1).reshape(-1) for axis in (0, 1))
    # Rows on a corner count for the edge below it alone.
    first = np.clip(np.ceil(np.minimum(y, next_y)), 0, height).astype(np.int64)
    rows = np.clip(np.ceil(np.maximum(y, next_y)), 0, height).astype(np.int64) - first
    edge = np.repeat(np.arange(y.size), rows)
    row = np.arange(edge.size) - np.repeat(np.cumsum(rows) - rows - first, rows)
    slope = (next_x[edge] - x[edge]) / (next_y[edge] - y[edge])
    column = np.clip(np.ceil(x[edge] + (row - y[edge]) * slope), 0, width).astype(np.int64)
    number = edge // corners
    order = np.lexsort((column, row, number))
    start, stop = (column[order[half::2]] for half in (0, 1))
    length = stop - start
    pixels = np.arange(length.sum()) + np.repeat(row[order[::2]] * width + start - np.cumsum(length) + length, length)
    sizes = np.bincount(number[order[::2]], weights=length, minlength=count).astype(np.int64)
    return np.split(pixels, np.cumsum(sizes))[:-1]


def suppress(regions: Iterable[NDArray[np.int64]], shape: tuple[int, int], overlap: float) -> Kept:
    """Keep each proposal that does not share more than a part of the smaller one's area with one kept before it.

    Parameters
    ----------
    regions
        The pixels of each proposal as indices of the flat image, the surest proposal first. Empty ones are not kept.
    shape
        Shape of the image in pixels.
    overlap
        Largest part of the area of the smaller of two proposals that they may share, 0 to 1.
    """
    labels = np.zeros(shape, np.int32)
    first = labels.reshape(-1)
    indices: list[int] = []
    kept: list[NDArray[np.int64]] = []
    # Of each kept proposal, those behind it: they share pixels that are labelled as its own.
    behind: list[list[int]] = []
    mask = np.zeros(labels.size, bool)
    for number, region in enumerate(regions):
        if not region.size:
            continue
        owners = first[region]
        seen, counts = np.unique(owners[owners > 0], return_counts=True)
        touched = (seen - 1).tolist()
        areas = [min(region.size, kept[each].size) for each in touched]
        if any(count > overlap * area for count, area in zip(counts.tolist(), areas, strict=True)):
            continue
        hidden = {other for each in touched for other in behind[each]}
        if touched:
            mask[region] = True
            nearby = [kept[other] for other in {*touched, *hidden}]
            shared = any(np.count_nonzero(mask[each]) > overlap * min(region.size, each.size) for each in nearby)
            mask[region] = False
            if shared:
                continue
        for each in touched:
            behind[each].append(len(kept))
        indices.append(number)
        kept.append(region)
        behind.append([])
        first[region[owners == 0]] = len(kept)
    return Kept(np.array(indices, np.int64), labels)
