"""Metrics of instance segmentation: objects matched one to one by the overlap of their pixels.

Two objects are compared by intersection over union (IoU, Jaccard 1912): the pixels they share, divided by the pixels
that belong to either. At a level, a pair counts as found if its IoU reaches the level; pairs are assigned so that as
many as possible count and, among such assignments, the sum of their IoU is largest (Kuhn 1955).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.optimize import linear_sum_assignment

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.scratch import blocks, release

IOU_LEVELS: Final = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""The levels over which accuracy is averaged (Caicedo et al., Nature Methods 16, 1247, 2019)."""

_SPLIT_SHARE: Final = 0.1
_LARGEST_LABEL: Final = 2**53
_PIXELS_AT_ONCE: Final = 2**20


@dataclass(frozen=True)
class Counts:
    """Numbers of objects that were found or not at an IoU level, in one image or summed over several.

    Ratios are 1 where there is nothing to find and nothing was found.

    Attributes
    ----------
    tp, fp, fn
        Numbers of true positives, false positives and false negatives.
    matched_iou
        Sum of the IoU of the matched pairs.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    matched_iou: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.matched_iou + other.matched_iou)

    @property
    def precision(self) -> float:
        """Part of the predicted objects that exist: tp / (tp + fp)."""
        return self._ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Part of the existing objects that were found: tp / (tp + fn)."""
        return self._ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall: 2 tp / (2 tp + fp + fn)."""
        return self._ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def accuracy(self) -> float:
        """Found among all that exist or were predicted: tp / (tp + fp + fn)."""
        return self._ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def mean_matched_iou(self) -> float:
        """Mean IoU of the pairs found: how well found objects are outlined."""
        return self._ratio(self.matched_iou, self.tp)

    @property
    def panoptic_quality(self) -> float:
        """F1 times the mean IoU of the pairs found (Kirillov et al., CVPR 2019)."""
        return self._ratio(self.matched_iou, self.tp + (self.fp + self.fn) / 2)

    def _ratio(self, part: float, whole: float) -> float:
        if whole:
            return part / whole
        return 0.0 if self.tp + self.fp + self.fn else 1.0


@dataclass(frozen=True)
class Matches:
    """Matched objects at an IoU level; ids are the labels in the images.

    Attributes
    ----------
    pairs
        Target id, prediction id and their IoU.
    false_negatives, false_positives
        Ids of the targets and of the predictions without a partner.
    """

    pairs: tuple[tuple[int, int, float], ...]
    false_negatives: tuple[int, ...]
    false_positives: tuple[int, ...]

    @property
    def counts(self) -> Counts:
        """Numbers of pairs, false positives and false negatives, and the sum of the IoU of the pairs."""
        return Counts(
            len(self.pairs),
            len(self.false_positives),
            len(self.false_negatives),
            float(sum(iou for *_, iou in self.pairs)),
        )


@dataclass(frozen=True)
class Overlap:
    """The objects of two label images and the pixels they share.

    Attributes
    ----------
    target_ids, prediction_ids
        Labels, rising.
    target_areas, prediction_areas
        Pixels of each.
    rows, columns, shared
        For each overlapping pair: indices into the lists above, and the number of shared pixels.
    foreground_iou
        IoU of all that is not background.
    """

    target_ids: npt.NDArray[np.int64]
    prediction_ids: npt.NDArray[np.int64]
    target_areas: npt.NDArray[np.int64]
    prediction_areas: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    shared: npt.NDArray[np.int64]
    foreground_iou: float

    @cached_property
    def iou(self) -> npt.NDArray[np.float64]:
        """IoU of each pair that overlaps."""
        either = self.target_areas[self.rows] + self.prediction_areas[self.columns] - self.shared
        ratio: npt.NDArray[np.float64] = self.shared / either
        return ratio

    def match(self, level: float) -> Matches:
        """Pair targets with predictions so that as many as possible reach `level` (above 0, at most 1)."""
        if not 0 < level <= 1:
            raise ValueError(f"level {level} is not above 0 and at most 1")
        enough = self.iou >= level
        rows, columns, iou = self.rows[enough], self.columns[enough], self.iou[enough]
        pairs = [
            (int(self.target_ids[row]), int(self.prediction_ids[column]), value)
            for row, column, value in _assign(rows, columns, iou, (len(self.target_ids), len(self.prediction_ids)))
        ]
        found, used = {pair[0] for pair in pairs}, {pair[1] for pair in pairs}
        return Matches(
            pairs=tuple(sorted(pairs)),
            false_negatives=tuple(label for label in self.target_ids.tolist() if label not in found),
            false_positives=tuple(label for label in self.prediction_ids.tolist() if label not in used),
        )

    def aggregated_jaccard(self) -> float:
        """Return the aggregated Jaccard index (Kumar et al., IEEE Trans. Medical Imaging 36, 1550, 2017).

        Every target is put together with the prediction of the largest IoU, which several targets may share; the pixels
        shared, divided by those of either and of all predictions left over. 1 where both images are empty.
        """
        order = np.lexsort((-self.iou, self.rows))
        _, first = np.unique(self.rows[order], return_index=True)
        best = order[first]
        used = np.unique(self.columns[best])
        shared = int(self.shared[best].sum())
        either = self.target_areas.sum() + self.prediction_areas[self.columns[best]].sum() - shared
        either += self.prediction_areas.sum() - self.prediction_areas[used].sum()
        return shared / int(either) if either else 1.0

    def split(self) -> tuple[int, ...]:
        """Return the split targets: two or more predictions lie mostly inside, each over a tenth of the target."""
        inside = self.shared > 0.5 * self.prediction_areas[self.columns]
        large = self.shared >= _SPLIT_SHARE * self.target_areas[self.rows]
        pieces = np.bincount(self.rows[inside & large], minlength=len(self.target_ids))
        return tuple(self.target_ids[pieces >= 2].tolist())

    def merged(self) -> tuple[int, ...]:
        """Return the predictions that hold more than half of each of two targets or more."""
        held = self.shared > 0.5 * self.target_areas[self.rows]
        pieces = np.bincount(self.columns[held], minlength=len(self.prediction_ids))
        return tuple(self.prediction_ids[pieces >= 2].tolist())


@dataclass(frozen=True)
class InstanceScore:
    """The scores of one image.

    Attributes
    ----------
    counts
        By IoU level: counts.
    split, merged
        See `Overlap`.
    foreground_iou
        IoU of all that is not background; 1 where both images are empty.
    """

    counts: Mapping[float, Counts]
    split: tuple[int, ...]
    merged: tuple[int, ...]
    foreground_iou: float
    overlap: Overlap = field(repr=False)

    @property
    def mean_accuracy(self) -> float:
        """Accuracy averaged over `IOU_LEVELS`."""
        return float(np.mean([self.counts[level].accuracy for level in IOU_LEVELS]))


def score_instances(
    target: npt.NDArray[Any], prediction: npt.NDArray[Any], *, name: str, levels: Iterable[float] = ()
) -> InstanceScore:
    """Score the objects of one image or volume.

    Parameters
    ----------
    target, prediction
        Label images of the same shape, (Y, X) or (Z, Y, X): whole numbers, 0 for background.
    name
        Name of the image, for errors.
    levels
        Further IoU levels besides `IOU_LEVELS`.

    Raises
    ------
    InvalidInputError
        The shapes differ, or an image holds no labels.
    """
    found = overlap(target, prediction, name=name)
    return InstanceScore(
        counts={level: found.match(level).counts for level in sorted({*IOU_LEVELS, *levels})},
        split=found.split(),
        merged=found.merged(),
        foreground_iou=found.foreground_iou,
        overlap=found,
    )


def overlap(target: npt.NDArray[Any], prediction: npt.NDArray[Any], *, name: str) -> Overlap:
    """Count the pixels that the objects of two label images share; see `score_instances`."""
    if target.shape != prediction.shape:
        raise InvalidInputError(
            f"{name}: the prediction has shape {prediction.shape} and the target {target.shape}. Compare images of the "
            "same field and size."
        )
    if target.size == 0:
        raise InvalidInputError(f"{name} (target) has no pixels.")
    # Part by part, because the numbers and pairs of all pixels take many times the memory of the images.
    found = []
    for window in blocks(target.shape, _PIXELS_AT_ONCE):
        truth = _check_labels(target[window], f"{name} (target)").ravel()
        guess = _check_labels(prediction[window], f"{name} (prediction)").ravel()
        found.append(_shared(truth, guess))
        release(target)
        release(prediction)
    truth, guess, counts = (np.concatenate(each) for each in zip(*found, strict=True))
    target_ids, truth = np.unique(truth, return_inverse=True)
    prediction_ids, guess = np.unique(guess, return_inverse=True)
    table = sparse.coo_array((counts, (truth, guess)), shape=(len(target_ids), len(prediction_ids))).tocsr()
    # Background, if there is any, comes first in both.
    first_target, first_prediction = int(target_ids[0] == 0), int(prediction_ids[0] == 0)
    objects = table[first_target:, first_prediction:].tocoo()
    either = target.size - (int(table[0, 0]) if first_target and first_prediction else 0)
    both = int(objects.data.sum())
    return Overlap(
        target_ids=target_ids[first_target:].astype(np.int64),
        prediction_ids=prediction_ids[first_prediction:].astype(np.int64),
        target_areas=np.asarray(table.sum(axis=1)).ravel()[first_target:].astype(np.int64),
        prediction_areas=np.asarray(table.sum(axis=0)).ravel()[first_prediction:].astype(np.int64),
        rows=objects.row.astype(np.int64),
        columns=objects.col.astype(np.int64),
        shared=objects.data.astype(np.int64),
        foreground_iou=both / either if either else 1.0,
    )


def _shared(
    truth: npt.NDArray[np.int64], guess: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the pairs of labels that pixels have, as two lists, and how many pixels have each."""
    target_ids, rows = _numbered(truth)
    prediction_ids, columns = _numbered(guess)
    table = sparse.coo_array(
        (np.ones(truth.size, np.int64), (rows, columns)), shape=(len(target_ids), len(prediction_ids))
    )
    pairs = table.tocsr().tocoo()
    return target_ids[pairs.row].astype(np.int64), prediction_ids[pairs.col].astype(np.int64), pairs.data


