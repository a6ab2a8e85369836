"""How well objects are found by their size: a mean over all objects hides that small ones are not found."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from parfocal.qc.metrics.objects.instances import Matches, Overlap

_NAMES: Final = ("small", "medium", "large")


@dataclass(frozen=True)
class SizeClass:
    """A third of the targets by their size.

    Attributes
    ----------
    size_class
        "small", "medium" or "large".
    smallest_px, largest_px
        Sizes of the smallest and the largest target, in pixels.
    target_objects, true_positives
        Number of targets and of those found.
    recall
        Found targets divided by all targets, 0 to 1.
    mean_matched_iou
        Mean IoU of the targets that were found; None if there are none.
    """

    size_class: str
    smallest_px: int
    largest_px: int
    target_objects: int
    true_positives: int
    recall: float
    mean_matched_iou: float | None


def target_outcomes(overlap: Overlap, matches: Matches) -> npt.NDArray[np.float64]:
    """Return float64 (targets, 2): size in pixels, and the IoU with which the target was found (0: not found)."""
    iou = {pair[0]: pair[2] for pair in matches.pairs}
    found = [iou.get(label, 0.0) for label in overlap.target_ids.tolist()]
    return np.column_stack([overlap.target_areas.astype(np.float64), np.array(found, np.float64)])


def size_classes(outcomes: Sequence[npt.NDArray[np.float64]]) -> tuple[SizeClass, ...]:
    """Divide the targets of all images into thirds by size; targets of one size stay together.

    Parameters
    ----------
    outcomes
        Outcomes of each image, from `target_outcomes`.

    Returns
    -------
    tuple of SizeClass
        Classes from small to large; fewer than three if too few different sizes occur, none without targets.
    """
    everything = np.concatenate(outcomes) if outcomes else np.empty((0, 2))
    areas, iou = everything[:, 0], everything[:, 1]
    if not areas.size:
        return ()
    bounds = np.quantile(areas, [1 / 3, 2 / 3], method="inverted_cdf")
    member = np.searchsorted(bounds, areas, side="left")
    classes = []
    for number, name in enumerate(_NAMES):
        mine = member == number
        if not mine.any():
            continue
        found = iou[mine] > 0
        classes.append(
            SizeClass(
                size_class=name,
                smallest_px=int(areas[mine].min()),
                largest_px=int(areas[mine].max()),
                target_objects=int(mine.sum()),
                true_positives=int(found.sum()),
                recall=float(found.mean()),
                mean_matched_iou=float(iou[mine][found].mean()) if found.any() else None,
            )
        )
    return tuple(classes)


def write_sizes_csv(path: Path, classes: Sequence[SizeClass]) -> None:
    """Write one line for each class; sizes are in pixels."""
    rows: list[dict[str, Any]] = [asdict(each) for each in classes]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(SizeClass.__dataclass_fields__))
        writer.writeheader()
        writer.writerows(rows)
