"""The network of NAME. Imported by workers only: it loads PyTorch."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from parfocal.NAME.parameters import NAMEParameters
from parfocal.runtime.bases.images import ImageImplementation
from parfocal.runtime.frameworks.torch import SupervisedLearner, TorchFiles, prepare
from parfocal.runtime.prediction.tiling import Geometry
from parfocal.runtime.store.facts import Facts


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


class NAME2D(TorchFiles, ImageImplementation[NAMEParameters, SupervisedLearner]):
    """What the runtime's training and prediction drive."""

    def build(self, parameters: NAMEParameters, facts: Facts) -> SupervisedLearner:  # noqa: ARG002
        """Return a new network with its optimiser and loss."""
        prepare(parameters.seed)
        module = NAMEModule(parameters.layers)
        optimiser = torch.optim.Adam(module.parameters(), lr=parameters.learning_rate)
        return SupervisedLearner(module, optimiser, nn.functional.mse_loss, parameters.seed, self.device)

    def geometry(self, parameters: NAMEParameters, facts: Facts) -> Geometry:  # noqa: ARG002
        """Return how far an output pixel sees: one pixel for each convolution."""
        return Geometry(divisor=1, overlap=parameters.layers + 1, output_channels=1)
