"""Evaluation of found objects: fetch predictions and label images, match them, publish tables, pictures and verdict."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from parfocal import v1
from parfocal.qc.figures import save_png
from parfocal.qc.instance_figures import instance_figure, overlay_figure
from parfocal.qc.job import Inputs, Item, open_evaluation, publish_evaluation, seen_in_training, training_pairs
from parfocal.qc.metrics.instances import Counts, InstanceScore, OtsuBaseline, choose_otsu, score_instances
from parfocal.qc.metrics.parallel import map_bounded
from parfocal.qc.parameters import InstanceParameters, InstanceThresholds
from parfocal.qc.statistics import (
    CONFIDENCE,
    FEW_IMAGES,
    RESAMPLES,
    SEED,
    Comparison,
    ImageScore,
    compare,
    statistics,
)
from parfocal.qc.verdict import Verdict
from parfocal.runtime.images import read_image
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.publish import empty_folder

DEFINITION: Final = (
    "Objects are paired one to one; a pair counts as found (TP) if its intersection over union (IoU) reaches a level, "
    "other targets are missed (FN), other predictions invented (FP). F1 = 2 TP / (2 TP + FP + FN); accuracy = TP / (TP "
    "+ FP + FN), also averaged over IoU 0.5 to 0.95 in steps of 0.05; panoptic quality = sum of IoU / (TP + FP/2 + "
    "FN/2). Ratios are 1 where there is nothing to find and nothing was found. Volumes are scored as a whole."
)
"""How the numbers were made, to be printed beside them."""

COLUMNS: Final[dict[str, str]] = {
    "f1": "F1 [0..1]",
    "precision": "precision [0..1]",
    "recall": "recall [0..1]",
    "accuracy": "accuracy [0..1]",
    "mean_accuracy": "mean accuracy over IoU 0.5 to 0.95 [0..1]",
    "mean_matched_iou": "mean IoU of found objects [0..1]",
    "panoptic_quality": "panoptic quality [0..1]",
    "foreground_iou": "IoU of the foreground [0..1]",
    "objects": "objects in the target",
    "predicted": "objects predicted",
    "found": "found (TP)",
    "missed": "missed (FN)",
    "invented": "invented (FP)",
    "cut": "cut in pieces",
    "merged": "merged",
}
"""Name of each column of metrics.csv and its heading."""

_SHOWN: Final = {
    "f1": "F1",
    "precision": "Precision",
    "recall": "Recall",
    "mean_accuracy": "Mean accuracy",
    "panoptic_quality": "Panoptic quality",
}
_KINDS: Final = ("baseline", "prediction")
# Enough to choose one of six thresholds.
_BASELINE_IMAGES: Final = 50


@dataclass(frozen=True)
class _Scored:
    item: Item
    scores: Mapping[str, InstanceScore]


def evaluate(context: JobContext) -> None:
    """Score the objects of the job's prediction and publish the evaluation; add it to the model if one is named."""
    parameters = context.parameters
    assert isinstance(parameters, InstanceParameters)
    inputs = open_evaluation(context)
    if inputs is None:
        return
    context.report_progress(v1.Progress(stage="preparing"), message="preparing the baseline", at_once=True)
    role = inputs.roles[0]
    baseline = choose_otsu(islice(training_pairs(context, inputs, role, validation=False), _BASELINE_IMAGES))
    folder = empty_folder(context.scratch / "evaluation")
    scored = _score(context, inputs.items, baseline, parameters, folder)
    _publish(context, inputs, scored, baseline, parameters.thresholds(), folder)


def _score(
    context: JobContext, items: Sequence[Item], baseline: OtsuBaseline, parameters: InstanceParameters, folder: Path
) -> list[_Scored]:
    def score(item: Item) -> _Scored:
        source, target = read_image(item.source).pixels, read_image(item.target).pixels
        images = {"baseline": baseline.apply(source, target.ndim), "prediction": read_image(item.prediction).pixels}
        scores = {
            kind: score_instances(target, image, name=f"{item.label} ({kind})", levels=[parameters.iou])
            for kind, image in images.items()
        }
        return _Scored(item, scores)

    scored: list[_Scored] = []
    for number, each in enumerate(map_bounded(score, items), start=1):
        context.check_cancelled()
        scored.append(each)
        context.report_image(
            v1.ImageCompleted(name=each.item.label, metrics=_shown(each.scores["prediction"], parameters.iou)),
            v1.Progress(stage="scoring", step=number, steps=len(items), fraction=number / len(items)),
        )
        if parameters.maps:
            path = folder / "overlays" / f"{each.item.label}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            source, target, prediction = (
                read_image(image).pixels for image in (each.item.source, each.item.target, each.item.prediction)
            )
            matches = each.scores["prediction"].overlap.match(parameters.iou)
            save_png(
                overlay_figure(source, target, prediction, each.scores["prediction"], matches, name=each.item.label),
                path,
            )
    return scored


