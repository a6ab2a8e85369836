"""Thresholds that suit the validation images best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cellpose.metrics import average_precision
from parfocal.cellpose.parameters import USUAL_THRESHOLDS, CellposePredictionParameters
from parfocal.cellpose.segmentation import find_masks, flow_errors
from parfocal.runtime.methods.objects import compact_labels

_CELL_THRESHOLDS: Final = (0.0, -1.0, 1.0, -2.0, 2.0)
_FLOW_THRESHOLDS: Final = (0.4, 0.6, 0.8, 0.3, 0.0)
_IOUS: Final = (0.5, 0.75)
_LEAST_GAIN: Final = 1e-3


def best_thresholds(images: Sequence[tuple[NDArray[np.float32], NDArray[Any]]], scale: float) -> dict[str, float]:
    """Return the pair of thresholds with the highest accuracy, by name; Cellpose's own where nothing is better.

    The accuracy is that of StarDist and Cellpose, true positives among all objects of prediction and target together,
    over all images; its mean for IoUs of 0.5 and 0.75 is looked at.

    Parameters
    ----------
    images
        Flows with logits, and labels, of each image or volume.
    scale
        Factor by which the images were scaled for the network.
    """
    usual = CellposePredictionParameters()
    scores: dict[tuple[float, float], float] = {}
    for cell in _CELL_THRESHOLDS:
        found = [
            find_masks(
                flows,
                scale=scale,
                cell_threshold=cell,
                flow_threshold=0.0,
                minimum_size=usual.minimum_size,
                largest_fraction=usual.largest_fraction,
            )
            for flows, _ in images
        ]
        flat = images[0][1].ndim == 2
        errors = [
            flow_errors(masks, each[0]) if flat and masks.any() else None
            for masks, each in zip(found, images, strict=True)
        ]
        for flow in _FLOW_THRESHOLDS if flat else (USUAL_THRESHOLDS["flow_threshold"],):
            kept = [_without(masks, error, flow) for masks, error in zip(found, errors, strict=True)]
            scores[cell, flow] = _accuracy([labels for _, labels in images], kept)
    # The usual ones come first and stay unless others are really better.
    best = (USUAL_THRESHOLDS["cell_threshold"], USUAL_THRESHOLDS["flow_threshold"])
    for pair, score in scores.items():
        best = pair if score > scores[best] + _LEAST_GAIN else best
    return {"cell_threshold": best[0], "flow_threshold": best[1]}


def _without(masks: NDArray[Any], errors: NDArray[np.float64] | None, threshold: float) -> NDArray[Any]:
    if errors is None or not threshold:
        return masks
    numbers = np.concatenate([[0], np.where(errors > threshold, 0, np.arange(1, len(errors) + 1))])
    return compact_labels(numbers[masks])


def _accuracy(labels: list[NDArray[Any]], masks: list[NDArray[Any]]) -> float:
    drawn, found = ([compact_labels(each) for each in several] for several in (labels, masks))
    _, true_positives, false_positives, false_negatives = average_precision(drawn, found, threshold=list(_IOUS))
    right, wrong = true_positives.sum(axis=0), (false_positives + false_negatives).sum(axis=0)
    return float(np.mean(right / np.maximum(right + wrong, 1)))
