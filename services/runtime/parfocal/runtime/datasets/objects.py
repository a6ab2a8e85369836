"""Objects of label images: how large they are, and in how many separate pieces they lie."""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Pieces(NamedTuple):
    """In how many pieces the labels of an image lie, and how many different labels there are."""

    pieces: int
    labels: int


def object_extents(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Return how many pixels each object spans along each axis.

    Parameters
    ----------
    labels
        Label image of whole numbers (…, Y, X); what is not above 0 is no object.

    Returns
    -------
    NDArray
        int64 (objects, axes), in the order of the labels.
    """
    values, rows, begin, end = _runs(labels)
    if not values.size:
        return np.zeros((0, labels.ndim), np.int64)
    order = np.argsort(values, kind="stable")
    first = np.flatnonzero(np.diff(values[order], prepend=values[order][0] - np.int64(1)))
    places = [*np.unravel_index(rows[order], labels.shape[:-1])]
    lows = [np.minimum.reduceat(place, first) for place in (*places, begin[order])]
    highs = [np.maximum.reduceat(place, first) for place in (*places, end[order] - 1)]
    extents: NDArray[np.int64] = np.stack(highs, axis=1).astype(np.int64) - np.stack(lows, axis=1) + 1
    return extents


def count_pieces(labels: NDArray[Any]) -> Pieces:
    """Return in how many pieces the labels of an image lie; pixels that touch at an edge or a corner are together."""
    return Pieces(_components(labels)[1], len(np.unique(_runs(labels)[0])))


def label_components(labels: NDArray[Any]) -> NDArray[Any]:
    """Return a label image in which each separate piece of each label has a number of its own.

    Parameters
    ----------
    labels
        Mask or label image of whole numbers (…, Y, X); what is not above 0 is background.

    Returns
    -------
    NDArray
        uint16, or uint32 with more than 65,535 pieces: 1, 2, … in the order in which the pieces begin.
    """
    numbered, pieces = _components(labels)
    return numbered.astype(np.uint16 if pieces <= np.iinfo(np.uint16).max else np.uint32)


def _runs(labels: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return value, row, begin and end along X of each run of equal pixels above 0; rows are those of all planes."""
    flat = np.ascontiguousarray(labels).reshape(-1, labels.shape[-1])
    begins = np.ones(flat.shape, np.bool_)
    begins[:, 1:] = flat[:, 1:] != flat[:, :-1]
    where = np.flatnonzero(begins)
    lengths = np.diff(where, append=flat.size)
    values = flat.reshape(-1)[where]
    inside = values > 0
    rows, begin = np.divmod(where[inside], flat.shape[1])
    return values[inside].astype(np.int64), rows, begin, begin + lengths[inside]


def _components(labels: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """Return the number of its piece for each pixel, 0 for background, and how many pieces there are."""
    values, rows, begin, _ = _runs(labels)
    pixels = np.zeros((int(np.prod(labels.shape[:-1])), labels.shape[-1]), np.int32)
    ids = np.arange(1, len(values) + 1, dtype=np.int32)
    pixels[rows, begin] = ids
    # Runs of different objects follow without a gap, so each pixel takes the number of the run that began last.
    inside = np.ascontiguousarray(labels).reshape(pixels.shape) > 0
    pixels = np.where(inside, np.maximum.accumulate(pixels.reshape(-1)).reshape(pixels.shape), 0).astype(np.int32)
    runs = pixels.reshape(labels.shape)
    parents = np.arange(len(values) + 1)
    one, other = _touching(np.asarray(labels), runs)
    while one.size:
        # The higher of two roots hangs below the lower one until every pair has one root.
        low, high = np.minimum(parents[one], parents[other]), np.maximum(parents[one], parents[other])
        apart = low != high
        one, other, low, high = one[apart], other[apart], low[apart], high[apart]
        np.minimum.at(parents, high, low)
        while not np.array_equal(further := parents[parents], parents):
            parents = further
    roots, numbers = np.unique(parents, return_inverse=True)
    return numbers.reshape(-1)[runs], len(roots) - 1


def _touching(labels: NDArray[Any], runs: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the pairs of runs with the same label that touch at an edge or a corner, some of them several times."""
    pairs: list[tuple[NDArray[np.int32], NDArray[np.int32]]] = []
    for step in product((-1, 0, 1), repeat=labels.ndim):
        if step >= (0,) * labels.ndim or not any(step[:-1]):
            continue  # seen from the other side, or along a run
        here = tuple(
            slice(max(0, -each), length - max(0, each)) for each, length in zip(step, labels.shape, strict=True)
        )
        there = tuple(
            slice(max(0, each), length - max(0, -each)) for each, length in zip(step, labels.shape, strict=True)
        )
        same = (labels[here] == labels[there]) & (labels[here] > 0)
        one, other = runs[here][same], runs[there][same]
        # Along two runs that touch the pair is the same again and again.
        new = np.ones(one.shape, np.bool_)
        new[1:] = (one[1:] != one[:-1]) | (other[1:] != other[:-1])
        pairs.append((one[new], other[new]))
    if not pairs:
        return np.zeros(0, np.int32), np.zeros(0, np.int32)
    one, other = (np.concatenate(ends) for ends in zip(*pairs, strict=True))
    return one, other