def _publish(
    context: JobContext,
    inputs: Inputs,
    scored: Sequence[_Scored],
    baseline: OtsuBaseline,
    thresholds: InstanceThresholds,
    folder: Path,
) -> None:
    level = thresholds.iou
    values = {kind: {each.item.label: image_values(each.scores[kind], level) for each in scored} for kind in _KINDS}
    pooled = {kind: pool(each.scores[kind] for each in scored) for kind in _KINDS}
    summary = summarise(values, pooled, baseline, thresholds)
    verdict = seen_in_training(judge(values, pooled["prediction"][level], thresholds), inputs)
    summary |= {"verdict": verdict.verdict, "reasons": list(verdict.reasons), "remarks": list(verdict.remarks)}
    write_metrics_csv(folder / "metrics.csv", values)
    write_levels_csv(folder / "levels.csv", pooled)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2), encoding="utf-8")
    # The worst image, so that nobody is shown a lucky one.
    worst = next(each for each in scored if each.item.label == summary["worst_image"]["image"])
    figure = instance_figure(
        *(read_image(path).pixels for path in (worst.item.source, worst.item.target, worst.item.prediction)),
        score=worst.scores["prediction"],
        matches=worst.scores["prediction"].overlap.match(level),
        level=level,
        pooled=pooled,
        name=worst.item.label,
        images=len(scored),
    )
    save_png(figure, folder / "figure.png")
    metrics = {
        f"{kind}_{name}": value
        for kind in _KINDS
        for name, value in {
            "f1": pooled[kind][level].f1,
            "mean_accuracy": statistics([row["mean_accuracy"] for row in values[kind].values()]).mean,
            "panoptic_quality": pooled[kind][level].panoptic_quality,
        }.items()
    }
    by_image = {each.item.label: _shown(each.scores["prediction"], level) for each in scored}
    publish_evaluation(context, inputs, folder, verdict, metrics, by_image)


def image_values(score: InstanceScore, level: float) -> dict[str, float]:
    """Return the numbers of one image under the names of `COLUMNS`."""
    counts = score.counts[level]
    return {
        "f1": counts.f1,
        "precision": counts.precision,
        "recall": counts.recall,
        "accuracy": counts.accuracy,
        "mean_accuracy": score.mean_accuracy,
        "mean_matched_iou": counts.mean_matched_iou,
        "panoptic_quality": counts.panoptic_quality,
        "foreground_iou": score.foreground_iou,
        "objects": counts.tp + counts.fn,
        "predicted": counts.tp + counts.fp,
        "found": counts.tp,
        "missed": counts.fn,
        "invented": counts.fp,
        "cut": len(score.split),
        "merged": len(score.merged),
    }


def pool(scores: Iterable[InstanceScore]) -> dict[float, Counts]:
    """Add up the objects of all images, by level."""
    total: dict[float, Counts] = {}
    for score in scores:
        for level, counts in score.counts.items():
            total[level] = total.get(level, Counts()) + counts
    return total


def judge(
    values: Mapping[str, Mapping[str, Mapping[str, float]]], pooled: Counts, thresholds: InstanceThresholds
) -> Verdict:
    """Pass or fail a model; see `InstanceThresholds`.

    Parameters
    ----------
    values
        By kind and image: `image_values`.
    pooled
        The prediction's counts over all images at the level of the thresholds.
    """
    failures: list[str] = []
    merits: list[str] = []
    images = values["prediction"]
    if not pooled.tp + pooled.fn:
        failures.append("No test image has an object to be found: such a test shows nothing. Add images with objects.")
    empty = [name for name, row in images.items() if row["objects"] and not row["predicted"]]
    if len(empty) > thresholds.max_failed_images:
        failures.append(f"In {len(empty)} of {len(images)} images no object was found: {', '.join(empty[:5])}.")
    sentence = (
        f"Over all images together {pooled.tp} of {pooled.tp + pooled.fn} objects were found, {pooled.fn} missed and "
        f"{pooled.fp} invented: F1 {pooled.f1:.3f} at IoU {thresholds.iou:g}"
    )
    if pooled.f1 < thresholds.min_f1:
        failures.append(f"{sentence}, below the {thresholds.min_f1:g} asked for.")
    else:
        merits.append(f"{sentence}.")
    comparison = _compared(values)
    low = comparison.difference.mean if comparison.difference.low is None else comparison.difference.low
    if low > thresholds.min_f1_gain_over_baseline:
        merits.append(f"The prediction is better than Otsu's threshold {_amount(comparison)}.")
    elif comparison.outcome == "worse":
        failures.append(f"The prediction is worse than Otsu's threshold {_amount(comparison)}.")
    else:
        failures.append(f"The prediction is not shown to be better than Otsu's threshold {_amount(comparison)}.")
    remarks = []
    if len(images) < FEW_IMAGES:
        remarks.append(
            f"Only {len(images)} test image{'' if len(images) == 1 else 's'}: no interval can be given, and the "
            f"verdict rests on the mean alone. Use at least {FEW_IMAGES} images, better ten."
        )
    worst = _worst(images)
    remarks.append(f"The worst image is {worst}, with F1 {images[worst]['f1']:.3f}.")
    cut, merged = (int(sum(row[name] for row in images.values())) for name in ("cut", "merged"))
    if cut or merged:
        remarks.append(f"{cut} objects were cut in pieces, and {merged} predictions merge several objects.")
    if failures:
        return Verdict("failed", tuple(failures), tuple(remarks))
    return Verdict("passed", tuple(merits), tuple(remarks))


