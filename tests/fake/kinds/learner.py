"""A learner in plain numpy: named arrays, their gradients, and Adam."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.methods.implementation import Arrays, Batch

Values = dict[str, NDArray[np.float64]]


class NumpyLearner(ABC):
    """Weights that are trained with Adam; subclasses know losses and gradients.

    Parameters
    ----------
    values
        The first weights.
    seed
        From which, with the epoch, all random choices inside the learner follow.
    pause
        Seconds to wait after each step.
    """

    def __init__(self, values: Mapping[str, Any], seed: int, pause: float) -> None:
        self.values: Values = {name: np.array(value, np.float64) for name, value in values.items()}
        self.rng = np.random.default_rng(seed)
        self._seed, self._pause, self._rate = seed, pause, 0.0
        self._moments: Values = {}
        for name, value in self.values.items():
            self._moments |= {f"first {name}": np.zeros_like(value), f"second {name}": np.zeros_like(value)}
        self._steps = 0

    @abstractmethod
    def losses(self, batch: Batch, *, training: bool) -> tuple[dict[str, float], Values]:
        """Return losses and the gradients of the weights."""

    def begin_epoch(self, epoch: int, learning_rate: float) -> None:
        """Set the learning rate and reseed."""
        self._rate, self.rng = learning_rate, np.random.default_rng([self._seed, epoch])

    def train_batch(self, batch: Batch) -> dict[str, float]:
        """Do one step of Adam."""
        losses, gradients = self.losses(batch, training=True)
        self._steps += 1
        for name, gradient in gradients.items():
            first, second = self._moments[f"first {name}"], self._moments[f"second {name}"]
            first += 0.1 * (gradient - first)
            second += 0.001 * (gradient**2 - second)
            mean, spread = first / (1 - 0.9**self._steps), second / (1 - 0.999**self._steps)
            self.values[name] = self.values[name] - self._rate * mean / (np.sqrt(spread) + 1e-8)
        time.sleep(self._pause)
        return losses

    def validate_batch(self, batch: Batch) -> dict[str, float]:
        """Return the losses."""
        return self.losses(batch, training=False)[0]

    def weights(self) -> dict[str, NDArray[Any]]:
        """Return a copy of the weights."""
        return {name: value.copy() for name, value in self.values.items()}

    def set_weights(self, weights: Arrays) -> None:
        """Replace the weights."""
        if {name: np.shape(value) for name, value in weights.items()} != {
            name: value.shape for name, value in self.values.items()
        }:
            raise InvalidInputError("The weights are not those of this tiny network.")
        self.values = {name: np.array(value, np.float64) for name, value in weights.items()}

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the moments and the step count."""
        return {name: value.copy() for name, value in self._moments.items()} | {"steps": np.array(self._steps)}

    def set_state(self, state: Arrays) -> None:
        """Replace the moments and the step count."""
        self._moments = {name: np.array(state[name]) for name in self._moments}
        self._steps = int(state["steps"])


def neighbours(inputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the nine shifted copies of a batch (B, Y, X, 1) in the last axis of (B, Y, X, 9), edges repeated."""
    planes = np.pad(inputs[..., 0].astype(np.float64), ((0, 0), (1, 1), (1, 1)), mode="edge")
    height, width = inputs.shape[1:3]
    return np.stack([planes[:, y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=-1)
