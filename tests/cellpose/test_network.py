"""Cellpose: what it owes to the training loop, and its network, loss and schedule against the library's own."""

from __future__ import annotations

from typing import Any

import numpy as np
from learner_suite import LearnerSuite

from parfocal.cellpose.parameters import Cellpose2DParameters, Cellpose3DParameters
from parfocal.runtime.store.facts import Facts, Port

TINY: dict[str, Any] = {"first_filters": 4, "precision": "float32"}
FACTS = Facts(inputs=(Port(role="source"),), targets=(Port(role="target", kind="labels"),), measured={"diameter": 30.0})


class CellposeSuite(LearnerSuite):
    weights_suffix = ".cellpose"
    facts = FACTS

    def target_of(self, inputs: Any) -> Any:
        """Return squares whose pixels are the bright ones of the image, as two objects side by side."""
        labels = np.zeros((*inputs.shape[:-1], 1), np.int32)
        labels[..., 4:14, 4:14, :] = 1
        labels[..., 4:14, 14:28, :] = 2
        inputs[...] = np.where(labels > 0, 0.8, 0.2) + 0.2 * inputs
        return labels


class TestCellpose2D(CellposeSuite):
    path = "parfocal.cellpose.network:Cellpose2D"
    parameters = Cellpose2DParameters(**TINY)
    other = Cellpose2DParameters(**TINY, seed=9)
    larger = Cellpose2DParameters(**TINY | {"first_filters": 8})
    patch = (32, 32)


class TestCellpose3D(CellposeSuite):
    path = "parfocal.cellpose.network:Cellpose3D"
    parameters = Cellpose3DParameters(**TINY)
    other = Cellpose3DParameters(**TINY, seed=9)
    larger = Cellpose3DParameters(**TINY | {"first_filters": 8})
    patch = (8, 32, 32)
