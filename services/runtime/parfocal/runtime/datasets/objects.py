"""Objects of label images: their sizes, and the number of their separate regions."""

from __future__ import annotations

from itertools import product
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.images.scratch import blocks, release

# Of the edges of a mask: different values at least; the part that has lower and higher values around, and the part that
# touches what has the highest value.
_STEPS: Final = 3
_RISING: Final = 0.9
_BACKGROUND: Final = 0.05  # part of the mask that is 0; grey images have hardly a pixel that is
_AT_SOLID: Final = 0.9


class Pieces(NamedTuple):
    """The number of separate regions of the labels of an image, and of different labels."""

    pieces: int
    labels: int


class _Runs(NamedTuple):
    """Runs of equal pixels above 0 along X, in the order of the image; rows are those of all planes."""

    values: NDArray[np.int64]
    rows: NDArray[np.int64]
    begin: NDArray[np.int64]
    end: NDArray[np.int64]


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
    found: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]] = []
    for window in blocks(labels.shape):
        runs = _runs(labels[window])
        release(labels)
        if runs.values.size:
            part = tuple(each.stop - each.start for each in window)
            places = np.stack([*np.unravel_index(runs.rows, part[:-1]), runs.begin], axis=1)
            starts = places + [each.start for each in window]
            stops = starts.copy()
            stops[:, -1] += runs.end - runs.begin - 1
            found.append(_bounds(runs.values, starts, stops))
    if not found:
        return np.zeros((0, labels.ndim), np.int64)
    # An object may lie in several windows.
    _, lows, highs = _bounds(*(np.concatenate(each) for each in zip(*found, strict=True)))
    return highs - lows + 1


def _bounds(
    values: NDArray[np.int64], starts: NDArray[np.int64], stops: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the different values in rising order, and the lowest start and highest stop of each along each axis."""
    order = np.argsort(values, kind="stable")
    values = values[order]
    first = np.flatnonzero(np.diff(values, prepend=values[0] - 1))
    lows = np.minimum.reduceat(starts[order], first, axis=0)
    return values[first], lows, np.maximum.reduceat(stops[order], first, axis=0)


def count_pieces(labels: NDArray[Any]) -> Pieces:
    """Return the number of separate regions of the labels; pixels that touch at a side or a corner are connected."""
    runs = _runs(labels)
    return Pieces(int(_numbers(runs, labels.shape).max(initial=0)), len(np.unique(runs.values)))


def label_components(labels: NDArray[Any]) -> NDArray[Any]:
    """Return a label image in which each separate piece of each label has a number of its own.

    Parameters
    ----------
    labels
        Mask or label image of whole numbers (…, Y, X); what is not above 0 is background.

    Returns
    -------
    NDArray
        uint16, or uint32 with more than 65,535 regions: 1, 2, … in the order of their first pixels.
    """
    runs = _runs(labels)
    numbers = _numbers(runs, labels.shape)
    kind = np.uint16 if numbers.max(initial=0) <= np.iinfo(np.uint16).max else np.uint32
    numbered = np.zeros(labels.shape, kind)
    numbered[labels > 0] = np.repeat(numbers.astype(kind), runs.end - runs.begin)
    return numbered


def without_soft_edges(mask: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Return the foreground of a mask whose edges run from 0 to its highest value in steps; None if it has none such.

    Antialiasing, resizing and blurring make such edges. Where regions are numbered, each of the steps would become an
    object. Foreground is what has half of the highest value and more.

    Parameters
    ----------
    mask
        Whole numbers (…, Y, X).
    """
    # Loaded only now: it would be most of the time that a server takes to start.
    from scipy import ndimage

    top = int(mask.max(initial=0))
    soft = (mask > 0) & (mask < top)
    if np.unique(mask[soft]).size < _STEPS or np.count_nonzero(mask == 0) < _BACKGROUND * mask.size:
        return None
    window = (1,) * (mask.ndim - 2) + (3, 3)
    least, most = ndimage.minimum_filter(mask, window), ndimage.maximum_filter(mask, window)
    # An edge rises through its pixels; objects with numbers of their own end, and have pixels amid their like.
    steep = (mask > 0.1 * top) & (mask < 0.9 * top)
    rising = steep & (least < mask) & (mask < most)
    if np.count_nonzero(rising) < _RISING * np.count_nonzero(steep) or not (least > 0.9 * top).any():
        return None
    pieces, number = ndimage.label(mask > 0, np.ones((3,) * mask.ndim))
    solid = np.zeros(number + 1, np.bool_)
    solid[pieces[mask > 0.9 * top]] = True
    if np.count_nonzero(solid[pieces] & soft) < _AT_SOLID * np.count_nonzero(soft):
        return None
    foreground: NDArray[np.bool_] = mask.astype(np.int64) * 2 >= top
    return foreground


def _runs(labels: NDArray[Any]) -> _Runs:
    flat = np.ascontiguousarray(labels).reshape(-1, labels.shape[-1])
    begins = np.ones(flat.shape, np.bool_)
    begins[:, 1:] = flat[:, 1:] != flat[:, :-1]
    where = np.flatnonzero(begins)
    lengths = np.diff(where, append=flat.size)
    values = flat.reshape(-1)[where]
    inside = values > 0
    rows, begin = np.divmod(where[inside], max(1, flat.shape[1]))
    return _Runs(values[inside].astype(np.int64), rows, begin, begin + lengths[inside])


def _numbers(runs: _Runs, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the number of its piece for each run, from 1."""
    parents = np.arange(len(runs.values))
    one, other = _touching(runs, shape)
    while one.size:
        # The higher of two roots hangs below the lower one until every pair has one root.
        low, high = np.minimum(parents[one], parents[other]), np.maximum(parents[one], parents[other])
        apart = low != high
        one, other, low, high = one[apart], other[apart], low[apart], high[apart]
        np.minimum.at(parents, high, low)
        while not np.array_equal(further := parents[parents], parents):
            parents = further
    return np.unique(parents, return_inverse=True)[1].reshape(-1).astype(np.int64) + 1


def _touching(runs: _Runs, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return all pairs of runs with the same label in different rows that touch at an edge or a corner."""
    width = shape[-1] + 2  # no run reaches into the next row
    begins, ends = runs.rows * width + runs.begin, runs.rows * width + runs.end
    places = np.unravel_index(runs.rows, shape[:-1]) if runs.rows.size else ()
    pairs: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for step in product((-1, 0, 1), repeat=len(shape) - 1):
        if step >= (0,) * len(step):
            continue  # seen from the other side
        there = np.ones(runs.rows.shape, np.bool_)
        for place, move, length in zip(places, step, shape[:-1], strict=False):
            there &= (place + move >= 0) & (place + move < length)
        own = np.flatnonzero(there)
        row = runs.rows[own] + int(np.dot(step, [int(np.prod(shape[axis + 1 : -1])) for axis in range(len(step))]))
        first = np.searchsorted(ends, row * width + runs.begin[own], "left")
        counts = np.maximum(0, np.searchsorted(begins, row * width + runs.end[own], "right") - first)
        one = np.repeat(own, counts)
        other = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
        same = runs.values[one] == runs.values[other]
        pairs.append((one[same], other[same]))
    if not pairs:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    found, others = (np.concatenate(each) for each in zip(*pairs, strict=True))
    return found, others