def summarise(
    values: Mapping[str, Mapping[str, Mapping[str, float]]],
    pooled: Mapping[str, Mapping[float, Counts]],
    baseline: OtsuBaseline,
    thresholds: InstanceThresholds,
) -> dict[str, Any]:
    """Everything a reader of the verdict needs but the verdict itself, as plain JSON types."""
    images = values["prediction"]
    worst = _worst(images)
    counts = pooled["prediction"][thresholds.iou]
    return {
        "task": "instances",
        "definition": DEFINITION,
        "images": len(images),
        "metrics": {
            kind: {metric: asdict(statistics([row[metric] for row in by_image.values()])) for metric in COLUMNS}
            for kind, by_image in values.items()
        },
        "pooled": {
            kind: {f"{level:g}": _counts_json(counts) for level, counts in levels.items()}
            for kind, levels in pooled.items()
        },
        "comparisons": [asdict(_compared(values))],
        "worst_image": {"image": worst, **images[worst]},
        "failed_images": [name for name, row in images.items() if row["objects"] and not row["predicted"]],
        "units": COLUMNS,
        "shown": _SHOWN,
        "note": (
            f"At IoU {thresholds.iou:g}, as means over the images. Over all images together: {counts.tp} of "
            f"{counts.tp + counts.fn} objects found, {counts.fp} invented, F1 {counts.f1:.3f}. Otsu's threshold needs "
            "no training."
        ),
        "interval": {
            "method": "percentile bootstrap of the mean over images",
            "confidence": CONFIDENCE,
            "resamples": RESAMPLES,
            "seed": SEED,
        },
        "thresholds": thresholds.model_dump(),
        "baseline": baseline.describe(),
    }


def write_metrics_csv(path: Path, values: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Write one line for each image and kind."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "slice", "kind", *COLUMNS.values()])
        for image in values["prediction"]:
            for kind in _KINDS:
                row = values[kind][image]
                writer.writerow([image, "", kind, *(row[name] for name in COLUMNS)])


def write_levels_csv(path: Path, pooled: Mapping[str, Mapping[float, Counts]]) -> None:
    """Write one line for each kind and IoU level, over the objects of all images together."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["kind", "iou", *_counts_json(Counts())])
        writer.writeheader()
        for kind, levels in pooled.items():
            for level, counts in sorted(levels.items()):
                writer.writerow({"kind": kind, "iou": level, **_counts_json(counts)})


def _counts_json(counts: Counts) -> dict[str, float]:
    return {
        "found": counts.tp,
        "invented": counts.fp,
        "missed": counts.fn,
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": counts.f1,
        "accuracy": counts.accuracy,
        "mean_matched_iou": counts.mean_matched_iou,
        "panoptic_quality": counts.panoptic_quality,
    }


def _shown(score: InstanceScore, level: float) -> dict[str, float]:
    row = image_values(score, level)
    return {name: float(row[name]) for name in _SHOWN}


def _worst(images: Mapping[str, Mapping[str, float]]) -> str:
    """Return the image with the lowest F1; of several the one with the most objects."""
    return min(images, key=lambda name: (images[name]["f1"], -images[name]["objects"]))


def _compared(values: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Comparison:
    prediction, baseline = (
        [ImageScore(name, row, 1, 0, ()) for name, row in sorted(values[kind].items())]
        for kind in ("prediction", "baseline")
    )
    return compare(prediction, baseline, "baseline", "f1")


def _amount(comparison: Comparison) -> str:
    difference = comparison.difference
    interval = ""
    if difference.low is not None and difference.high is not None:
        interval = f", {100 * CONFIDENCE:.0f} % interval {difference.low:+.3f} to {difference.high:+.3f}"
    count = f"{comparison.images} image{'' if comparison.images == 1 else 's'}"
    return f"in F1: {difference.mean:+.3f} on average{interval}; better in {comparison.wins} of {count}"
