"""How well boxes match those that people drew, and the average precision of a ranking, as PASCAL VOC defines both."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

_AT_ONCE: Final = 1024
"""Boxes of each set that are compared at a time."""
_NONE: Final = np.zeros(0, np.int64)


def box_overlaps(one: NDArray[np.floating], other: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the intersection over union of each box with each other box.

    Parameters
    ----------
    one, other
        (N, 4) and (M, 4): [y0, x0, y1, x1] in pixels, between pixels.

    Returns
    -------
    NDArray[np.float64]
        (N, M), from 0 to 1; 0 where both boxes lack area.
    """
    first, second = (np.asarray(boxes, np.float64).reshape(-1, 4) for boxes in (one, other))
    return _overlaps(first[:, None], second[None])


def paired_overlaps(one: NDArray[np.floating], other: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the intersection over union of each box with the other box at its place.

    Parameters
    ----------
    one, other
        (N, 4): [y0, x0, y1, x1] in pixels, between pixels.

    Returns
    -------
    NDArray[np.float64]
        (N,), from 0 to 1; 0 where both boxes lack area.
    """
    first, second = (np.asarray(boxes, np.float64).reshape(-1, 4) for boxes in (one, other))
    return _overlaps(first, second)


def sparse_overlaps(one: NDArray[np.floating], other: NDArray[np.floating]) -> csr_array:
    """Return `box_overlaps` without its zeros: its memory follows the number of boxes, not of pairs of them.

    Parameters
    ----------
    one, other
        (N, 4) and (M, 4): [y0, x0, y1, x1] in pixels, between pixels.

    Returns
    -------
    csr_array
        float64 (N, M), above 0 to 1; the columns of each row rise.
    """
    first, second = (np.asarray(boxes, np.float64).reshape(-1, 4) for boxes in (one, other))
    order, others = (np.argsort(boxes[:, 0], kind="stable") for boxes in (first, second))
    tops, bottoms = second[others, 0], second[others, 2]
    found: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []
    for start in range(0, len(order), _AT_ONCE):
        rows = order[start : start + _AT_ONCE]
        boxes = first[rows]
        # Only these reach into the rows of pixels in which the boxes lie.
        upto = int(np.searchsorted(tops, boxes[:, 2].max(), side="left"))
        near = others[:upto][bottoms[:upto] > boxes[:, 0].min()]
        for at in range(0, len(near), _AT_ONCE):
            columns = near[at : at + _AT_ONCE]
            overlaps = box_overlaps(boxes, second[columns])
            y, x = np.nonzero(overlaps)
            found.append((rows[y], columns[x], overlaps[y, x]))
    y, x, values = (np.concatenate(each) for each in zip(*found, strict=True)) if found else (_NONE, _NONE, np.zeros(0))
    table = csr_array((values, (y, x)), shape=(len(first), len(second)))
    table.sort_indices()
    return table


def _overlaps(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the intersection over union of boxes (…, 4) that are broadcast against each other."""
    common = np.prod(
        np.maximum(np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2]), 0), axis=-1
    )
    areas = [np.prod(np.maximum(boxes[..., 2:] - boxes[..., :2], 0), axis=-1) for boxes in (one, other)]
    union = areas[0] + areas[1] - common
    return np.asarray(np.divide(common, union, out=np.zeros_like(common), where=union > 0))


def match_by_score(
    boxes: NDArray[np.floating], scores: NDArray[np.floating], truth: NDArray[np.floating], iou: float
) -> NDArray[np.bool_]:
    """Return which detections of one image and class are true positives.

    The detections choose in order of their score, the highest first (of equal scores the earlier one). Each is
    compared with the annotated box that it overlaps most, and is a true positive if the overlap is sufficient and no
    earlier detection has claimed that box. This is the rule of PASCAL VOC (Everingham et al., International Journal
    of Computer Vision 88, 303-338, 2010), but all boxes count, those marked as difficult too.

    Parameters
    ----------
    boxes, truth
        Detected (N, 4) and annotated (M, 4) boxes: [y0, x0, y1, x1] in pixels.
    scores
        (N,): higher is more certain.
    iou
        The least intersection over union of a match, above 0 to 1.

    Returns
    -------
    NDArray[np.bool_]
        (N,), in the order of `boxes`.
    """
    return claim_by_score(sparse_overlaps(boxes, truth), scores, iou) >= 0


def claim_by_score(
    overlaps: csr_array,
    scores: NDArray[np.floating],
    iou: float,
    difficult: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Return which annotated box each detection of one image and class claims, by the rule of `match_by_score`.

    Parameters
    ----------
    overlaps
        (N, M): intersection over union of each detection with each annotated box; see `sparse_overlaps`.
    scores
        (N,): higher is more certain.
    iou
        The least intersection over union of a match, above 0 to 1.
    difficult
        (M,): annotated boxes that any number of detections may claim; none unless given.

    Returns
    -------
    NDArray[np.int64]
        (N,): index of the annotated box, -1 for false positives.
    """
    claims = np.full(overlaps.shape[0], -1, np.int64)
    claimed = np.zeros(overlaps.shape[1], np.bool_)
    for number in np.argsort(-np.asarray(scores, np.float64), kind="stable"):
        columns, values = row_of(overlaps, number)
        if not len(columns):
            continue
        best = int(np.argmax(values))
        nearest = int(columns[best])
        if values[best] >= iou and not claimed[nearest]:
            claims[number] = nearest
            claimed[nearest] = difficult is None or not difficult[nearest]
    return claims


def row_of(overlaps: csr_array, number: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return which columns a row has, rising, and their values."""
    part = slice(overlaps.indptr[number], overlaps.indptr[number + 1])
    return overlaps.indices[part], overlaps.data[part]


def average_precision(scores: NDArray[np.floating], matched: NDArray[np.bool_], positives: int) -> float:
    """Return the area under the curve of precision over recall, interpolated at all points as in PASCAL VOC 2010.

    The precision at a recall is the highest one at that recall or above. Detections of equal score enter together,
    so that the result does not depend on their order.

    Parameters
    ----------
    scores
        (N,): of the detections of one class in all images.
    matched
        (N,): whether each is a true positive.
    positives
        Number of annotated boxes of the class.

    Returns
    -------
    float
        0 to 1; NaN where nothing is annotated, because recall is undefined then.
    """
    if positives == 0:
        return float("nan")
    if len(scores) == 0:
        return 0.0
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    ranked = np.asarray(scores, np.float64)[order]
    found = np.cumsum(np.asarray(matched, np.bool_)[order])
    last = np.append(ranked[1:] != ranked[:-1], True)  # of each group of equal scores
    hits = found[last]
    precision = hits / (np.flatnonzero(last) + 1)
    recall = np.concatenate([[0.0], hits / positives])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * envelope))
