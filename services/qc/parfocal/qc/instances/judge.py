"""From matched objects to numbers, pooled counts, and a verdict with reasons in plain sentences."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from parfocal.qc.evaluation.verdict import Judgement, few_images, judge_f1, listed, with_unscorable
from parfocal.qc.evaluation.words import count
from parfocal.qc.instances.metrics import BY_KEY
from parfocal.qc.instances.parameters import InstanceThresholds
from parfocal.qc.metrics.objects.boundaries import boundary_distances
from parfocal.qc.metrics.objects.instances import Counts, InstanceScore, Matches
from parfocal.runtime.images.files import PixelSize
from parfocal.runtime.store.evaluations import ImageScore, Kind

DEFINITION: Final = (
    "Objects are paired one to one. A pair is a true positive (TP) if its intersection over union (IoU) reaches the "
    "level; the other targets are false negatives (FN: objects that were not found), the other predictions false "
    "positives (FP: objects that are not there). F1 = 2 TP / (2 TP + FP + FN); accuracy = TP / (TP + FP + FN), also "
    "averaged over IoU 0.5 to 0.95 in steps of 0.05; panoptic quality = sum of IoU / (TP + FP/2 + FN/2). Ratios are 1 "
    "where there is nothing to find and nothing was found. The aggregated Jaccard index puts every target together "
    "with the prediction of the largest IoU. Distances of outlines are means over found objects, of the average "
    "symmetric distance and of the larger 95th percentile. Volumes are scored as a whole."
)
"""Definitions of the numbers, to be printed beside them."""


def image_values(score: InstanceScore, level: float) -> dict[str, float]:
    """Return the numbers of one image by metric."""
    counts = score.counts[level]
    return {
        "f1": counts.f1,
        "precision": counts.precision,
        "recall": counts.recall,
        "accuracy": counts.accuracy,
        "mean_accuracy": score.mean_accuracy,
        "mean_matched_iou": counts.mean_matched_iou,
        "panoptic_quality": counts.panoptic_quality,
        "aggregated_jaccard": score.overlap.aggregated_jaccard(),
        "foreground_iou": score.foreground_iou,
        "target_objects": counts.tp + counts.fn,
        "predicted_objects": counts.tp + counts.fp,
        "true_positives": counts.tp,
        "false_negatives": counts.fn,
        "false_positives": counts.fp,
        "split": len(score.split),
        "merged": len(score.merged),
    }


def distance_values(
    target: NDArray[Any], prediction: NDArray[Any], matches: Matches, pixel_size: PixelSize | None
) -> dict[str, float]:
    """Return the distances of outlines, averaged over the pairs; in micrometres where the pixel size is known.

    In pixels every axis counts alike, whatever the distance between planes.
    """
    if not matches.pairs:
        return {}
    in_pixels = _mean_distances(target, prediction, matches, None)
    values = {f"{name}_px": value for name, value in in_pixels.items()}
    lengths = None if pixel_size is None else pixel_size.lengths(target.ndim)
    if lengths is not None:
        if len(set(lengths)) == 1:
            in_um = {name: value * lengths[0] for name, value in in_pixels.items()}
        else:  # other points are nearest where pixels are not as high as wide
            in_um = _mean_distances(target, prediction, matches, lengths)
        values |= {f"{name}_um": value for name, value in in_um.items()}
    return values


def _mean_distances(
    target: NDArray[Any], prediction: NDArray[Any], matches: Matches, lengths: tuple[float, ...] | None
) -> dict[str, float]:
    distances = boundary_distances(target, prediction, matches, lengths)
    return {"boundary_distance": float(distances.mean.mean()), "hausdorff_95": float(distances.hausdorff_95.mean())}


def pool(scores: Iterable[InstanceScore]) -> dict[float, Counts]:
    """Add up the objects of all images, by level."""
    total: dict[float, Counts] = {}
    for score in scores:
        for level, counts in score.counts.items():
            total[level] = total.get(level, Counts()) + counts
    return total


def rank(image: ImageScore) -> tuple[float, ...]:
    """Return what orders images, the worst first: the F1; of several the one with the most objects."""
    return image.values["f1"], -image.values["target_objects"]


def without_objects(images: Iterable[ImageScore]) -> list[str]:
    """Return the images with objects in which none was predicted."""
    return [image.image for image in images if image.values["target_objects"] and not image.values["predicted_objects"]]


def judge(
    scores: Mapping[Kind, Sequence[ImageScore]],
    pooled: Counts,
    thresholds: InstanceThresholds,
    unscorable: Mapping[str, str] | None = None,
) -> Judgement:
    """Pass or fail a model; see `InstanceThresholds`.

    Parameters
    ----------
    scores
        By kind: `image_values` of every image, in one order.
    pooled
        The prediction's counts over all images at the level of the thresholds.
    unscorable
        By further image: why its prediction cannot be scored.
    """
    lost = unscorable or {}
    failures: list[str] = []
    images = scores["prediction"]
    if not pooled.tp + pooled.fn:
        failures.append("No test image has an object to be found: such a test proves nothing. Add images with objects.")
    empty = without_objects(images)
    if empty and len(empty) + len(lost) > thresholds.max_failed_images:
        failures.append(f"In {len(empty)} of {count(len(images), 'image')} no object was found: {listed(empty)}.")
    sentence = (
        f"Over all images together {pooled.tp} of {pooled.tp + pooled.fn} objects were found, with "
        f"{count(pooled.fp, 'false positive')}: F1 {pooled.f1:.3f} at IoU {thresholds.iou:g}"
    )
    against, merits = judge_f1(sentence, pooled.f1, scores, BY_KEY["f1"], thresholds)
    failures += against
    remarks = few_images(len(images))
    worst = min(images, key=rank)
    remarks.append(f"The worst image is {worst.image}, with F1 {BY_KEY['f1'].number(worst.values['f1'])}.")
    split, merged = (int(sum(image.values[name] for image in images)) for name in ("split", "merged"))
    if split or merged:
        remarks.append(f"Split objects: {split}. Predictions that merge several objects: {merged}.")
    judgement = Judgement("failed" if failures else "passed", tuple(failures or merits), tuple(remarks))
    return with_unscorable(judgement, lost, len(images) + len(lost), thresholds.max_failed_images)


def level_remarks(pooled: Mapping[str, Mapping[float, Counts]], level: float) -> list[str]:
    """Return a remark on the IoU levels other than `level` at which Otsu's threshold has the higher F1.

    Parameters
    ----------
    pooled
        By kind and IoU level: counts over the objects of all images.
    level
        IoU level of the verdict and its reasons.
    """
    ours, theirs = pooled["prediction"], pooled["baseline"]
    ahead = [
        f"{each:g} ({theirs[each].f1:.3f} against {ours[each].f1:.3f})"
        for each in sorted(ours)
        if each != level and round(theirs[each].f1, 3) > round(ours[each].f1, 3)
    ]
    if not ahead:
        return []
    return [
        f"Otsu's threshold has the higher F1 at IoU {listed(ahead)}: its outlines fit better there. Look at them "
        "before you measure areas or shapes."
    ]


def write_levels_csv(path: Path, pooled: Mapping[str, Mapping[float, Counts]]) -> None:
    """Write one line for each kind and IoU level, over the objects of all images together."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["kind", "iou", *counts_json(Counts())])
        writer.writeheader()
        for kind, levels in pooled.items():
            for level, counts in sorted(levels.items()):
                writer.writerow({"kind": kind, "iou": level, **counts_json(counts)})


def counts_json(counts: Counts) -> dict[str, float]:
    """Return counts and ratios by metric."""
    return {
        "true_positives": counts.tp,
        "false_positives": counts.fp,
        "false_negatives": counts.fn,
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": counts.f1,
        "accuracy": counts.accuracy,
        "mean_matched_iou": counts.mean_matched_iou,
        "panoptic_quality": counts.panoptic_quality,
    }
