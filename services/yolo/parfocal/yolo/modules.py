"""The two networks, as PyTorch modules: input (B, channels, Y, X) of multiples of 32 pixels, output on the grid.

Written from the description of the publication and the reference values of the layers; no code of others is used.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

BACKBONE = ("fine.", "coarse.")
"""Prefix of the names of the backbone's weights, which come before the detection layers and may be imported."""

# The standard deviation of the last layer's weights: one over the number of cells of the original.
_HEAD_DEVIATION = 1 / 13**2
_SLOPE = 0.1
_EPSILON = 1e-3


class FullYolo(nn.Module):
    """Darknet-19 without its classifier, two further convolutions, and what is seen in detail joined to them.

    Parameters
    ----------
    channels
        Number of channels of the input.
    outputs
        Anchors times (5 + classes).
    filters
        Number of filters of the first convolution, 32 in the original; the other layers grow in proportion.
    """

    def __init__(self, channels: int, outputs: int, filters: int) -> None:
        super().__init__()
        f = filters
        # A number is the filters of a 3x3 convolution, a negative one those of a 1x1 one, 0 halves the image.
        self.fine = _sequence(
            channels,
            [f, 0, 2 * f, 0, 4 * f, -2 * f, 4 * f, 0, 8 * f, -4 * f, 8 * f, 0, 16 * f, -8 * f, 16 * f, -8 * f, 16 * f],
        )
        self.coarse = _sequence(16 * f, [0, 32 * f, -16 * f, 32 * f, -16 * f, 32 * f])
        self.further = _sequence(32 * f, [32 * f, 32 * f])
        self.detail = _sequence(16 * f, [-2 * f])
        self.merged = _sequence(8 * f + 32 * f, [32 * f])
        self.head = _head(32 * f, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map an image to the raw boxes of its cells."""
        fine = self.fine(x)
        detail = functional.pixel_unshuffle(self.detail(fine), 2)
        result: torch.Tensor = self.head(self.merged(torch.cat([detail, self.further(self.coarse(fine))], dim=1)))
        return result


class TinyYolo(nn.Module):
    """Eight 3x3 convolutions, the first five halving the image; parameters as in `FullYolo`, 16 first filters."""

    def __init__(self, channels: int, outputs: int, filters: int) -> None:
        super().__init__()
        f = filters
        self.fine = _sequence(channels, [f, 0, 2 * f, 0, 4 * f, 0, 8 * f, 0, 16 * f, 0, 32 * f])
        self.further = _sequence(32 * f, [64 * f, 64 * f])
        self.head = _head(64 * f, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map an image to the raw boxes of its cells."""
        # The sixth maximum is over overlapping windows and keeps the size; what lies beyond the border is not larger.
        widest = functional.max_pool2d(functional.pad(self.fine(x), (0, 1, 0, 1), value=-torch.inf), 2, stride=1)
        result: torch.Tensor = self.head(self.further(widest))
        return result


def _sequence(inputs: int, layers: Sequence[int]) -> nn.Sequential:
    modules: list[nn.Module] = []
    for layer in layers:
        if layer == 0:
            modules.append(nn.MaxPool2d(2))
            continue
        outputs, kernel = abs(layer), 3 if layer > 0 else 1
        convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        nn.init.xavier_uniform_(convolution.weight)
        modules += [convolution, nn.BatchNorm2d(outputs, eps=_EPSILON), nn.LeakyReLU(_SLOPE)]
        inputs = outputs
    return nn.Sequential(*modules)


def _head(inputs: int, outputs: int) -> nn.Conv2d:
    head = nn.Conv2d(inputs, outputs, 1)
    nn.init.normal_(head.weight, 0.0, _HEAD_DEVIATION)
    assert head.bias is not None
    nn.init.normal_(head.bias, 0.0, _HEAD_DEVIATION)
    return head
