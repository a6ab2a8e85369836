"""What the tiny methods share: a learner that knows one number, and its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.methods.arrays import load_arrays, save_arrays
from parfocal.runtime.methods.implementation import Arrays, Batch, Implementation, ModelView
from parfocal.runtime.methods.parameters import TrainingParameters
from parfocal.runtime.store.facts import Facts


class FixedLearner:
    """A number that its output is multiplied with; training leaves it as it is."""

    def __init__(self, apply: Callable[[NDArray[np.float32]], NDArray[Any]]) -> None:
        self.factor = np.ones(1)
        self._apply = apply

    def predict_batch(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the output for a batch of tiles, channels last."""
        output: NDArray[np.float32] = (self._apply(inputs) * self.factor[0]).astype(np.float32)
        return output

    def begin_epoch(self, epoch: int, learning_rate: float) -> None:
        """Nothing is random."""

    def train_batch(self, batch: Batch) -> dict[str, float]:  # noqa: ARG002
        """Return that there is no loss."""
        return {"loss": 0.0}

    def validate_batch(self, batch: Batch) -> dict[str, float]:  # noqa: ARG002
        """Return that there is no loss."""
        return {"loss": 0.0}

    def weights(self) -> dict[str, NDArray[Any]]:
        """Return the number."""
        return {"factor": self.factor.copy()}

    def set_weights(self, weights: Arrays) -> None:
        """Replace the number."""
        self.factor = np.array(weights["factor"])

    def state(self) -> dict[str, NDArray[Any]]:
        """Return nothing, for there is nothing else."""
        return {}

    def set_state(self, state: Arrays) -> None:
        """Nothing is kept besides the number."""


class Fixed(Implementation[TrainingParameters, FixedLearner]):
    """Building and keeping the learner; what it does with a tile is `apply_tile`."""

    def apply_tile(self, tile: NDArray[np.float32]) -> NDArray[Any]:
        """Return the output of the network for a batch of tiles."""
        return tile

    def build(self, parameters: TrainingParameters, facts: Facts) -> FixedLearner:  # noqa: ARG002
        """Return the learner."""
        return FixedLearner(self.apply_tile)

    def save(self, folder: Path, parameters: TrainingParameters, facts: Facts, weights: Mapping[str, Arrays]) -> None:  # noqa: ARG002
        """Write the numbers."""
        for name, arrays in weights.items():
            save_arrays(folder / f"{name}.npz", arrays)

    def load(self, folder: Path, model: ModelView, weights: str) -> FixedLearner:
        """Return the learner with its number."""
        learner = self.build(model.parameters, model.facts)
        learner.set_weights(load_arrays(folder / f"{weights}.npz"))
        return learner
