"""Baseline of detection: the boxes around the regions above Otsu's threshold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from parfocal.qc.metrics.bands import bands
from parfocal.qc.metrics.baselines.otsu import OtsuBaseline, choose_otsu
from parfocal.runtime.images.scratch import IN_MEMORY, Scratch, release
from parfocal.runtime.methods.average_precision import match_by_score
from parfocal.runtime.methods.outputs import Detections


@dataclass(frozen=True)
class BoxBaseline:
    """Boxes around connected pixels beyond Otsu's threshold, all of one class and of confidence 1.

    Attributes
    ----------
    otsu
        The threshold and how it was chosen.
    number, name
        The class that all boxes are given, the most frequent one of the training: its index and its name.
    """

    otsu: OtsuBaseline
    number: int
    name: str

    def find(self, source: NDArray[Any], scratch: Scratch = IN_MEMORY) -> Detections:
        """Return the boxes of an image (Y, X), with channels first or colours last besides; it need not be in memory.

        What is computed of it lies in `scratch`.
        """
        corners = label_boxes(self.otsu.apply(source, 2, scratch))
        boxes = len(corners)
        return Detections(corners, np.full(boxes, self.number, np.int64), np.ones(boxes, np.float32))

    def describe(self) -> dict[str, Any]:
        """Return what was chosen and how, as plain JSON types."""
        return {**self.otsu.describe(), "class": self.name, "boxes": "around connected pixels, confidence 1"}


def choose_boxes(
    pairs: Iterable[tuple[NDArray[Any], NDArray[np.float32]]],
    iou: float,
    names: list[str],
    counts: Mapping[str, int],
    scratch: Scratch = IN_MEMORY,
) -> BoxBaseline:
    """Choose polarity and smoothing by F1 whatever the class, and the most frequent class.

    Parameters
    ----------
    pairs
        Images of the training and their annotated boxes (N, 4).
    iou
        IoU from which a pair counts as a true positive.
    names
        Names of the classes by index.
    counts
        Number of boxes of each class in the training; of equal ones the first of `names` is taken.
    scratch
        Where label images lie.

    Raises
    ------
    InvalidInputError
        There are no pairs.
    """

    def f1_parts(truth: NDArray[np.float32], labels: NDArray[Any]) -> tuple[float, float]:
        corners = label_boxes(labels)
        found = int(match_by_score(corners, np.ones(len(corners)), truth, iou).sum())
        return 2.0 * found, float(len(corners) + len(truth))

    otsu = choose_otsu(pairs, f1_parts, dimensions=2, scratch=scratch)
    number = max(range(len(names)), key=lambda each: (counts.get(names[each], 0), -each))
    return BoxBaseline(otsu, number, names[number])


def label_boxes(labels: NDArray[Any]) -> NDArray[np.float32]:
    """Return the box around each object of a label image (Y, X), float32 (N, 4): [y0, x0, y1, x1] in pixels.

    The image need not be in memory.
    """
    boxes: dict[int, tuple[int, int, int, int]] = {}
    for band in bands(labels.shape):
        top = band.rows.start
        for number, window in enumerate(ndimage.find_objects(labels[band.rows])):
            if window is None:
                continue
            y, x = window
            first, left, _, right = boxes.get(number, (top + y.start, x.start, 0, x.stop))
            boxes[number] = first, min(left, x.start), top + y.stop, max(right, x.stop)
        release(labels)
    return np.array([boxes[number] for number in sorted(boxes)], np.float32).reshape(-1, 4)
