"""Whether regions are separated as they should be: splits and merges, whatever their exact outlines."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from parfocal.qc.metrics.bands import blocks, by_blocks
from parfocal.qc.metrics.objects.regions import connected_regions
from parfocal.runtime.images.scratch import IN_MEMORY, Scratch, release


@dataclass(frozen=True)
class Topology:
    """How two divisions of an image into regions differ.

    Attributes
    ----------
    split
        Entropy of the predicted region given that of the target, in bits: 0 where no region is split.
    merge
        Entropy of the target's region given the predicted one, in bits: 0 where none are merged.
    target, prediction
        Numbers of regions.
    """

    split: float
    merge: float
    target: int
    prediction: int


def compare_regions(
    target: npt.NDArray[Any], prediction: npt.NDArray[Any], *, of_background: bool, scratch: Scratch = IN_MEMORY
) -> Topology:
    """Return the variation of information between the connected regions of two images (Meilă, 2007).

    Regions are pixels of one class connected by faces, so that a line of one pixel separates. Only pixels that belong
    to a region in both are looked at: how thick a line between regions is does not matter, only whether it is closed.

    Parameters
    ----------
    target, prediction
        Indices of classes, 0 for the background, of one shape; where the target is below 0 nothing is compared.
    of_background
        Take the regions of the background, which the foreground separates, instead of those of all other classes.
    scratch
        Where the regions lie; the images need not be in memory either.
    """
    mine, ours = _regions(target, of_background, scratch)
    annotated = by_blocks(lambda truth, guess: np.where(truth < 0, -1, guess), [target, prediction], np.int8, scratch)
    theirs, found = _regions(annotated, of_background, scratch)
    seen = []
    for window in blocks(target.shape):
        one, other = mine[window], theirs[window]
        both = (one > 0) & (other > 0)
        seen.append(np.unique(one[both].astype(np.int64) * (found + 1) + other[both], return_counts=True))
        release(mine)
        release(theirs)
    pairs, places = np.unique(np.concatenate([pair for pair, _ in seen]), return_inverse=True)
    if not len(pairs):
        return Topology(0.0, 0.0, ours, found)
    counts = np.bincount(places, weights=np.concatenate([count for _, count in seen])).astype(np.int64)
    joint = counts / counts.sum()
    of_target, of_prediction = (
        np.bincount(labels, weights=joint)[labels] for labels in (pairs // (found + 1), pairs % (found + 1))
    )
    split = float(-np.sum(joint * np.log2(joint / of_target)))
    merge = float(-np.sum(joint * np.log2(joint / of_prediction)))
    return Topology(max(split, 0.0), max(merge, 0.0), ours, found)


def _regions(classes: npt.NDArray[Any], of_background: bool, scratch: Scratch) -> tuple[npt.NDArray[np.int32], int]:
    """Return the connected regions of each class and their number."""
    chosen = [0]
    if not of_background:
        values: set[int] = set()
        for window in blocks(classes.shape):
            values.update(np.unique(classes[window]).tolist())
            release(classes)
        chosen = sorted(int(value) for value in values if value > 0)
    labels: npt.NDArray[np.int32] | None = None
    total = 0
    for number in chosen:
        found, count = connected_regions(classes.shape, partial(_of_class, classes, number), scratch)
        if labels is None:
            labels = found
        else:
            for window in blocks(classes.shape):
                here = found[window] > 0
                labels[window][here] = found[window][here] + total
                release(labels)
                release(found)
        total += count
    return scratch.zeros(classes.shape, np.int32) if labels is None else labels, total


def _of_class(classes: npt.NDArray[Any], number: int, rows: slice) -> npt.NDArray[np.bool_]:
    inside: npt.NDArray[np.bool_] = classes[rows] == number
    release(classes)
    return inside
