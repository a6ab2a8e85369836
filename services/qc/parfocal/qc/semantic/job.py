"""Evaluation of foreground masks: fetch predictions and targets, score them, publish tables, pictures and verdict."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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
from parfocal.qc.evaluation.values import Table, Values, compare_with_baseline, summarise_values, write_values_csv
from parfocal.qc.evaluation.verdict import Verdict, few_images, judge_gain, with_test, with_unscorable
from parfocal.qc.metrics.baselines.otsu import OtsuBaseline, choose_otsu
from parfocal.qc.metrics.objects.semantic import (
    CURVE_THRESHOLDS,
    Areas,
    Mask,
    areas,
    boundary_f,
    foreground,
    iou_parts,
    is_probability,
    threshold_counts,
)
from parfocal.qc.metrics.parallel import workers_for
from parfocal.qc.restoration.figure import save_png
from parfocal.qc.semantic.figure import ERROR_CODES, semantic_figure
from parfocal.qc.semantic.parameters import SemanticParameters
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import Image, read_image, write_image
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.store.publish import empty_folder

DEFINITION: Final = (
    "Pixels above 0 are foreground; TP, FP and FN are pixels found, invented and missed. IoU = TP / (TP + FP + FN); "
    "Dice = 2 TP / (2 TP + FP + FN); precision = TP / (TP + FP); recall = TP / (TP + FN). Boundary F is the F1 of "
    "outline pixels, of which those within the tolerance of the other outline agree. Ratios are 1 where there is no "
    "foreground and none was predicted. Probabilities are cut at a threshold that no test image had a part in."
)
"""How the numbers were made, to be printed beside them."""

COLUMNS: Final[dict[str, str]] = {
    "iou": "IoU [0..1]",
    "dice": "Dice [0..1]",
    "boundary_f": "boundary F [0..1]",
    "precision": "precision [0..1]",
    "recall": "recall [0..1]",
    "foreground": "foreground of the target [0..1]",
    "predicted": "predicted foreground [0..1]",
}
"""Name of each column of metrics.csv and its heading."""

_SHOWN: Final = {"iou": "IoU", "dice": "Dice", "boundary_f": "Boundary F", "precision": "Precision", "recall": "Recall"}
_KINDS: Final = ("baseline", "prediction")
# Enough to choose one of six thresholds.
_BASELINE_IMAGES: Final = 50
_HALF: Final = 0.5


@dataclass(frozen=True)
class Threshold:
    """Where probabilities are cut, and who said so."""

    value: float
    chosen_by: str


@dataclass(frozen=True)
class _Scored:
    item: Item
    values: Mapping[str, Values]
    areas: Mapping[str, Areas]
    curve: NDArray[np.int64] | None


def evaluate(context: JobContext) -> None:
    """Score the masks of the job's prediction and publish the evaluation; add it to the model if one is named."""
    parameters = context.parameters
    assert isinstance(parameters, SemanticParameters)
    if evaluation_published_before(context):
        return
    inputs = read_inputs(context, first_target_only=True)
    context.report_progress(v1.Progress(stage="preparing"), message="preparing the baseline", at_once=True)
    pairs = training_pairs(context, inputs, inputs.roles[0], validation=False)
    baseline = choose_otsu(islice(pairs, _BASELINE_IMAGES), iou_parts)
    threshold = choose_threshold(inputs, parameters)
    folder = empty_folder(context.scratch / "evaluation")
    scored, unscorable = _score(context, inputs.items, baseline, threshold, parameters, folder)
    _publish(context, inputs, scored, unscorable, baseline, threshold, parameters, folder)


def choose_threshold(inputs: Inputs, parameters: SemanticParameters) -> Threshold:
    """Return the threshold asked for, else the one the model set on its validation images, else one half."""
    if parameters.threshold is not None:
        return Threshold(parameters.threshold, "the parameter threshold")
    stored = inputs.model.calibration.get("threshold") if inputs.model is not None else None
    if stored is not None:
        return Threshold(float(stored), "the model, on its validation images")
    return Threshold(_HALF, "default, as the model stores none")


