"""The network of NAME. Imported by workers only: it loads PyTorch."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from parfocal.NAME.parameters import NAMEParameters
from parfocal.runtime.frameworks.torch import TorchLearner, load_weights, prepare, save_weights
from parfocal.runtime.methods.implementation import Arrays, Channels, Geometry, ImageImplementation


class NAMEModule(nn.Module):
    """A row of convolutions whose output is added to the input."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        widths = [1] + [16] * layers
        steps: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            steps += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
        self.body = nn.Sequential(*steps, nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(batch, 1, Y, X)`` to the same."""
        result: torch.Tensor = x + self.body(x)
        return result


class NAME2D(ImageImplementation):
    """What the runtime's training and prediction drive."""

    def build(self, parameters: NAMEParameters, channels: Channels) -> TorchLearner:  # noqa: ARG002
        """Return a new network with its optimiser and loss."""
        prepare(parameters.seed)
        module = NAMEModule(parameters.layers)
        optimiser = torch.optim.Adam(module.parameters(), lr=parameters.learning_rate)
        return TorchLearner(module, optimiser, nn.functional.mse_loss, parameters.precision)

    def geometry(self, parameters: NAMEParameters, channels: Channels) -> Geometry:  # noqa: ARG002
        """Return how far an output pixel sees: one pixel for each convolution."""
        return Geometry(divisor=1, overlap=parameters.layers + 1, output_channels=1)

    def save(
        self,
        folder: Path,
        parameters: NAMEParameters,  # noqa: ARG002
        channels: Channels,  # noqa: ARG002
        best: Arrays,
        last: Arrays,
    ) -> None:
        """Write the weights as safetensors files."""
        save_weights(folder / "weights_best.safetensors", best)
        save_weights(folder / "weights_last.safetensors", last)

    def load(self, folder: Path, parameters: NAMEParameters, channels: Channels, weights: str) -> TorchLearner:
        """Return the saved network; only arrays are read from the files."""
        learner = self.build(parameters, channels)
        learner.set_weights(load_weights(folder / f"weights_{weights}.safetensors"))
        return learner

    def interpret(
        self,
        output: NDArray[np.float32],
        parameters: NAMEParameters,  # noqa: ARG002
        channels: Channels,  # noqa: ARG002
    ) -> dict[str, tuple[NDArray[np.float32], bool]]:
        """Return the only channel as the prediction, in grey values."""
        return {"prediction": (output[..., 0], True)}
