"""The networks of pix2pix and CycleGAN. Imported by workers only: it loads PyTorch.

Written from the descriptions in Isola et al. (2017) and Zhu et al. (2017) and from the figures of their published code;
none of it is used.
"""

from __future__ import annotations

import itertools

import torch
from torch import nn

_MOST_WIDER = 8
_FIRST_WITH_DROPOUT = 4


class UnetGenerator(nn.Module):
    """The U-Net of pix2pix: strided convolutions down to a pixel, transposed ones up, each level joined by its skip.

    Parameters
    ----------
    inputs, outputs
        Channels.
    filters
        Number of filters of the first level; deeper levels have up to eight times as many.
    depth
        Levels, each of half the size; 8 in the publication.
    """

    def __init__(self, inputs: int, outputs: int, filters: int = 64, depth: int = 8) -> None:
        super().__init__()
        widths = [filters * min(2**level, _MOST_WIDER) for level in range(depth)]
        innermost = depth - 1
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, (above, width) in enumerate(itertools.pairwise([inputs, *widths])):
            steps: list[nn.Module] = [nn.LeakyReLU(0.2)] if level else []
            steps.append(nn.Conv2d(above, width, 4, stride=2, padding=1, bias=False))
            if 0 < level < innermost:
                steps.append(nn.BatchNorm2d(width))
            self.down.append(nn.Sequential(*steps))
        for level, (above, width) in enumerate(itertools.pairwise([outputs, *widths])):
            joined = width if level == innermost else 2 * width
            steps = [nn.ReLU(), nn.ConvTranspose2d(joined, above, 4, stride=2, padding=1, bias=not level)]
            steps.append(nn.BatchNorm2d(above) if level else nn.Tanh())
            if _FIRST_WITH_DROPOUT <= level < innermost:
                steps.append(nn.Dropout(0.5))
            self.up.append(nn.Sequential(*steps))
        self.apply(initialise)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(batch, inputs, Y, X)`` to ``(batch, outputs, Y, X)``, -1 to 1; sides are multiples of 2**depth."""
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
        for level in reversed(range(len(self.up))):
            if level < len(self.up) - 1:
                x = torch.cat([skips[level], x], dim=1)
            x = self.up[level](x)
        return x


class ResnetGenerator(nn.Module):
    """The residual network of CycleGAN: two strided convolutions, residual blocks, two transposed convolutions.

    Parameters
    ----------
    inputs, outputs
        Channels.
    filters
        Number of filters of the first level; the two below have twice and four times as many.
    blocks
        Residual blocks of two convolutions each; 9 in the publication for images of 256 pixels.
    """

    def __init__(self, inputs: int, outputs: int, filters: int = 64, blocks: int = 9) -> None:
        super().__init__()
        wide = 4 * filters
        steps: list[nn.Module] = [Reflected(3), nn.Conv2d(inputs, filters, 7), *_normalised(filters)]
        for width in (filters, 2 * filters):
            steps += [nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), *_normalised(2 * width)]
        steps += [_ResidualBlock(wide) for _ in range(blocks)]
        for width in (wide, 2 * filters):
            steps.append(nn.ConvTranspose2d(width, width // 2, 3, stride=2, padding=1, output_padding=1))
            steps += _normalised(width // 2)
        self.body = nn.Sequential(*steps, Reflected(3), nn.Conv2d(filters, outputs, 7), nn.Tanh())
        self.apply(initialise)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(batch, inputs, Y, X)`` to ``(batch, outputs, Y, X)``, -1 to 1; sides are multiples of 4, from 8."""
        result: torch.Tensor = self.body(x)
        return result


class PatchDiscriminator(nn.Module):
    """Tells made from real images, by windows of 70 x 70 pixels.

    Parameters
    ----------
    inputs
        Channels.
    filters
        Number of filters of the first of five layers.
    instance_norm
        Normalise each image by itself, as CycleGAN does, and not whole batches.
    """

    def __init__(self, inputs: int, filters: int = 64, *, instance_norm: bool = False) -> None:
        super().__init__()
        norm = nn.InstanceNorm2d if instance_norm else nn.BatchNorm2d
        steps: list[nn.Module] = [nn.Conv2d(inputs, filters, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for width, stride in ((filters, 2), (2 * filters, 2), (4 * filters, 1)):
            steps.append(nn.Conv2d(width, 2 * width, 4, stride=stride, padding=1, bias=instance_norm))
            steps += [norm(2 * width), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*steps, nn.Conv2d(8 * filters, 1, 4, padding=1))
        self.apply(initialise)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(batch, inputs, Y, X)`` to ``(batch, 1, Y / 8 - 2, X / 8 - 2)``, one number for each window."""
        result: torch.Tensor = self.body(x)
        return result


class Reflected(nn.Module):
    """Padding by reflection, whose gradients are the same each time: those of PyTorch's own are not on a GPU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(batch, channels, Y, X)`` with `width` more pixels on each side; sides must be longer than that."""
        for axis in (-2, -1):
            length = x.shape[axis]
            before = x.narrow(axis, 1, self.width).flip(axis)
            after = x.narrow(axis, length - 1 - self.width, self.width).flip(axis)
            x = torch.cat([before, x, after], dim=axis)
        return x


class _ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        first, second = ([Reflected(1), nn.Conv2d(width, width, 3)] for _ in range(2))
        self.body = nn.Sequential(*first, *_normalised(width), *second, nn.InstanceNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = x + self.body(x)
        return result


def _normalised(width: int) -> list[nn.Module]:
    return [nn.InstanceNorm2d(width), nn.ReLU()]


def initialise(module: nn.Module) -> None:
    """Draw weights as the publications did: N(0, 0.02), those of batch normalisation N(1, 0.02), biases 0."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
