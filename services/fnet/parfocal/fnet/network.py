"""The fnet network. What is not fnet belongs to the runtime. Imported by workers only: it loads PyTorch.

Written from the description in Ounkomol et al. (2018) and its supplement; no code of the original is used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from parfocal.fnet.parameters import FnetParameters
from parfocal.runtime.bases.images import ImageImplementation
from parfocal.runtime.frameworks.torch import SupervisedLearner, TorchFiles, prepare
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.prediction.tiling import Geometry
from parfocal.runtime.store.facts import Facts

LEVELS = 4
_CONVOLUTION: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORM: dict[int, Any] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class FnetModule(nn.Module):
    """The U-Net of fnet: four strided convolutions down, four transposed ones up, each level joined by its skip.

    Parameters
    ----------
    spatial
        2 or 3 dimensions.
    inputs, outputs
        Channels.
    filters
        Number of filters of the first level; every level below has twice as many.
    """

    def __init__(self, spatial: int, inputs: int, outputs: int, filters: int) -> None:
        super().__init__()
        widths = [filters * 2**level for level in range(LEVELS + 1)]
        before = [inputs, *widths[:-1]]
        self.down = nn.ModuleList(_pair(spatial, i, o) for i, o in zip(before, widths, strict=True))
        self.shrink = nn.ModuleList(_block(_CONVOLUTION[spatial], spatial, w, w, 2, 2) for w in widths[:-1])
        self.grow = nn.ModuleList(_block(_TRANSPOSED[spatial], spatial, 2 * w, w, 2, 2) for w in widths[:-1])
        self.up = nn.ModuleList(_pair(spatial, 2 * w, w) for w in widths[:-1])
        self.output = _CONVOLUTION[spatial](filters, outputs, 3, padding=1)
        self.apply(_initialise)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(batch, inputs, *spatial)`` to ``(batch, outputs, *spatial)``; lengths must be multiples of 16."""
        skips = []
        for level in range(LEVELS):
            skips.append(self.down[level](x))
            x = self.shrink[level](skips[-1])
        x = self.down[LEVELS](x)
        for level in reversed(range(LEVELS)):
            x = self.up[level](torch.cat([skips[level], self.grow[level](x)], dim=1))
        result: torch.Tensor = self.output(x)
        return result


def _block(kind: Any, spatial: int, inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    convolution = kind(inputs, outputs, kernel, stride=stride, padding=kernel // 2 if stride == 1 else 0)
    return nn.Sequential(convolution, _NORM[spatial](outputs), nn.ReLU())


def _pair(spatial: int, inputs: int, outputs: int) -> nn.Sequential:
    kind = _CONVOLUTION[spatial]
    return nn.Sequential(_block(kind, spatial, inputs, outputs, 3, 1), _block(kind, spatial, outputs, outputs, 3, 1))


def _initialise(module: nn.Module) -> None:
    """Draw weights as the publication did: N(0, 0.02), those of batch normalisation N(1, 0.02), biases 0."""
    if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class Fnet(TorchFiles, ImageImplementation[FnetParameters, SupervisedLearner]):
    """fnet with its mean squared error on z-scores. Subclasses say how many dimensions."""

    spatial: int
    normaliser = Normaliser(rule="z-score")
    grey_values_of = "target"

    def build(self, parameters: FnetParameters, facts: Facts) -> SupervisedLearner:
        """Return a new network with the publication's optimiser."""
        prepare(parameters.seed)
        module = FnetModule(self.spatial, facts.input_channels, len(facts.targets), parameters.first_filters)
        optimiser = torch.optim.Adam(module.parameters(), lr=parameters.learning_rate, betas=(0.5, 0.999))
        return SupervisedLearner(module, optimiser, nn.functional.mse_loss, parameters.seed, self.device)

    def geometry(self, parameters: FnetParameters, facts: Facts) -> Geometry:  # noqa: ARG002
        """Return sizes and overlap.

        The farthest pixel an output could depend on is 93 away; what comes from beyond 32 changes trained networks'
        output by less than a hundredth of the target's standard deviation (tests/fnet).
        """
        return Geometry(divisor=2**LEVELS, overlap=32, output_channels=len(facts.targets))


class Fnet2D(Fnet):
    """fnet for single planes."""

    spatial = 2


class Fnet3D(Fnet):
    """fnet for volumes."""

    spatial = 3