def _numbered(labels: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """Return the different labels in rising order, and for each pixel the place of its label among them."""
    highest = int(labels.max())
    if highest > labels.size:
        return np.unique(labels, return_inverse=True)
    # A table no longer than the image saves sorting all its pixels.
    seen = np.zeros(highest + 1, bool)
    seen[labels] = True
    places = np.cumsum(seen, dtype=np.int32) - 1
    return np.flatnonzero(seen), places[labels]


def f1_parts(target: npt.NDArray[Any], prediction: npt.NDArray[Any]) -> tuple[float, float]:
    """Return numerator and denominator of F1 at IoU 0.5, which can be added up over images; see `score_instances`."""
    counts = overlap(target, prediction, name="training image").match(0.5).counts
    return 2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn


def _check_labels(labels: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    if labels.dtype.kind not in "iuf":
        raise InvalidInputError(
            f"{name} is of type {labels.dtype}, so that it is not a label image. Give every object a number of its own."
        )
    if labels.dtype.kind == "f" and not (np.isfinite(labels).all() and np.array_equal(labels, np.floor(labels))):
        raise InvalidInputError(
            f"{name} holds values that are not whole numbers, so that it is not a label image. Save labels as integers."
        )
    if labels.max() > _LARGEST_LABEL:
        raise InvalidInputError(f"{name} has the label {labels.max()}, which is too large. Number objects from 1.")
    labels = labels.astype(np.int64, copy=False)
    if labels.min() < 0:
        # Pixels that nobody labelled are counted as background.
        labels = np.maximum(labels, 0)
    return labels


def _assign(
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    iou: npt.NDArray[np.float64],
    shape: tuple[int, int],
) -> list[tuple[int, int, float]]:
    """Pair rows with columns, as many as possible and then with the largest sum of IoU.

    Candidates fall into small groups that share no object; each is solved by itself.
    """
    if not len(rows):
        return []
    count = shape[0] + shape[1]
    graph = sparse.coo_array((np.ones(len(rows)), (rows, columns + shape[0])), shape=(count, count))
    _, group = sparse.csgraph.connected_components(graph.tocsr(), directed=False)
    order = np.argsort(group[rows], kind="stable")
    bounds = np.flatnonzero(np.diff(group[rows][order])) + 1
    pairs: list[tuple[int, int, float]] = []
    for chosen in np.split(order, bounds):
        if len(chosen) == 1:
            edge = chosen[0]
            pairs.append((int(rows[edge]), int(columns[edge]), float(iou[edge])))
            continue
        mine, row_place = np.unique(rows[chosen], return_inverse=True)
        theirs, column_place = np.unique(columns[chosen], return_inverse=True)
        gain = np.zeros((len(mine), len(theirs)))
        # A further pair is worth more than any gain in IoU of all the others.
        gain[row_place, column_place] = min(gain.shape) + 1 + iou[chosen]
        value = np.zeros_like(gain)
        value[row_place, column_place] = iou[chosen]
        pairs += [
            (int(mine[row]), int(theirs[column]), float(value[row, column]))
            for row, column in zip(*linear_sum_assignment(gain, maximize=True), strict=True)
            if gain[row, column]
        ]
    return pairs
