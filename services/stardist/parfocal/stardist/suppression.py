"""Choice among proposals whose outlines may have any shape.

The package stardist intersects polygons that it makes of a centre and of distances, and so knows star-convex ones only.
Here proposals are sets of pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.draw import polygon


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


def pixels_inside(outlines: Iterable[NDArray[np.floating]], shape: tuple[int, int]) -> list[NDArray[np.int32]]:
    """Return for each polygon (corners, 2) the pixels whose centres it contains, as indices of the flat image."""
    return [np.ravel_multi_index(polygon(*outline.T, shape), shape).astype(np.int32) for outline in outlines]


def suppress(regions: Sequence[NDArray[np.int32]], shape: tuple[int, int], overlap: float) -> Kept:
    """Keep each proposal that does not share more than a part of the smaller one's area with one kept before it.

    Parameters
    ----------
    regions
        The pixels of each proposal as indices of the flat image, the surest proposal first. Empty ones are not kept.
    shape
        Of the image.
    overlap
        Largest part of the area of the smaller of two proposals that they may share, 0 to 1.
    """
    labels = np.zeros(shape, np.int32)
    first = labels.reshape(-1)
    kept: list[int] = []
    # Of each kept proposal, those behind it: they share pixels that are labelled as its own.
    behind: list[list[int]] = []
    mask = np.zeros(labels.size, bool)
    for number, region in enumerate(regions):
        if not region.size:
            continue
        owners = first[region]
        seen, counts = np.unique(owners[owners > 0], return_counts=True)
        touched = (seen - 1).tolist()
        areas = [min(region.size, regions[kept[each]].size) for each in touched]
        if any(count > overlap * area for count, area in zip(counts.tolist(), areas, strict=True)):
            continue
        hidden = {other for each in touched for other in behind[each]}
        if touched:
            mask[region] = True
            nearby = [regions[kept[other]] for other in {*touched, *hidden}]
            shared = any(np.count_nonzero(mask[each]) > overlap * min(region.size, each.size) for each in nearby)
            mask[region] = False
            if shared:
                continue
        for each in touched:
            behind[each].append(len(kept))
        kept.append(number)
        behind.append([])
        first[region[owners == 0]] = len(kept)
    return Kept(np.array(kept, np.int64), labels)
