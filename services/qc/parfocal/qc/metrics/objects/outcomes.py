"""The outcome of each object (true or false positive, false negative, split, merged), as lists and as an error map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from parfocal.qc.metrics.bands import by_blocks
from parfocal.qc.metrics.objects.instances import InstanceScore, Matches
from parfocal.runtime.images.scratch import IN_MEMORY, Scratch

Outcome = Literal["true positive", "false negative", "false positive", "split", "merged"]

ERROR_CODES: Final[dict[Outcome, int]] = {
    "true positive": 1,
    "false negative": 2,
    "false positive": 3,
    "split": 4,
    "merged": 5,
}
"""Pixel values of an error map, uint8; 0 is background."""


@dataclass(frozen=True)
class Layer:
    """The objects of one outcome: their ids in the target or in the prediction."""

    outcome: Outcome
    of_target: bool
    ids: tuple[int, ...]


def outcome_layers(score: InstanceScore, matches: Matches) -> tuple[Layer, ...]:
    """Return the objects by outcome, each in one layer only: a split target is not a false negative as well.

    The order is that of drawing: rarer mistakes are drawn last, over the others.
    """
    split, merged = set(score.split), set(score.merged)
    return (
        Layer("true positive", False, tuple(pair[1] for pair in matches.pairs)),
        Layer("false negative", True, tuple(label for label in matches.false_negatives if label not in split)),
        Layer("false positive", False, tuple(label for label in matches.false_positives if label not in merged)),
        Layer("split", True, score.split),
        Layer("merged", False, score.merged),
    )


def error_map(
    target: npt.NDArray[Any], prediction: npt.NDArray[Any], layers: Sequence[Layer], scratch: Scratch = IN_MEMORY
) -> npt.NDArray[np.uint8]:
    """Return an image of `ERROR_CODES`, of the shape of the label images, in which every mistake has its pixels.

    It lies in `scratch`; neither it nor the label images need be in memory.
    """

    def of_block(target: npt.NDArray[Any], prediction: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        result = np.zeros(target.shape, np.uint8)
        for layer in layers:
            labels = target if layer.of_target else prediction
            result[np.isin(labels, layer.ids) & (labels > 0)] = ERROR_CODES[layer.outcome]
        return result

    return by_blocks(of_block, [target, prediction], np.uint8, scratch)
