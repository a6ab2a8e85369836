"""Whether regions are separated as they should be: splits and merges, whatever their exact outlines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage


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


def compare_regions(target: npt.NDArray[Any], prediction: npt.NDArray[Any], *, of_background: bool) -> Topology:
    """Return the variation of information between the connected regions of two images (Meilă, 2007).

    Regions are pixels of one class connected by faces, so that a line of one pixel separates. Only pixels that belong
    to a region in both are looked at: how thick a line between regions is does not matter, only whether it is closed.

    Parameters
    ----------
    target, prediction
        Indices of classes, 0 for the background, of one shape; where the target is below 0 nothing is compared.
    of_background
        Take the regions of the background, which the foreground separates, instead of those of all other classes.
    """
    mine, ours = _regions(target, of_background)
    theirs, found = _regions(np.where(target < 0, -1, prediction), of_background)
    both = (mine > 0) & (theirs > 0)
    if not both.any():
        return Topology(0.0, 0.0, ours, found)
    _, places, counts = np.unique(
        mine[both].astype(np.int64) * (found + 1) + theirs[both], return_index=True, return_counts=True
    )
    joint = counts / counts.sum()
    of_target, of_prediction = (
        np.bincount(labels[both][places], weights=joint)[labels[both][places]] for labels in (mine, theirs)
    )
    split = float(-np.sum(joint * np.log2(joint / of_target)))
    merge = float(-np.sum(joint * np.log2(joint / of_prediction)))
    return Topology(max(split, 0.0), max(merge, 0.0), ours, found)


def _regions(classes: npt.NDArray[Any], of_background: bool) -> tuple[npt.NDArray[np.int32], int]:
    """Return the connected regions of each class and their number."""
    labels = np.zeros(classes.shape, np.int32)
    total = 0
    chosen = [0] if of_background else [int(number) for number in np.unique(classes) if number > 0]
    for number in chosen:
        found, count = ndimage.label(classes == number)
        labels[found > 0] = found[found > 0] + total
        total += int(count)
    return labels, total