def _score(
    context: JobContext,
    items: Sequence[Item],
    baseline: OtsuBaseline,
    threshold: Threshold,
    parameters: SemanticParameters,
    folder: Path,
) -> tuple[list[_Scored], dict[str, str]]:
    """Return the scores, and by label why the predictions of the other images cannot be scored."""

    def score(item: Item) -> _Scored:
        source, labelled = read_image(item.source).pixels, read_label_target(item)
        target = foreground(labelled.pixels, name=f"{item.label} (target)")
        with of_prediction(item.label):
            mask, curve = _cut(item.label, target, read_image(item.prediction).pixels, threshold)
        masks = {"baseline": baseline.apply(source, target.ndim) > 0, "prediction": mask}
        counted = {kind: areas(target, masks[kind]) for kind in _KINDS}
        values = {
            kind: {
                "iou": counted[kind].iou,
                "dice": counted[kind].dice,
                "boundary_f": boundary_f(target, masks[kind], parameters.boundary_tolerance),
                "precision": counted[kind].precision,
                "recall": counted[kind].recall,
                "foreground": float(target.mean()),
                "predicted": float(masks[kind].mean()),
            }
            for kind in _KINDS
        }
        if parameters.maps:
            path = folder / "maps" / f"{item.label}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, Image(error_map(target, mask), labelled.axes, labelled.pixel_size))
        return _Scored(item, values, counted, curve)

    def shown(each: _Scored) -> dict[str, float]:
        return {name: each.values["prediction"][name] for name in ("iou", "dice")}

    unscorable: dict[str, str] = {}
    workers = workers_for(item.shape for item in items)
    each = score_each(context, items, score, shown=shown, unscorable=unscorable, workers=workers)
    return list(each), unscorable


def _cut(
    label: str, target: Mask, prediction: NDArray[Any], threshold: Threshold
) -> tuple[Mask, NDArray[np.int64] | None]:
    """Return the predicted mask and, of a probability, what other thresholds would have given."""
    name = f"{label} (prediction)"
    if prediction.shape != target.shape:
        raise InvalidInputError(
            f"{name} has shape {prediction.shape} and its target {target.shape}. Compare images of the same field and "
            "size."
        )
    if not is_probability(prediction, name=name):
        return foreground(prediction, name=name), None
    mask: Mask = prediction >= threshold.value
    return mask, threshold_counts(target, prediction)


def error_map(target: Mask, prediction: Mask) -> NDArray[np.uint8]:
    """Return an image of `ERROR_CODES`: foreground found, missed and invented."""
    result = np.zeros(target.shape, np.uint8)
    result[target & prediction] = ERROR_CODES["found"]
    result[target & ~prediction] = ERROR_CODES["missed"]
    result[~target & prediction] = ERROR_CODES["invented"]
    return result


def _publish(
    context: JobContext,
    inputs: Inputs,
    scored: Sequence[_Scored],
    unscorable: Mapping[str, str],
    baseline: OtsuBaseline,
    threshold: Threshold,
    parameters: SemanticParameters,
    folder: Path,
) -> None:
    table = {kind: {each.item.label: each.values[kind] for each in scored} for kind in _KINDS}
    pooled = {kind: sum((each.areas[kind] for each in scored), Areas()) for kind in _KINDS}
    curves = [each.curve for each in scored if each.curve is not None]
    curve = np.sum(curves, axis=0) if curves else None
    verdict = judge(table, pooled["prediction"], curve, threshold, parameters, unscorable)
    verdict = with_test(verdict, inputs, parameters.max_failed_images)
    worst = min(table["prediction"], key=lambda label: table["prediction"][label]["iou"])
    summary = {
        "task": "semantic",
        "definition": DEFINITION,
        "verdict": verdict.verdict,
        "reasons": list(verdict.reasons),
        "remarks": list(verdict.remarks),
        "images": len(scored),
        "metrics": summarise_values(table, COLUMNS),
        "pooled": {kind: {"iou": pooled[kind].iou, "dice": pooled[kind].dice} for kind in _KINDS},
        "comparisons": [asdict(compare_with_baseline(table, "iou"))],
        "worst_image": {"image": worst, **table["prediction"][worst]},
        "unscorable": dict(unscorable),
        "units": COLUMNS,
        "shown": _SHOWN,
        "note": _note(pooled["prediction"], threshold, parameters, probabilities=bool(curves)),
        "interval": INTERVAL,
        "thresholds": parameters.model_dump(),
        "threshold": asdict(threshold) if curves else None,
        "baseline": baseline.describe(),
    }
    write_values_csv(folder / "metrics.csv", table, COLUMNS)
    if curve is not None:
        _write_curve(folder / "curve.csv", curve)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2), encoding="utf-8")
    _draw(next(each for each in scored if each.item.label == worst), curve, threshold, len(scored), folder)
    metrics = {
        f"{kind}_{name}": statistics([row[name] for row in table[kind].values()]).mean
        for kind in _KINDS
        for name in ("iou", "dice", "boundary_f")
    }
    by_image = {
        label: {name: values[name] for name in ("iou", "dice")} for label, values in table["prediction"].items()
    }
    publish_evaluation(context, inputs, folder, verdict, metrics, by_image, unscorable)


