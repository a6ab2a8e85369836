"""Confusion of classes of pixels, and the scores that follow from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from parfocal.qc.metrics.bands import blocks
from parfocal.qc.metrics.objects.semantic import Areas
from parfocal.runtime.images.scratch import release

Matrix = npt.NDArray[np.int64]
"""Numbers of pixels (classes, classes): rows by their class in the target, columns by that in the prediction."""


def confusion_matrix(target: npt.NDArray[Any], prediction: npt.NDArray[Any], classes: int) -> Matrix:
    """Count the pixels of each class of a target that were given each class.

    Parameters
    ----------
    target
        Indices of classes from 0; pixels below 0 are not annotated and not counted.
    prediction
        Indices of classes, of the same shape; neither need be in memory.
    classes
        Number of classes.
    """
    counts = np.zeros(classes**2, np.int64)
    for window in blocks(target.shape):
        truth = target[window]
        known = truth >= 0
        cells = truth[known].astype(np.int64) * classes + prediction[window][known]
        counts += np.bincount(cells, minlength=classes**2)
        release(target)
        release(prediction)
    return counts.reshape(classes, classes)


def class_areas(matrix: Matrix) -> tuple[Areas, ...]:
    """Return for each class the numbers of true positive, false positive and false negative pixels."""
    right = matrix.diagonal()
    return tuple(
        Areas(int(tp), int(fp), int(fn))
        for tp, fp, fn in zip(right, matrix.sum(axis=0) - right, matrix.sum(axis=1) - right, strict=True)
    )


def mean_over_classes(matrix: Matrix, ratio: Callable[[Areas], float]) -> float:
    """Return the mean of a ratio over all classes but the first, the background, that the target or prediction has.

    Of two classes it is that of the foreground. Where there is none but background, in both, it is 1.
    """
    present = [each for each in class_areas(matrix)[1:] if each.tp + each.fp + each.fn]
    return float(np.mean([ratio(each) for each in present])) if present else 1.0


def pixel_accuracy(matrix: Matrix) -> float:
    """Return the part of the annotated pixels whose class is right; 1 where none is annotated."""
    total = int(matrix.sum())
    return int(matrix.trace()) / total if total else 1.0
