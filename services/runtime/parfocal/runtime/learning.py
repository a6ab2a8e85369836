"""What training and prediction need of a framework and of a method: two protocols and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
Predictor = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class Learner(Protocol):
    """A network with its loss and optimiser, whatever framework it is made of.

    Batches have the method's axes with a leading batch axis and a trailing channel axis, float32. The state is
    complete: after `restore` training goes on bit for bit as if it had never stopped.
    """

    learning_rate: float

    def train_batch(self, inputs: NDArray[np.float32], targets: NDArray[np.float32]) -> float:
        """Do one step of optimisation and return the loss of the batch before it."""

    def validate_batch(self, inputs: NDArray[np.float32], targets: NDArray[np.float32]) -> float:
        """Return the loss of a batch without learning from it."""

    def predict_batch(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the network's output for a batch."""

    def weights(self) -> dict[str, NDArray[Any]]:
        """Return a copy of all weights."""

    def set_weights(self, weights: Arrays) -> None:
        """Replace all weights; raise InvalidInputError if they are of another network."""

    def optimiser_state(self) -> dict[str, NDArray[Any]]:
        """Return a copy of all variables of the optimiser."""

    def set_optimiser_state(self, state: Arrays) -> None:
        """Replace all variables of the optimiser."""


@dataclass(frozen=True)
class Geometry:
    """How a network may be applied piece by piece: legal sizes, and how far an output pixel sees.

    Attributes
    ----------
    divisor
        Every axis of an input must be a multiple of this many pixels.
    overlap
        Pixels by which neighbouring tiles must overlap so that tiled equals untiled.
    output_channels
        Channels of the raw output.
    """

    divisor: int
    overlap: int
    output_channels: int


class Implementation(Protocol):
    """One method, as the runtime drives it in a worker."""

    def build(self, parameters: Any) -> Learner:
        """Return a new network with random weights that follow from `parameters.seed`."""

    def geometry(self, parameters: Any) -> Geometry:
        """Return how the network of these parameters may be tiled."""

    def save(self, folder: Path, parameters: Any, best: Arrays, last: Arrays) -> None:
        """Write the model's files to `folder`, so that `load` and the original library can read them."""

    def load(self, folder: Path, parameters: Any, weights: str) -> Learner:
        """Return the network saved in `folder` with its "best" or "last" weights. Never runs code of the files."""

    def interpret(self, output: NDArray[np.float32], parameters: Any) -> dict[str, tuple[NDArray[np.float32], bool]]:
        """Return the named images in a raw output (channels last), first the prediction.

        The flag says whether the offset applies when grey values are restored: it does for intensities, not for
        widths such as an uncertainty.
        """
