"""Evaluation of found objects: fetch predictions and label images, match them, publish tables, pictures and verdict."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parfocal import v1
from parfocal.qc.evaluation.inputs import Inputs, Item, read_inputs, read_label_target, training_pairs
from parfocal.qc.evaluation.publish import evaluation_published_before, publish_evaluation
from parfocal.qc.evaluation.score_each import of_prediction, score_each
from parfocal.qc.evaluation.statistics import INTERVAL, statistics
from parfocal.qc.evaluation.values import (
    Table,
    Values,
    compare_with_baseline,
    summarise_values,
    write_values_csv,
)
from parfocal.qc.evaluation.verdict import Verdict, few_images, judge_gain, with_test, with_unscorable
from parfocal.qc.instances.class_figure import class_figure
from parfocal.qc.instances.classes import (
    CLASS_COLUMNS,
    ObjectClasses,
    class_remarks,
    class_values,
    pool_classes,
    predicted_class_images,
    score_classes,
    summarise_classes,
    with_class_images,
    write_class_tables,
)
from parfocal.qc.instances.figure import instance_figure, overlay_figure
from parfocal.qc.instances.parameters import InstanceParameters, InstanceThresholds
from parfocal.qc.instances.sizes import size_classes, target_outcomes, write_sizes_csv
from parfocal.qc.metrics.baselines.otsu import OtsuBaseline, choose_otsu
from parfocal.qc.metrics.objects.boundaries import boundary_distances
from parfocal.qc.metrics.objects.classes import ClassCounts
from parfocal.qc.metrics.objects.instances import Counts, InstanceScore, Matches, f1_parts, score_instances
from parfocal.qc.metrics.objects.outcomes import error_map, outcome_layers
from parfocal.qc.metrics.parallel import workers_for
from parfocal.qc.restoration.figure import save_png
from parfocal.runtime.images.files import Image, PixelSize, read_image, write_image
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.store.publish import empty_folder

DEFINITION: Final = (
    "Objects are paired one to one; a pair counts as found (TP) if its intersection over union (IoU) reaches a level, "
    "other targets are missed (FN), other predictions invented (FP). F1 = 2 TP / (2 TP + FP + FN); accuracy = TP / (TP "
    "+ FP + FN), also averaged over IoU 0.5 to 0.95 in steps of 0.05; panoptic quality = sum of IoU / (TP + FP/2 + "
    "FN/2). Ratios are 1 where there is nothing to find and nothing was found. The aggregated Jaccard index puts every "
    "target together with the prediction of the largest IoU. Distances of outlines are means over found objects, of "
    "the average symmetric distance and of the larger 95th percentile. Volumes are scored as a whole."
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
    "aggregated_jaccard": "aggregated Jaccard index [0..1]",
    "foreground_iou": "IoU of the foreground [0..1]",
    "boundary_px": "mean distance of outlines [pixels]",
    "hausdorff_95_px": "95th percentile distance of outlines [pixels]",
    "boundary_um": "mean distance of outlines [µm]",
    "hausdorff_95_um": "95th percentile distance of outlines [µm]",
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
# What people count, image by image.
_COUNTED: Final = ("found", "missed", "invented")
_KINDS: Final = ("baseline", "prediction")
# Enough to choose one of six thresholds.
_BASELINE_IMAGES: Final = 50


@dataclass(frozen=True)
class _Scored:
    """One test image, by kind: what is kept of it once its pixels are gone.

    `classes` are those of its objects, None where they are not known or not predicted.
    """

    item: Item
    scores: Mapping[str, InstanceScore]
    matches: Mapping[str, Matches]
    values: Mapping[str, Values]
    sizes: NDArray[np.float64]
    classes: ObjectClasses | None


def evaluate(context: JobContext) -> None:
    """Score the objects of the job's prediction and publish the evaluation; add it to the model if one is named."""
    parameters = context.parameters
    assert isinstance(parameters, InstanceParameters)
    if evaluation_published_before(context):
        return
    inputs = read_inputs(context, first_target_only=True)
    inputs = with_class_images(context, inputs)
    context.report_progress(v1.Progress(stage="preparing"), message="preparing the baseline", at_once=True)
    role = inputs.roles[0]
    pairs = training_pairs(context, inputs, role, validation=False)
    baseline = choose_otsu(islice(pairs, _BASELINE_IMAGES), f1_parts)
    folder = empty_folder(context.scratch / "evaluation")
    scored, unscorable = _score(context, inputs.items, baseline, parameters, folder)
    _publish(context, inputs, scored, unscorable, baseline, parameters.thresholds(), folder)


