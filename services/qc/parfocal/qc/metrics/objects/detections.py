"""Metrics of detection: boxes with a class and a confidence, matched with annotated boxes of the same class.

Two rules of matching are kept apart, because benchmarks use both:

- PASCAL VOC (Everingham et al., International Journal of Computer Vision 88, 303-338, 2010; as of 2010): detections
  choose in order of confidence. Each is compared with the annotated box it overlaps most; if an earlier detection has
  claimed that one, it is a false positive. The average precision is the area under the curve at all points.
- COCO (Lin et al., ECCV 2014, as in pycocotools): each detection takes the free box it overlaps most. The average
  precision is the mean of the precision at 101 recalls. Unlike there, all detections of an image count, not the first
  100 of each class: images of microscopes have more objects than photographs.

Objects marked as difficult need not be found: those that are not found do not count as false negatives, and what was
found of them is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from parfocal.qc.metrics.objects.instances import IOU_LEVELS, Counts
from parfocal.runtime.datasets.boxes import Boxes
from parfocal.runtime.methods.average_precision import (
    average_precision,
    claim_by_score,
    paired_overlaps,
    row_of,
    sparse_overlaps,
)
from parfocal.runtime.methods.outputs import Detections

Rule = Literal["voc", "coco"]

RULES: Final[tuple[Rule, ...]] = ("voc", "coco")
AP_LEVELS: Final = (0.3, 0.5, 0.75)
"""Levels of IoU whose average precision is given; besides, the mean over `IOU_LEVELS` is."""

_FALSE: Final = -1
_LEFT_OUT: Final = -2
_RECALLS: Final = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class BoxMatches:
    """The detections of one image, and which annotated box each of them found.

    Attributes
    ----------
    levels
        Levels of IoU, rising.
    classes
        int64 (N,): index of the class of each detection.
    confidence
        float64 (N,), 0 to 1.
    claims
        By rule: int64 (levels, N), index of the annotated box that each detection found; -1 for false positives, -2 for
        detections of difficult objects, which are left out.
    positives
        int64 (classes,): annotated boxes of each class that are not difficult.
    """

    levels: tuple[float, ...]
    classes: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    claims: dict[Rule, npt.NDArray[np.int64]]
    positives: npt.NDArray[np.int64]

    def claims_at(self, level: float, rule: Rule = "voc") -> npt.NDArray[np.int64]:
        """Return the claims at one of the levels, int64 (N,)."""
        claims: npt.NDArray[np.int64] = self.claims[rule][self.levels.index(level)]
        return claims


@dataclass(frozen=True)
class Ranking:
    """The detections of one class, or of all classes, in several images.

    Attributes
    ----------
    confidence
        float64 (N,), image after image.
    matched
        bool (N,): whether each is a true positive.
    positives
        Number of annotated boxes.
    """

    confidence: npt.NDArray[np.float64]
    matched: npt.NDArray[np.bool_]
    positives: int

    def average_precision(self, rule: Rule) -> float:
        """Return the average precision by a rule, 0 to 1; NaN where nothing is annotated."""
        by_rule = average_precision if rule == "voc" else coco_average_precision
        return by_rule(self.confidence, self.matched, self.positives)

    def curve(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return each distinct confidence, falling, and how many true and false positives have it or a higher one."""
        order = np.argsort(-self.confidence, kind="stable")
        ranked = self.confidence[order]
        last = np.append(ranked[1:] != ranked[:-1], True) if ranked.size else np.zeros(0, np.bool_)
        found = np.cumsum(self.matched[order])[last]
        return ranked[last], found, np.flatnonzero(last) + 1 - found


@dataclass(frozen=True)
class BoxOutcomes:
    """Outcomes of the boxes of one image at a level and above a confidence; each box is named once.

    Attributes
    ----------
    true_positives
        int64 (N, 2): annotated boxes and the detections of their class that found them.
    matched_iou
        float64 (N,): their IoU.
    wrong_class
        int64 (N, 2): annotated boxes that were found only by a detection of another class, and that detection. They
        count as false negatives of the one class and as false positives of the other.
    wrong_iou
        float64 (N,): their IoU.
    false_negatives
        int64 (N,): annotated boxes that were not found at all.
    false_positives
        int64 (N,): detections that found nothing.
    """

    true_positives: npt.NDArray[np.int64]
    matched_iou: npt.NDArray[np.float64]
    wrong_class: npt.NDArray[np.int64]
    wrong_iou: npt.NDArray[np.float64]
    false_negatives: npt.NDArray[np.int64]
    false_positives: npt.NDArray[np.int64]

    @property
    def counts(self) -> Counts:
        """True positives, false positives and false negatives, without the IoU of the pairs."""
        wrong = len(self.wrong_class)
        return Counts(len(self.true_positives), len(self.false_positives) + wrong, len(self.false_negatives) + wrong)