def _draw(worst: _Scored, curve: NDArray[np.int64] | None, threshold: Threshold, images: int, folder: Path) -> None:
    source, target, prediction = (
        read_image(path).pixels for path in (worst.item.source, worst.item.target, worst.item.prediction)
    )
    mask, _ = _cut(worst.item.label, target > 0, prediction, threshold)
    figure = semantic_figure(
        source,
        error_map(target > 0, mask),
        name=worst.item.label,
        images=images,
        iou=worst.values["prediction"]["iou"],
        curve=None if curve is None else [Areas(*row).iou for row in curve.tolist()],
        threshold=threshold.value,
        pixel_size=worst.item.pixel_size,
    )
    save_png(figure, folder / "figure.png")


def judge(
    table: Table,
    pooled: Areas,
    curve: NDArray[np.int64] | None,
    threshold: Threshold,
    parameters: SemanticParameters,
    unscorable: Mapping[str, str] | None = None,
) -> Verdict:
    """Pass or fail a model; see `SemanticThresholds`.

    Parameters
    ----------
    table
        By kind and image: the columns.
    pooled
        Pixels of the prediction over all images.
    curve
        Counts over all images at each of `CURVE_THRESHOLDS`; None where the predictions are masks.
    unscorable
        By image that is not in the table: why its prediction cannot be scored.
    """
    lost = unscorable or {}
    images = table["prediction"]
    failures: list[str] = []
    merits: list[str] = []
    if not pooled.tp + pooled.fn:
        failures.append("No test image has any foreground to find: such a test shows nothing.")
    empty = [name for name, row in images.items() if row["foreground"] and not row["predicted"]]
    if empty and len(empty) + len(lost) > parameters.max_failed_images:
        failures.append(f"In {len(empty)} of {len(images)} images no foreground was found: {', '.join(empty[:5])}.")
    sentence = f"Over all images together the foreground was found with IoU {pooled.iou:.3f}"
    if pooled.iou < parameters.min_iou:
        failures.append(f"{sentence}, below the {parameters.min_iou:g} asked for.")
    else:
        merits.append(f"{sentence}.")
    sentence, better = judge_gain(
        compare_with_baseline(table, "iou"), "IoU", "Otsu's threshold", parameters.min_iou_gain_over_baseline
    )
    (merits if better else failures).append(sentence)
    remarks = few_images(len(images))
    if curve is not None:
        ious = [Areas(*row).iou for row in curve.tolist()]
        best = int(np.argmax(ious))
        remarks.append(
            f"Probabilities were cut at {threshold.value:g} (chosen by {threshold.chosen_by}). On the test images "
            f"themselves {CURVE_THRESHOLDS[best]:g} would have given the highest IoU, {ious[best]:.3f}; it was not "
            "used."
        )
    worst = min(images, key=lambda name: images[name]["iou"])
    remarks.append(f"The worst image is {worst}, with IoU {images[worst]['iou']:.3f}.")
    verdict = Verdict("failed" if failures else "passed", tuple(failures or merits), tuple(remarks))
    return with_unscorable(verdict, lost, len(images) + len(lost), parameters.max_failed_images)


def _note(pooled: Areas, threshold: Threshold, parameters: SemanticParameters, *, probabilities: bool) -> str:
    cut = f" Probabilities were cut at {threshold.value:g}, chosen by {threshold.chosen_by}." if probabilities else ""
    return (
        f"Means over the images; over all pixels together IoU {pooled.iou:.3f} and Dice {pooled.dice:.3f}. Outlines "
        f"may be {parameters.boundary_tolerance:g} px off.{cut} Otsu's threshold needs no training."
    )


def _write_curve(path: Path, curve: NDArray[np.int64]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["threshold", "IoU [0..1]", "Dice [0..1]", "precision [0..1]", "recall [0..1]"])
        for threshold, row in zip(CURVE_THRESHOLDS, curve.tolist(), strict=True):
            counted = Areas(*row)
            writer.writerow([threshold, counted.iou, counted.dice, counted.precision, counted.recall])
