"""Connected regions of an image that is gone through in bands: one that crosses bands is one region."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse

from parfocal.qc.metrics.bands import bands
from parfocal.runtime.images.scratch import IN_MEMORY, Scratch, release

Labels = npt.NDArray[np.int32]


def connected_regions(
    shape: Sequence[int], chosen: Callable[[slice], npt.NDArray[np.bool_]], scratch: Scratch = IN_MEMORY
) -> tuple[Labels, int]:
    """Return the regions of pixels that are connected by faces, numbered in the order of their first pixels.

    Parameters
    ----------
    shape
        Shape of the image.
    chosen
        Returns, of some places along the first axis, which pixels belong to regions.
    scratch
        Where the labels lie.

    Returns
    -------
    labels : numpy.ndarray
        int32 of the shape; 0 outside of regions.
    count : int
        Number of regions.
    """
    labels: Labels = scratch.zeros(shape, np.int32)
    joined: list[npt.NDArray[np.int32]] = []
    total, edge = 0, None
    for band in bands(shape):
        found, count = ndimage.label(chosen(band.rows))
        found[found > 0] += total
        total += int(count)
        if edge is not None:
            touching = (edge > 0) & (found[0] > 0)
            joined.append(np.unique(np.stack([edge[touching], found[0][touching]]), axis=1))
        edge = found[-1].copy()
        labels[band.rows] = found
        release(labels)
    if not joined:
        return labels, total
    pairs = np.concatenate(joined, axis=1)
    graph = sparse.coo_array((np.ones(pairs.shape[1], bool), (pairs[0], pairs[1])), shape=(total + 1, total + 1))
    count, member = sparse.csgraph.connected_components(graph.tocsr(), directed=False)
    # Members are counted in the order of the regions, or not, as the library likes.
    _, first = np.unique(member, return_index=True)
    number = np.empty(count, np.int32)
    number[np.argsort(first)] = np.arange(count)
    renumber(labels, number[member])
    return labels, int(count) - 1


def renumber(labels: Labels, numbers: npt.NDArray[np.int32]) -> None:
    """Replace each label by the number at its place, band by band."""
    for band in bands(labels.shape):
        labels[band.rows] = numbers[labels[band.rows]]
        release(labels)