def levels_with(level: float) -> tuple[float, ...]:
    """Return all levels of IoU that are scored where a level counts as found, rising."""
    return tuple(sorted({*AP_LEVELS, *IOU_LEVELS, level}))


def match_boxes(truth: Boxes, found: Detections, classes: int, levels: Sequence[float]) -> BoxMatches:
    """Match the detections of one image with its annotated boxes, class by class, by both rules.

    Parameters
    ----------
    truth, found
        Boxes of one image; their classes are indices below `classes`.
    classes
        Number of classes.
    levels
        Levels of IoU.
    """
    claims: dict[Rule, npt.NDArray[np.int64]] = {
        rule: np.full((len(levels), len(found.classes)), _FALSE, np.int64) for rule in RULES
    }
    for number in np.intersect1d(found.classes, truth.classes):
        detections, targets = np.flatnonzero(found.classes == number), np.flatnonzero(truth.classes == number)
        part = sparse_overlaps(found.corners[detections], truth.corners[targets])
        difficult = truth.difficult[targets]
        confidence = found.confidence[detections]
        for row, level in enumerate(levels):
            by_rule = {
                "voc": claim_by_score(part, confidence, level, difficult),
                "coco": _claim_best_free(part, confidence, level, difficult),
            }
            for rule in RULES:
                mine = by_rule[rule]
                claims[rule][row, detections] = np.where(
                    mine < 0, _FALSE, np.where(difficult[mine], _LEFT_OUT, targets[mine])
                )
    return BoxMatches(
        levels=tuple(levels),
        classes=found.classes,
        confidence=found.confidence.astype(np.float64),
        claims=claims,
        positives=np.bincount(truth.classes[~truth.difficult], minlength=classes).astype(np.int64),
    )


def rank(images: Sequence[BoxMatches], level: float, rule: Rule = "voc", number: int | None = None) -> Ranking:
    """Return the detections of a class, or of all of them, in all images, without those of difficult objects."""
    confidence, matched, positives = [np.zeros(0)], [np.zeros(0, np.bool_)], 0
    for image in images:
        claims = image.claims_at(level, rule)
        kept = claims != _LEFT_OUT
        if number is not None:
            kept &= image.classes == number
        confidence.append(image.confidence[kept])
        matched.append(claims[kept] >= 0)
        positives += int(image.positives.sum() if number is None else image.positives[number])
    return Ranking(np.concatenate(confidence), np.concatenate(matched), positives)


def average_precisions(images: Sequence[BoxMatches], classes: int, rule: Rule) -> dict[float, npt.NDArray[np.float64]]:
    """Return the average precision of each class at each level; NaN where nothing of a class is annotated."""
    return {
        level: np.array([rank(images, level, rule, number).average_precision(rule) for number in range(classes)])
        for level in images[0].levels
    }


def coco_average_precision(scores: npt.NDArray[np.floating], matched: npt.NDArray[np.bool_], positives: int) -> float:
    """Return the mean of the interpolated precision at the recalls 0, 0.01 … 1, as pycocotools computes it.

    Parameters
    ----------
    scores
        (N,): of the detections of one class in all images; equal scores keep their order.
    matched
        (N,): whether each is a true positive.
    positives
        Number of annotated boxes of the class.

    Returns
    -------
    float
        0 to 1; NaN where nothing is annotated.
    """
    if positives == 0:
        return float("nan")
    if len(scores) == 0:
        return 0.0
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    found = np.cumsum(matched[order])
    precision = found / np.arange(1, len(found) + 1)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    # The first place at which each recall is reached; beyond the last one precision is 0.
    places = np.searchsorted(found / positives, _RECALLS, side="left")
    return float(envelope[places].mean())