def _score(
    context: JobContext, items: Sequence[Item], baseline: OtsuBaseline, parameters: InstanceParameters, folder: Path
) -> tuple[list[_Scored], dict[str, str]]:
    """Return the scores, and by label why the predictions of the other images cannot be scored."""

    def score(item: Item) -> _Scored:
        source, labelled = read_image(item.source).pixels, read_label_target(item)
        target = labelled.pixels
        compare = partial(score_instances, target, name=item.label, levels=[parameters.iou])
        # The baseline first: what is wrong with the target shows there.
        images = {"baseline": baseline.apply(source, target.ndim)}
        scores = {"baseline": compare(images["baseline"])}
        with of_prediction(item.label):
            images["prediction"] = read_image(item.prediction).pixels
            scores["prediction"] = compare(images["prediction"])
        matches = {kind: score.overlap.match(parameters.iou) for kind, score in scores.items()}
        values = {
            kind: image_values(score, parameters.iou)
            | distance_values(target, images[kind], matches[kind], labelled.pixel_size)
            for kind, score in scores.items()
        }
        classes = score_classes(item, target, images["prediction"], matches["prediction"])
        if classes is not None:
            values["prediction"] |= class_values(classes.counts)
        sizes = target_outcomes(scores["prediction"].overlap, matches["prediction"])
        each = _Scored(item, scores, matches, values, sizes, classes)
        if parameters.maps:
            _draw(each, source, labelled, images["prediction"], folder)
        return each

    def shown(each: _Scored) -> dict[str, float]:
        return _shown(each.scores["prediction"], parameters.iou)

    unscorable: dict[str, str] = {}
    workers = workers_for(item.shape for item in items)
    each = score_each(context, items, score, shown=shown, unscorable=unscorable, workers=workers)
    return list(each), unscorable


def _draw(each: _Scored, source: NDArray[Any], labelled: Image, prediction: NDArray[Any], folder: Path) -> None:
    """Write error map and overlay of one image, in the thread that has its pixels: figures share no state."""
    score, matches, label = each.scores["prediction"], each.matches["prediction"], each.item.label
    target = labelled.pixels
    map_path, overlay_path = folder / "maps" / f"{label}.tif", folder / "overlays" / f"{label}.png"
    for path in (map_path, overlay_path):
        path.parent.mkdir(parents=True, exist_ok=True)
    mistakes = error_map(target, prediction, outcome_layers(score, matches))
    write_image(map_path, Image(mistakes, labelled.axes, labelled.pixel_size))
    figure = overlay_figure(source, target, prediction, score, matches, name=label, pixel_size=each.item.pixel_size)
    save_png(figure, overlay_path)


