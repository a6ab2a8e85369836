"""The verdict on detections, with reasons and remarks in plain sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from parfocal.qc.detection.metrics import BY_KEY
from parfocal.qc.detection.parameters import DetectionThresholds
from parfocal.qc.detection.scoring import Totals
from parfocal.qc.evaluation.verdict import Judgement, few_images, judge_f1, listed, with_unscorable
from parfocal.qc.evaluation.words import count
from parfocal.qc.metrics.objects.detections import AP_LEVELS
from parfocal.runtime.store.evaluations import ImageScore, Kind

DEFINITION: Final = (
    "Boxes are matched class by class as in PASCAL VOC: in order of confidence each detection is compared with the "
    "annotated box it overlaps most, and is a true positive (TP) if the intersection over union (IoU) reaches the "
    "level and no earlier detection has found that box; other detections are false positives (FP), other annotated "
    "boxes false negatives (FN). Objects marked as difficult are ignored. Precision = TP / (TP + FP); recall = TP / "
    "(TP + FN); F1 = 2 TP / (2 TP + FP + FN); ratios are 1 where there is nothing to find and nothing was found. "
    "Average precision (AP) is the area under the curve of precision over recall at all points, after precision was "
    "made to fall (PASCAL VOC 2010 and later); that of COCO lets a detection take the best box that is free, and "
    "averages precision at 101 recalls. mAP is the mean over the classes that are annotated, AP 0.5:0.95 the mean over "
    "IoU 0.5 to 0.95 in steps of 0.05."
)
"""Definitions of the numbers, to be printed beside them."""

FEW_BOXES: Final = 10
"""Smallest number of annotated boxes of a class with which its scores are reliable."""
IMBALANCE: Final = 10
"""A class with so many times fewer boxes than the most frequent one is called rare."""


def judge(
    scores: Mapping[Kind, Sequence[ImageScore]],
    totals: Totals,
    thresholds: DetectionThresholds,
    training: Mapping[str, int],
    unscorable: Mapping[str, str] | None = None,
) -> Judgement:
    """Pass or fail a model; see `DetectionThresholds`.

    Parameters
    ----------
    scores
        By kind: metrics of every image, in one order.
    totals
        All images together.
    training
        Number of boxes of each class in the images of the training; empty where it is not known.
    unscorable
        By further image: why its prediction cannot be scored.
    """
    lost = unscorable or {}
    images, pooled = scores["prediction"], totals.pooled()
    failures: list[str] = []
    if not pooled.tp + pooled.fn:
        failures.append("No test image has an annotated box: such a test proves nothing. Add images with objects.")
    empty = without_detections(images)
    if empty and len(empty) + len(lost) > thresholds.max_failed_images:
        failures.append(f"In {len(empty)} of {count(len(images), 'image')} nothing was detected: {listed(empty)}.")
    sentence = (
        f"Over all images together {pooled.tp} of {count(pooled.tp + pooled.fn, 'annotated object')} were found, with "
        f"{count(pooled.fp, 'false positive')}: F1 {pooled.f1:.3f} at IoU {thresholds.iou:g}"
    )
    against, merits = judge_f1(sentence, pooled.f1, scores, BY_KEY["f1"], thresholds)
    failures += against
    worst = min(images, key=rank_image)
    remarks = [
        *few_images(len(images)),
        f"The worst image is {worst.image}, with F1 {BY_KEY['f1'].number(worst.values['f1'])}.",
        *_of_precision(totals),
        *_of_classes(totals),
        *rare_classes(totals, training),
        *_of_confidence(totals, thresholds),
        *_of_places(totals),
        *_of_numbers(totals),
    ]
    judgement = Judgement("failed" if failures else "passed", tuple(failures or merits), tuple(remarks))
    return with_unscorable(judgement, lost, len(images) + len(lost), thresholds.max_failed_images)


def rank_image(image: ImageScore) -> tuple[float, ...]:
    """Return what orders images, the worst first: F1, then those with more objects."""
    return image.values["f1"], -image.values["target_objects"]


def without_detections(images: Iterable[ImageScore]) -> list[str]:
    """Return the images with annotated objects in which nothing was detected."""
    return [image.image for image in images if image.values["target_objects"] and not image.values["predicted_objects"]]


def rare_classes(totals: Totals, training: Mapping[str, int]) -> list[str]:
    """Name the classes with few boxes in the test images, and those that are rare in the training.

    Parameters
    ----------
    totals
        The annotated boxes of the test images.
    training
        Number of boxes of each class in the images of the training.
    """
    remarks = []
    annotated = totals.annotated.tolist()
    few = [f"{name} ({number})" for name, number in zip(totals.names, annotated, strict=True) if number < FEW_BOXES]
    if few and sum(annotated):
        remarks.append(
            f"Classes with fewer than {FEW_BOXES} boxes in the test images, whose scores are uncertain: {listed(few)}."
        )
    known = {name: number for name, number in training.items() if number}
    if known:
        most = max(sorted(known), key=known.__getitem__)
        rare = [
            f"{name} ({number})"
            for name, number in sorted(known.items(), key=lambda each: each[1])
            if number * IMBALANCE <= known[most]
        ]
        if rare:
            remarks.append(
                f"The training images are imbalanced: {most} has {known[most]} boxes, far more than {listed(rare)}. "
                "Models tend to overlook rare classes; annotate more of them."
            )
    return remarks


def best_confidence(totals: Totals) -> tuple[float, float] | None:
    """Return the confidence that would have given the highest F1 on the test images, and that F1; None without one."""
    ranking = totals.rankings[-1]
    confidence, found, false_positives = ranking.curve()
    if not confidence.size or not ranking.positives:
        return None
    f1 = 2 * found / (found + false_positives + ranking.positives)
    best = int(np.argmax(f1))
    return float(confidence[best]), float(f1[best])


def _of_precision(totals: Totals) -> list[str]:
    if not totals.annotated.any():
        return []
    levels = [f"{totals.mean_precision(level):.3f} at IoU {level:g}" for level in AP_LEVELS]
    classes = int(np.count_nonzero(totals.annotated))
    over = f", mean of {classes} classes" if classes > 1 else ""
    return [
        f"Average precision{over}: {', '.join(levels)}, {totals.mean_precision(None):.3f} over 0.5 to 0.95 (by the "
        f"rules of COCO {totals.mean_precision(None, rule='coco'):.3f})."
        f"{_baseline_precision(totals)}"
    ]


def _baseline_precision(totals: Totals) -> str:
    """Name the levels at which the baseline has the higher average precision."""
    ahead = [
        f"{theirs:.3f} at IoU {level:g}"
        for level in AP_LEVELS
        if round(theirs := totals.mean_precision(level, "baseline"), 3) > round(totals.mean_precision(level), 3)
    ]
    return f" Otsu's threshold has a higher one: {', '.join(ahead)}." if ahead else ""


def _of_classes(totals: Totals) -> list[str]:
    """Say which class is found worst, which is taken for which, and which the dataset does not know."""
    remarks, annotated = [], totals.annotated
    known = np.flatnonzero(annotated).tolist()
    counts = totals.counts["prediction"]
    if len(known) > 1:
        worst = min(known, key=lambda number: counts[number].f1)
        remarks.append(f"The class with the lowest F1 is {totals.names[worst]}, with F1 {counts[worst].f1:.3f}.")
    mistaken = totals.confusion[:-1, :-1].copy()
    np.fill_diagonal(mistaken, 0)
    if mistaken.any():
        mine, given = np.unravel_index(int(np.argmax(mistaken)), mistaken.shape)
        remarks.append(
            f"{count(int(mistaken.sum()), 'object')} got a wrong class, most often {totals.names[given]} instead of "
            f"{totals.names[mine]} ({mistaken[mine, given]})."
        )
    unknown = [
        f"{name} ({counts[number].fp})"
        for number, name in enumerate(totals.names)
        if not annotated[number] and counts[number].fp
    ]
    if unknown:
        remarks.append(f"Detections of classes that no test image has, all of them false positives: {listed(unknown)}.")
    return remarks


def _of_confidence(totals: Totals, thresholds: DetectionThresholds) -> list[str]:
    best = best_confidence(totals)
    f1 = totals.pooled().f1
    if best is None or best[1] <= f1 or best[0] <= thresholds.confidence:
        return []
    return [
        f"On the test images themselves a confidence of {best[0]:.2f} or more would have given the highest F1, "
        f"{best[1]:.3f}; it was not used."
    ]


def _of_places(totals: Totals) -> list[str]:
    if not totals.centres_px.size:
        return []
    text = f"{np.median(totals.centres_px):.2f} px"
    if totals.centres_um.size:
        text += f" ({np.median(totals.centres_um):.3f} µm)"
    return [f"The centres of found objects are {text} off, in the median."]


def _of_numbers(totals: Totals) -> list[str]:
    found = totals.agreement
    text = f"Counts differ from the annotated ones by {found.bias:+.1f} objects per image on average"
    if found.lower is None or found.upper is None:
        return [f"{text}."]
    return [f"{text}; the limits of agreement (Bland-Altman) are {found.lower:+.1f} and {found.upper:+.1f}."]