def outcomes(truth: Boxes, found: Detections, matches: BoxMatches, level: float, confidence: float) -> BoxOutcomes:
    """Return what became of each box by the rule of PASCAL VOC, counting detections of a confidence or a higher one.

    Detections without a partner of their class take the free box of another class that they overlap most, in order of
    confidence, if the IoU reaches the level.
    """
    claims = matches.claims_at(level)
    overlaps = sparse_overlaps(found.corners, truth.corners)
    # Confidences were single precision, in which 0.7 is a little less.
    counted = matches.confidence >= float(np.float32(confidence))
    right = np.flatnonzero(counted & (claims >= 0))
    free = ~truth.difficult
    free[claims[right]] = False
    left = np.flatnonzero(counted & (claims == _FALSE))
    left = left[np.argsort(-matches.confidence[left], kind="stable")]
    wrong: list[tuple[int, int]] = []
    false_positives: list[int] = []
    for number in left.tolist():
        columns, values = row_of(overlaps, number)
        others = free[columns] & (truth.classes[columns] != matches.classes[number]) & (values >= level)
        if others.any():
            nearest = int(columns[others][np.argmax(values[others])])
            free[nearest] = False
            wrong.append((nearest, number))
        else:
            false_positives.append(number)
    mistaken = np.array(wrong, np.int64).reshape(-1, 2)
    return BoxOutcomes(
        true_positives=np.column_stack([claims[right], right]),
        matched_iou=paired_overlaps(found.corners[right], truth.corners[claims[right]]),
        wrong_class=mistaken,
        wrong_iou=paired_overlaps(found.corners[mistaken[:, 1]], truth.corners[mistaken[:, 0]]),
        false_negatives=np.flatnonzero(free),
        false_positives=np.array(sorted(false_positives), np.int64),
    )


def class_counts(truth: Boxes, matches: BoxMatches, outcome: BoxOutcomes, classes: int) -> list[Counts]:
    """Return the counts of each class in one image, with the IoU of the pairs."""
    targets = outcome.true_positives[:, 0]
    found = np.bincount(truth.classes[targets], minlength=classes)
    shared = np.bincount(truth.classes[targets], outcome.matched_iou, minlength=classes)
    false_negatives = np.bincount(
        truth.classes[[*outcome.false_negatives, *outcome.wrong_class[:, 0]]], minlength=classes
    )
    false_positives = np.bincount(
        matches.classes[[*outcome.false_positives, *outcome.wrong_class[:, 1]]], minlength=classes
    )
    numbers = zip(found.tolist(), false_positives.tolist(), false_negatives.tolist(), shared.tolist(), strict=True)
    return [Counts(*each) for each in numbers]


def confusion(truth: Boxes, matches: BoxMatches, outcome: BoxOutcomes, classes: int) -> npt.NDArray[np.int64]:
    """Return the boxes of one image by the class they have and the class they were given.

    Returns
    -------
    NDArray[np.int64]
        (classes + 1, classes + 1): a row for each annotated class and one for detections that found nothing; a column
        for each class of detections and one for annotated boxes that were not found.
    """
    table = np.zeros((classes + 1, classes + 1), np.int64)
    for targets, detections in (outcome.true_positives.T, outcome.wrong_class.T):
        np.add.at(table, (truth.classes[targets], matches.classes[detections]), 1)
    np.add.at(table[:, classes], truth.classes[outcome.false_negatives], 1)
    np.add.at(table[classes], matches.classes[outcome.false_positives], 1)
    return table


def centre_offsets(truth: Boxes, found: Detections, outcome: BoxOutcomes) -> npt.NDArray[np.float64]:
    """Return how far the centres of detections lie from those of the boxes they found, float64 (N, 2): Y, X in px."""
    targets, detections = outcome.true_positives.T
    one, other = (
        (boxes[:, :2].astype(np.float64) + boxes[:, 2:]) / 2
        for boxes in (found.corners[detections], truth.corners[targets])
    )
    return np.asarray(one - other)


def _claim_best_free(
    overlaps: csr_array,
    scores: npt.NDArray[np.floating],
    iou: float,
    difficult: npt.NDArray[np.bool_],
) -> npt.NDArray[np.int64]:
    """Return which annotated box each detection claims by the rule of COCO, -1 for none; see `claim_by_score`."""
    claims = np.full(overlaps.shape[0], _FALSE, np.int64)
    free = ~difficult
    for number in np.argsort(-np.asarray(scores, np.float64), kind="stable"):
        columns, values = row_of(overlaps, number)
        enough = values >= min(iou, 1 - 1e-10)
        for candidates in (free, difficult):
            chosen = np.flatnonzero(enough & candidates[columns])
            if chosen.size:
                # Of equal ones the last, as there.
                best = chosen[len(chosen) - 1 - int(np.argmax(values[chosen][::-1]))]
                claims[number] = columns[best]
                free[columns[best]] = False
                break
    return claims
