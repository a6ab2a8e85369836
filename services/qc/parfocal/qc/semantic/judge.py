"""From masks to numbers, the curve over thresholds, and a verdict with reasons in plain sentences."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parfocal.qc.evaluation.inputs import Inputs, Item
from parfocal.qc.evaluation.statistics import compare
from parfocal.qc.evaluation.verdict import Judgement, few_images, judge_gain, listed, with_unscorable
from parfocal.qc.evaluation.words import count
from parfocal.qc.metrics.bands import blocks, by_blocks
from parfocal.qc.metrics.objects.confusion import Matrix, class_areas, mean_over_classes
from parfocal.qc.metrics.objects.semantic import Areas, is_probability
from parfocal.qc.semantic.figure import ERROR_CODES
from parfocal.qc.semantic.metrics import BY_KEY
from parfocal.qc.semantic.parameters import SemanticParameters
from parfocal.qc.semantic.scheme import Scheme
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import inspect_image, open_image
from parfocal.runtime.images.scratch import Scratch, release
from parfocal.runtime.methods.thresholds import THRESHOLDS, threshold_counts
from parfocal.runtime.store.evaluations import ImageScore, Kind

DEFINITION: Final = (
    "TP, FP and FN are true positive, false positive and false negative pixels of the foreground, or of a class. IoU = "
    "TP / (TP + FP + FN); Dice = 2 TP / (2 TP + FP + FN); precision = TP / (TP + FP); recall = TP / (TP + FN). "
    "Boundary F is the F1 of outline pixels, of which those within the tolerance of the other outline agree. Of "
    "several classes these are means over all classes of an image but the background. Ratios are 1 where there is no "
    "foreground and none was predicted. VI is the variation of information between connected regions, in bits: split "
    "where one region of the target became several, merge where several became one; only pixels that are in a region "
    "in both count. Pixels that are not annotated are not scored. The threshold of the probability is not chosen on "
    "test images."
)
"""Definitions of the numbers, to be printed beside them."""

_HALF: Final = 0.5


@dataclass(frozen=True)
class Threshold:
    """Threshold of the probability, and who chose it."""

    value: float
    chosen_by: str


def choose_threshold(inputs: Inputs[Item], parameters: SemanticParameters) -> Threshold:
    """Return the threshold asked for, else the one the model set on its validation images, else one half."""
    if parameters.threshold is not None:
        return Threshold(parameters.threshold, "the parameter threshold")
    stored = inputs.model.calibration.get("threshold") if inputs.model is not None else None
    if stored is not None:
        return Threshold(float(stored), "the model, on its validation images")
    return Threshold(_HALF, "default, as the model stores none")


def read_prediction(item: Item, scratch: Scratch) -> NDArray[Any]:
    """Return a predicted mask with its values as they are stored, or a probability."""
    probability = inspect_image(item.prediction).dtype.kind == "f"
    return open_image(item.prediction, scratch, labels=not probability).pixels


def predicted_classes(
    label: str,
    target: NDArray[np.int8],
    prediction: NDArray[Any],
    threshold: Threshold,
    scheme: Scheme,
    scratch: Scratch,
) -> tuple[NDArray[np.int8], NDArray[np.int64] | None]:
    """Return the index of each pixel's class and, of probabilities, what other thresholds would have given.

    The indices lie in `scratch`.

    Raises
    ------
    InvalidInputError
        The prediction has another shape than the target, or values that are neither classes nor probabilities.
    """
    name = f"{label} (prediction)"
    if prediction.shape != target.shape:
        raise InvalidInputError(
            f"{name} has shape {prediction.shape} and its target {target.shape}. Compare images of the same field and "
            "size."
        )
    if not scheme.binary or not is_probability(prediction, name=name):
        return scheme.prediction(prediction, name=name, scratch=scratch), None
    counts = np.zeros((len(THRESHOLDS), 3), np.int64)
    for window in blocks(target.shape):
        counts += threshold_counts(target[window], prediction[window])
        release(target)
        release(prediction)
    return by_blocks(lambda part: part >= threshold.value, [prediction], np.int8, scratch), counts


def error_map(target: NDArray[np.int8], prediction: NDArray[np.int8], scratch: Scratch) -> NDArray[np.uint8]:
    """Return an image of `ERROR_CODES`: foreground of the right class, without it, and where there is background.

    Pixels whose class in the target is not known are left at 0. It lies in `scratch`.
    """

    def of_block(target: NDArray[np.int8], prediction: NDArray[np.int8]) -> NDArray[np.uint8]:
        result = np.zeros(target.shape, np.uint8)
        result[(target > 0) & (prediction == target)] = ERROR_CODES["true positive"]
        result[(target > 0) & (prediction != target)] = ERROR_CODES["false negative"]
        result[(target == 0) & (prediction > 0)] = ERROR_CODES["false positive"]
        return result

    return by_blocks(of_block, [target, prediction], np.uint8, scratch)


def without_foreground(images: Iterable[ImageScore]) -> list[str]:
    """Return the images with foreground in which none was predicted."""
    return [
        image.image
        for image in images
        if image.values["foreground_fraction"] and not image.values["predicted_fraction"]
    ]


def judge(
    scores: Mapping[Kind, Sequence[ImageScore]],
    pooled: Matrix,
    curve: NDArray[np.int64] | None,
    threshold: Threshold,
    parameters: SemanticParameters,
    unscorable: Mapping[str, str] | None = None,
    *,
    names: Sequence[str],
    baseline: str,
) -> Judgement:
    """Pass or fail a model; see `SemanticThresholds`.

    Parameters
    ----------
    scores
        By kind: metrics of every image, in one order.
    pooled
        Pixels of the prediction over all images by class in target and prediction.
    curve
        Counts over all images at each of `THRESHOLDS`; None where the predictions are masks.
    unscorable
        By further image: why its prediction cannot be scored.
    names
        Names of the classes.
    baseline
        Name of the baseline.
    """
    lost = unscorable or {}
    images = scores["prediction"]
    failures: list[str] = []
    merits: list[str] = []
    if not pooled[1:].any():
        failures.append("No test image has any foreground: such a test proves nothing. Add images with foreground.")
    empty = without_foreground(images)
    if empty and len(empty) + len(lost) > parameters.max_failed_images:
        failures.append(f"In {len(empty)} of {count(len(images), 'image')} no foreground was found: {listed(empty)}.")
    iou = mean_over_classes(pooled, lambda areas: areas.iou)
    several = len(names) > 2
    what = "classes were found with a mean IoU of" if several else "foreground was found with IoU"
    sentence = f"Over all images together the {what} {iou:.3f}"
    if iou < parameters.min_iou:
        failures.append(f"{sentence}, below the {parameters.min_iou:g} asked for.")
    else:
        merits.append(f"{sentence}.")
    gain = compare(images, scores["baseline"], "baseline", "iou")
    needed = parameters.min_iou_gain_over_baseline
    sentence, better = judge_gain(gain, images, BY_KEY["iou"], baseline, needed)
    (merits if better else failures).append(sentence)
    remarks = few_images(len(images))
    if curve is not None:
        ious = [Areas(*row).iou for row in curve.tolist()]
        best = int(np.argmax(ious))
        remarks.append(
            f"The threshold of the probability was {threshold.value:g} (chosen by {threshold.chosen_by}). On the test "
            f"images themselves {THRESHOLDS[best]:g} would have given the highest IoU, {ious[best]:.3f}; it was not "
            "used."
        )
    if several:
        by_class = {name: each.iou for name, each in zip(names, class_areas(pooled), strict=True)}
        lowest = min(list(names)[1:], key=by_class.__getitem__)
        remarks.append(f"The class with the lowest IoU is {lowest}, with {by_class[lowest]:.3f}.")
    worst = min(images, key=lambda image: image.values["iou"])
    remarks.append(f"The worst image is {worst.image}, with IoU {BY_KEY['iou'].number(worst.values['iou'])}.")
    judgement = Judgement("failed" if failures else "passed", tuple(failures or merits), tuple(remarks))
    return with_unscorable(judgement, lost, len(images) + len(lost), parameters.max_failed_images)


def write_curve(path: Path, curve: NDArray[np.int64]) -> None:
    """Write one line for each of `THRESHOLDS`, over the pixels of all images together."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["threshold", "iou", "dice", "precision", "recall"])
        for threshold, row in zip(THRESHOLDS, curve.tolist(), strict=True):
            counted = Areas(*row)
            writer.writerow([threshold, counted.iou, counted.dice, counted.precision, counted.recall])
