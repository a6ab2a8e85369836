"""From the boxes of single images to numbers, and from those of all images to precisions, curves and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from parfocal.qc.evaluation.inputs import AnnotatedItem
from parfocal.qc.evaluation.rows import ScoreRow
from parfocal.qc.metrics.objects.agreement import Agreement, bland_altman
from parfocal.qc.metrics.objects.detections import (
    RULES,
    BoxMatches,
    BoxOutcomes,
    Ranking,
    Rule,
    average_precisions,
    rank,
)
from parfocal.qc.metrics.objects.instances import IOU_LEVELS, Counts
from parfocal.runtime.datasets.boxes import Boxes
from parfocal.runtime.methods.outputs import Detections
from parfocal.runtime.store.evaluations import Kind

KINDS: Final[tuple[Kind, ...]] = ("baseline", "prediction")


@dataclass(frozen=True)
class KindScore:
    """The boxes of one kind in one image.

    Attributes
    ----------
    found
        The detections.
    matches, outcome
        Matches with annotated boxes, and the outcome of each box.
    counts
        Counts of each class.
    """

    found: Detections
    matches: BoxMatches
    outcome: BoxOutcomes
    counts: Sequence[Counts]


@dataclass(frozen=True)
class ScoredBoxes:
    """One test image.

    Attributes
    ----------
    item, rows
        The image, and its lines in metrics.csv.
    truth
        The annotated boxes.
    kinds
        By kind: detections and their outcomes.
    confusion
        int64 (classes + 1, classes + 1): see `parfocal.qc.metrics.objects.detections.confusion`.
    offsets
        float64 (N, 2): by how many pixels the centres of found objects are off along Y and X.
    """

    item: AnnotatedItem
    rows: Sequence[ScoreRow]
    truth: Boxes
    kinds: Mapping[Kind, KindScore]
    confusion: NDArray[np.int64]
    offsets: NDArray[np.float64]


@dataclass(frozen=True)
class Totals:
    """Results of all images together.

    Attributes
    ----------
    names
        Names of the classes.
    levels
        Levels of IoU, rising.
    counts
        By kind: counts of each class, at the level and confidence of the verdict.
    by_level
        By kind: counts over all classes at each level, at the confidence of the verdict.
    precisions
        By kind, rule and level: average precision of each class (0 to 1), NaN for a class without annotations.
    rankings
        Ranked detections of the prediction, of each class and then of all, at the level of the verdict.
    confusion
        int64 (classes + 1, classes + 1).
    agreement
        Agreement of the numbers of objects (all classes), image by image.
    centres_px, centres_um
        float64 (N,): distances of the centres of found objects; those in micrometres are of images whose pixel size is
        known.
    """

    names: tuple[str, ...]
    levels: tuple[float, ...]
    counts: Mapping[Kind, Sequence[Counts]]
    by_level: Mapping[Kind, Sequence[Counts]]
    precisions: Mapping[Kind, Mapping[Rule, Mapping[float, NDArray[np.float64]]]]
    rankings: Sequence[Ranking]
    confusion: NDArray[np.int64]
    agreement: Agreement
    centres_px: NDArray[np.float64]
    centres_um: NDArray[np.float64]

    def pooled(self, kind: Kind = "prediction") -> Counts:
        """Return the counts of all classes together."""
        return sum(self.counts[kind], Counts())

    @property
    def annotated(self) -> NDArray[np.int64]:
        """How many boxes of each class must be found, int64 (classes,)."""
        return np.array([each.tp + each.fn for each in self.counts["prediction"]], np.int64)

    def class_precision(self, number: int, level: float | None, kind: Kind = "prediction", rule: Rule = "voc") -> float:
        """Return the average precision of a class at a level, or its mean over 0.5 to 0.95 if the level is None."""
        levels = IOU_LEVELS if level is None else (level,)
        return float(np.mean([self.precisions[kind][rule][each][number] for each in levels]))

    def mean_precision(self, level: float | None, kind: Kind = "prediction", rule: Rule = "voc") -> float:
        """Return the mean over the classes that are annotated; NaN if none is."""
        values = [self.class_precision(number, level, kind, rule) for number in range(len(self.names))]
        known = [value for value in values if not math.isnan(value)]
        return float(np.mean(known)) if known else math.nan


def total(scored: Sequence[ScoredBoxes], names: Sequence[str], level: float, confidence: float) -> Totals:
    """Return what the boxes of all images say together; see `Totals`."""
    classes = len(names)
    matches = {kind: [each.kinds[kind].matches for each in scored] for kind in KINDS}
    numbers = [sum(each.kinds["prediction"].counts, Counts()) for each in scored]
    centres = [np.hypot(*each.offsets.T) for each in scored]
    in_um = [distances for each in scored if (distances := distances_um(each.item, each.offsets)) is not None]
    return Totals(
        names=tuple(names),
        levels=matches["prediction"][0].levels,
        counts={
            kind: [sum((each.kinds[kind].counts[number] for each in scored), Counts()) for number in range(classes)]
            for kind in KINDS
        },
        by_level={
            kind: [_counts_at(matches[kind], each, confidence) for each in matches[kind][0].levels] for kind in KINDS
        },
        precisions={kind: {rule: average_precisions(matches[kind], classes, rule) for rule in RULES} for kind in KINDS},
        rankings=[rank(matches["prediction"], level, number=number) for number in (*range(classes), None)],
        confusion=np.sum([each.confusion for each in scored], axis=0),
        agreement=bland_altman(
            np.array([each.tp + each.fp for each in numbers]), np.array([each.tp + each.fn for each in numbers])
        ),
        centres_px=np.concatenate(centres),
        centres_um=np.concatenate([np.zeros(0), *in_um]),
    )


def distances_um(item: AnnotatedItem, offsets: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return the lengths of offsets in micrometres; None where the pixel size is unknown."""
    x, y, _ = item.pixel_um
    if x is None or y is None:
        return None
    return np.hypot(offsets[:, 0] * y, offsets[:, 1] * x)


def image_values(
    item: AnnotatedItem, counts: Counts, wrong_class: int, offsets: NDArray[np.float64]
) -> dict[str, float]:
    """Return the numbers of one image by metric; no distance where nothing was found."""
    values: dict[str, float] = {
        "f1": counts.f1,
        "precision": counts.precision,
        "recall": counts.recall,
        "mean_matched_iou": counts.mean_matched_iou,
        "target_objects": counts.tp + counts.fn,
        "predicted_objects": counts.tp + counts.fp,
        "true_positives": counts.tp,
        "false_negatives": counts.fn,
        "false_positives": counts.fp,
        "wrong_class": wrong_class,
    }
    if len(offsets):
        values["centre_distance_px"] = float(np.hypot(*offsets.T).mean())
        if (in_um := distances_um(item, offsets)) is not None:
            values["centre_distance_um"] = float(in_um.mean())
    return values


def _counts_at(images: Sequence[BoxMatches], level: float, confidence: float) -> Counts:
    ranking = rank(images, level)
    counted = ranking.confidence >= float(np.float32(confidence))
    found = int(np.count_nonzero(ranking.matched & counted))
    return Counts(found, int(np.count_nonzero(counted)) - found, ranking.positives - found)
