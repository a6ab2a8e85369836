"""The network of Deep-STORM and its loss. Imported by workers only: it loads PyTorch.

Written from the description in Nehme et al., Optica 5, 458-464 (2018), doi:10.1364/OPTICA.5.000458, and its published
settings; no code of the original is used.
"""

from __future__ import annotations

import torch
from torch import nn

from parfocal.deepstorm.heatmaps import kernel

DIVISOR = 8
"""Side lengths of the upsampled frame are multiples of this many fine pixels: three poolings."""
SIGHT = 30
"""Fine pixels: how far an output depends on the input. Seven convolutions of 3 at scales 1, 2, 4, 8, 4, 2 and 1 make
22, and the borders of the blocks of the poolings up to 8 more."""


class DeepStormModule(nn.Module):
    """An encoder and a decoder without skips, applied to a frame whose pixels are repeated.

    Parameters
    ----------
    upsampling
        Number of times each pixel is repeated along both axes.
    filters
        Number of filters of the first stage; the others have 2, 4 and 16 times as many.
    """

    def __init__(self, upsampling: int, filters: int) -> None:
        super().__init__()
        self.upsampling = upsampling
        widths = [filters, 2 * filters, 4 * filters, 16 * filters, 4 * filters, 2 * filters, filters]
        self.stages = nn.ModuleList(_stage(i, o) for i, o in zip([1, *widths[:-1]], widths, strict=True))
        self.output = nn.Conv2d(filters, 1, 1, bias=False)
        self.apply(_initialise)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map frames (B, 1, Y, X) to (B, 1, Y * upsampling, X * upsampling), whose sides are multiples of 8."""
        x = nn.functional.interpolate(x, scale_factor=self.upsampling, mode="nearest")
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number < 3:
                x = nn.functional.max_pool2d(x, 2)
            elif number < 6:
                x = nn.functional.interpolate(x, scale_factor=2, mode="nearest")
        result: torch.Tensor = self.output(x)
        return result


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    # Normalisation with the constant of Keras, which the publication used.
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs, eps=1e-3), nn.ReLU()
    )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.orthogonal_(module.weight)


def deep_storm_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error of the blurred output plus the mean of its absolute values.

    Parameters
    ----------
    output
        (B, 1, Y, X): spikes of the network.
    target
        (B, 1, Y, X): heat map.
    """
    profile = torch.from_numpy(kernel()).to(output)
    blurred = nn.functional.conv2d(output, 2 * profile.view(1, 1, -1, 1), padding=(len(profile) // 2, 0))
    blurred = nn.functional.conv2d(blurred, profile.view(1, 1, 1, -1), padding=(0, len(profile) // 2))
    return nn.functional.mse_loss(blurred, target) + output.abs().mean()
