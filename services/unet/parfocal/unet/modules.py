"""The networks of the U-Nets. Imported by workers only: it loads PyTorch.

Written from a description of the networks in the notebooks U-Net 2D and U-Net 3D of ZeroCostDL4Mic (MIT), which follow
Ronneberger et al. (2015) and Çiçek et al. (2016); no code of theirs is used.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

_DROPOUT = 0.5
# The first level, from 0, behind which activations are dropped in training.
_DROPOUT_FROM = 3


class Unet2D(nn.Module):
    """The U-Net of the notebook for images.

    Two convolutions of 3x3 at each level; on the way up nearest neighbours are repeated and smoothed by a convolution
    of 2x2. As in the notebook nothing is activated at the top of the way up, and the last convolution of 3x3 has two
    filters for each output.

    Parameters
    ----------
    inputs, outputs
        Channels.
    filters
        Number of filters of the first level; each level below has twice as many.
    poolings
        Number of times the image is halved.
    """

    def __init__(self, inputs: int, outputs: int, filters: int, poolings: int) -> None:
        super().__init__()
        widths = [filters * 2**level for level in range(poolings + 1)]
        before = [inputs, *widths[:-1]]
        self.down = nn.ModuleList(
            nn.Sequential(*_activated(nn.Conv2d, i, o), *_activated(nn.Conv2d, o, o))
            for i, o in zip(before, widths, strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.drop = nn.Dropout(_DROPOUT)
        self.smooth = nn.ModuleList(nn.Conv2d(2 * width, width, 2) for width in widths[:-1])
        self.up = nn.ModuleList(
            nn.Sequential(*_activated(nn.Conv2d, 2 * width, width), *_activated(nn.Conv2d, width, width))
            for width in widths[1:-1]
        )
        self.top = nn.Sequential(
            nn.Conv2d(2 * filters, filters, 3, padding=1),
            nn.Conv2d(filters, filters, 3, padding=1),
            nn.Conv2d(filters, 2 * outputs, 3, padding=1),
        )
        self.output = nn.Conv2d(2 * outputs, outputs, 1)
        _initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(batch, inputs, Y, X)`` to logits ``(batch, outputs, Y, X)``; Y and X are multiples of 2**poolings."""
        skips = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else self.pool(x))
            if level >= _DROPOUT_FROM:
                x = self.drop(x)
            skips.append(x)
        for level in reversed(range(len(skips) - 1)):
            # The kernel of 2 has its first pixel in place, as in Keras: it is filled up on the right and below.
            x = self.smooth[level](nn.functional.pad(nn.functional.interpolate(x, scale_factor=2.0), (0, 1, 0, 1)))
            x = torch.cat([skips[level], torch.relu(x) if level else x], dim=1)
            x = self.up[level - 1](x) if level else self.top(x)
        result: torch.Tensor = self.output(x)
        return result


class Unet3D(nn.Module):
    """The U-Net of the notebook for volumes, whose way down may leave some levels as high as they are.

    At each level a convolution of 3x3x3 with f filters and one with 2f; on the way up transposed convolutions.

    Parameters
    ----------
    inputs, outputs
        Channels.
    filters
        Number of filters of the first convolution.
    strides
        Factors (1 or 2) along Z, Y and X by which each pooling shrinks the volume, from the top.
    """

    def __init__(self, inputs: int, outputs: int, filters: int, strides: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        levels = range(len(strides) + 1)
        widths = [filters * 2**level for level in levels]
        before = [inputs, *(2 * width for width in widths[:-1])]
        self.strides = tuple(strides)
        self.down = nn.ModuleList(_block(i, width) for i, width in zip(before, widths, strict=True))
        self.grow = nn.ModuleList()
        self.up = nn.ModuleList()
        below = 2 * widths[-1]
        for level in reversed(levels[:-1]):
            stride, width = strides[level], widths[level]
            self.grow.append(nn.ConvTranspose3d(below, width, stride, stride=stride))
            self.up.append(_block(3 * width, width))
            below = 2 * width
        self.output = nn.Conv3d(below, outputs, 1)
        _initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(batch, inputs, Z, Y, X)`` to logits ``(batch, outputs, Z, Y, X)``; lengths divide by the strides."""
        skips = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else _pooled(x, self.strides[level - 1]))
            skips.append(x)
        for skip, grow, up in zip(reversed(skips[:-1]), self.grow, self.up, strict=True):
            x = up(torch.cat([grow(x), skip], dim=1))
        result: torch.Tensor = self.output(x)
        return result


def _pooled(x: torch.Tensor, stride: tuple[int, ...]) -> torch.Tensor:
    """Return the maxima along the axes that a stride halves; unlike PyTorch's its gradient is repeatable on GPUs."""
    for axis, step in enumerate(stride, start=2):
        if step == 2:
            even, odd = x.unflatten(axis, (-1, 2)).unbind(axis + 1)
            x = torch.maximum(even, odd)
    return x


def _block(inputs: int, filters: int) -> nn.Sequential:
    return nn.Sequential(*_activated(nn.Conv3d, inputs, filters), *_activated(nn.Conv3d, filters, 2 * filters))


def _activated(kind: type[nn.Conv2d] | type[nn.Conv3d], inputs: int, outputs: int) -> tuple[nn.Module, nn.Module]:
    return kind(inputs, outputs, 3, padding=1), nn.ReLU()


def _initialise(module: Unet2D | Unet3D) -> None:
    """Draw weights by He et al. (2015), those of the last convolution by Glorot and Bengio (2010); biases are 0."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose3d)):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    nn.init.xavier_uniform_(module.output.weight)