def _publish(
    context: JobContext,
    inputs: Inputs,
    scored: Sequence[_Scored],
    unscorable: Mapping[str, str],
    baseline: OtsuBaseline,
    thresholds: InstanceThresholds,
    folder: Path,
) -> None:
    level = thresholds.iou
    values = {kind: {each.item.label: each.values[kind] for each in scored} for kind in _KINDS}
    sizes = size_classes([each.sizes for each in scored])
    pooled = {kind: pool(each.scores[kind] for each in scored) for kind in _KINDS}
    summary = summarise(values, pooled, baseline, thresholds)
    classes = pool_classes(each.classes.counts for each in scored if each.classes is not None)
    verdict = judge(values, pooled["prediction"][level], thresholds, unscorable)
    with_classes = sum(each.classes is not None for each in scored)
    remarks = class_remarks(classes, with_classes, len(scored)) if predicted_class_images(inputs) else []
    verdict = replace(verdict, remarks=(*verdict.remarks, *remarks))
    verdict = with_test(verdict, inputs, thresholds.max_failed_images)
    summary |= {"verdict": verdict.verdict, "reasons": list(verdict.reasons), "remarks": list(verdict.remarks)}
    summary["unscorable"] = dict(unscorable)
    summary["sizes"] = [asdict(each) for each in sizes]
    write_sizes_csv(folder / "sizes.csv", sizes)
    columns = COLUMNS
    if classes is not None:
        columns = COLUMNS | CLASS_COLUMNS
        summary |= {"classes": summarise_classes(classes), "units": columns}
        write_class_tables(folder, classes)
        _draw_classes(scored, classes, folder)
    write_values_csv(folder / "metrics.csv", values, columns)
    write_levels_csv(folder / "levels.csv", pooled)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2), encoding="utf-8")
    # The worst image, so that nobody is shown a lucky one.
    worst = next(each for each in scored if each.item.label == summary["worst_image"]["image"])
    figure = instance_figure(
        *(read_image(path).pixels for path in (worst.item.source, worst.item.target, worst.item.prediction)),
        score=worst.scores["prediction"],
        matches=worst.matches["prediction"],
        level=level,
        pooled=pooled,
        name=worst.item.label,
        images=len(scored),
        pixel_size=worst.item.pixel_size,
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
    if classes is not None and classes.accuracy is not None:
        metrics["prediction_class_accuracy"] = classes.accuracy
    by_image = {each.item.label: _shown(each.scores["prediction"], level) for each in scored}
    publish_evaluation(context, inputs, folder, verdict, metrics, by_image, unscorable)


def _draw_classes(scored: Sequence[_Scored], pooled: ClassCounts, folder: Path) -> None:
    """Draw the image with the most objects of a wrong class; of several the one with the most of known class."""
    shown = [(each, each.classes) for each in scored if each.classes is not None]
    worst, classes = max(shown, key=lambda each: (each[1].counts.known - each[1].counts.right, each[1].counts.known))
    figure = class_figure(
        read_image(worst.item.source).pixels,
        read_image(worst.item.prediction).pixels,
        worst.matches["prediction"],
        classes,
        pooled,
        name=worst.item.label,
        images=len(shown),
        pixel_size=worst.item.pixel_size,
    )
    save_png(figure, folder / "classes.png")


def distance_values(
    target: NDArray[Any], prediction: NDArray[Any], matches: Matches, pixel_size: PixelSize | None
) -> dict[str, float]:
    """Return the distances of the columns, averaged over the pairs; in micrometres where the pixel size is known.

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
    return {"boundary": float(distances.mean.mean()), "hausdorff_95": float(distances.hausdorff_95.mean())}


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
        "aggregated_jaccard": score.overlap.aggregated_jaccard(),
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
    values: Table, pooled: Counts, thresholds: InstanceThresholds, unscorable: Mapping[str, str] | None = None
) -> Verdict:
    """Pass or fail a model; see `InstanceThresholds`.

    Parameters
    ----------
    values
        By kind and image: `image_values`.
    pooled
        The prediction's counts over all images at the level of the thresholds.
    unscorable
        By image that is not in the table: why its prediction cannot be scored.
    """
    lost = unscorable or {}
    failures: list[str] = []
    merits: list[str] = []
    images = values["prediction"]
    if not pooled.tp + pooled.fn:
        failures.append("No test image has an object to be found: such a test shows nothing. Add images with objects.")
    empty = [name for name, row in images.items() if row["objects"] and not row["predicted"]]
    if empty and len(empty) + len(lost) > thresholds.max_failed_images:
        failures.append(f"In {len(empty)} of {len(images)} images no object was found: {', '.join(empty[:5])}.")
    sentence = (
        f"Over all images together {pooled.tp} of {pooled.tp + pooled.fn} objects were found, {pooled.fn} missed and "
        f"{pooled.fp} invented: F1 {pooled.f1:.3f} at IoU {thresholds.iou:g}"
    )
    if pooled.f1 < thresholds.min_f1:
        failures.append(f"{sentence}, below the {thresholds.min_f1:g} asked for.")
    else:
        merits.append(f"{sentence}.")
    sentence, better = judge_gain(
        compare_with_baseline(values, "f1"), "F1", "Otsu's threshold", thresholds.min_f1_gain_over_baseline
    )
    (merits if better else failures).append(sentence)
    remarks = few_images(len(images))
    worst = _worst(images)
    remarks.append(f"The worst image is {worst}, with F1 {images[worst]['f1']:.3f}.")
    cut, merged = (int(sum(row[name] for row in images.values())) for name in ("cut", "merged"))
    if cut or merged:
        remarks.append(f"Objects cut in pieces: {cut}. Predictions that merge several objects: {merged}.")
    verdict = Verdict("failed" if failures else "passed", tuple(failures or merits), tuple(remarks))
    return with_unscorable(verdict, lost, len(images) + len(lost), thresholds.max_failed_images)


def summarise(
    values: Table,
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
        "metrics": summarise_values(values, COLUMNS),
        "pooled": {
            kind: {f"{level:g}": _counts_json(counts) for level, counts in levels.items()}
            for kind, levels in pooled.items()
        },
        "comparisons": [asdict(compare_with_baseline(values, "f1"))],
        "worst_image": {"image": worst, **images[worst]},
        "failed_images": [name for name, row in images.items() if row["objects"] and not row["predicted"]],
        "units": COLUMNS,
        "shown": _SHOWN,
        "counted": list(_COUNTED),
        "note": (
            f"At IoU {thresholds.iou:g}, as means over the images. Over all images together: {counts.tp} of "
            f"{counts.tp + counts.fn} objects found, {counts.fp} invented, F1 {counts.f1:.3f}. Otsu's threshold needs "
            "no training."
        ),
        "interval": INTERVAL,
        "thresholds": thresholds.model_dump(),
        "baseline": baseline.describe(),
    }


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
