"""How well boxes match those that people drew, and the average precision of a ranking, as PASCAL VOC defines both."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


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
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - common
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
        The least intersection over union of a match, 0 to 1.

    Returns
    -------
    NDArray[np.bool_]
        (N,), in the order of `boxes`.
    """
    return claim_by_score(box_overlaps(boxes, truth), scores, iou) >= 0


def claim_by_score(
    overlaps: NDArray[np.floating],
    scores: NDArray[np.floating],
    iou: float,
    difficult: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Return which annotated box each detection of one image and class claims, by the rule of `match_by_score`.

    Parameters
    ----------
    overlaps
        (N, M): intersection over union of each detection with each annotated box.
    scores
        (N,): higher is more certain.
    iou
        The least intersection over union of a match, 0 to 1.
    difficult
        (M,): annotated boxes that any number of detections may claim; none unless given.

    Returns
    -------
    NDArray[np.int64]
        (N,): index of the annotated box, -1 for false positives.
    """
    claims = np.full(overlaps.shape[0], -1, np.int64)
    if overlaps.size == 0:
        return claims
    claimed = np.zeros(overlaps.shape[1], np.bool_)
    for number in np.argsort(-np.asarray(scores, np.float64), kind="stable"):
        nearest = int(np.argmax(overlaps[number]))
        if overlaps[number, nearest] >= iou and not claimed[nearest]:
            claims[number] = nearest
            claimed[nearest] = difficult is None or not difficult[nearest]
    return claims


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
