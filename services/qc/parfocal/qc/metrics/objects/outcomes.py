"""What became of each object: found, missed, invented, cut or merged; as lists and as an error map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from parfocal.qc.metrics.objects.instances import InstanceScore, Matches

Outcome = Literal["found", "missed", "invented", "cut", "merged"]

ERROR_CODES: Final[dict[Outcome, int]] = {"found": 1, "missed": 2, "invented": 3, "cut": 4, "merged": 5}
"""Values of an error map; 0 is background."""


@dataclass(frozen=True)
class Layer:
    """The objects of one outcome: their ids in the target or in the prediction."""

    outcome: Outcome
    of_target: bool
    ids: tuple[int, ...]


def outcome_layers(score: InstanceScore, matches: Matches) -> tuple[Layer, ...]:
    """Return the objects by outcome, each named once: a target that is cut is not missed besides.

    The order is that of drawing: rarer mistakes come last, over the others.
    """
    cut, merged = set(score.split), set(score.merged)
    return (
        Layer("found", False, tuple(pair[1] for pair in matches.pairs)),
        Layer("missed", True, tuple(label for label in matches.missed if label not in cut)),
        Layer("invented", False, tuple(label for label in matches.spurious if label not in merged)),
        Layer("cut", True, score.split),
        Layer("merged", False, score.merged),
    )


def error_map(target: npt.NDArray[Any], prediction: npt.NDArray[Any], layers: Sequence[Layer]) -> npt.NDArray[np.uint8]:
    """Return an image of `ERROR_CODES`, of the shape of the label images, in which every mistake has its pixels."""
    result = np.zeros(target.shape, np.uint8)
    for layer in layers:
        labels = target if layer.of_target else prediction
        result[np.isin(labels, layer.ids) & (labels > 0)] = ERROR_CODES[layer.outcome]
    return result
