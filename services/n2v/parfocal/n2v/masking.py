"""Blind spots: the pixels that a network must predict without seeing them, and what it sees in their place.

Krull, Buchholz and Jug, "Noise2Void" (CVPR 2019); Höck, Buchholz, Brachmann, Jug and Freytag, "N2V2" (ECCV workshops
2022); Broaddus, Krull, Weigert, Schmidt and Myers, "Removing structured noise with self-supervised blind-spot networks"
(ISBI 2020). Written from the publications; the values are those of n2v's manipulators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

# What structN2V puts into the pixels around a blind spot, in standard deviations of the image.
_STRUCT_RANGE: Final = (-2.0, 2.0)


@dataclass(frozen=True)
class Spots:
    """Blind spots in a stack of patches.

    Attributes
    ----------
    patch
        (N,): the number of each one's patch.
    place
        (N, dimensions): its pixel in the patch.
    """

    patch: NDArray[np.intp]
    place: NDArray[np.intp]

    @property
    def index(self) -> tuple[NDArray[np.intp], ...]:
        """Layer that takes the pixels out of the stack."""
        return (self.patch, *self.place.T)


@dataclass(frozen=True)
class Masking:
    """Rule by which pixels are hidden.

    Attributes
    ----------
    percent
        Percentage of the pixels that are blind spots.
    replacement
        "uniform": any pixel around the blind spot, itself included; "median": that of the pixels around it, without it.
    radius
        Radius of the neighbourhood in pixels along each axis; smaller at the border of a patch.
    hidden
        (M, dimensions): pixels relative to each blind spot that are hidden besides (structN2V); none otherwise.
    """

    percent: float
    replacement: Literal["uniform", "median"]
    radius: int
    hidden: NDArray[np.intp]

    def apply(
        self, rng: np.random.Generator, patches: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return patches with hidden pixels, and 1 in their blind spots, 0 elsewhere.

        Parameters
        ----------
        rng
            Source of all random choices.
        patches
            float32 (patches, *shape), each a single channel in standard deviations.
        """
        spots = draw_spots(rng, len(patches), patches.shape[1:], self.percent)
        if self.replacement == "median":
            values = median_around(patches, spots, self.radius)
        else:
            values = uniform_around(rng, patches, spots, self.radius)
        masked = patches.copy()
        if len(self.hidden):
            hide_around(rng, masked, spots, self.hidden)
        masked[spots.index] = values
        mask = np.zeros_like(patches)
        mask[spots.index] = 1
        return masked, mask


def draw_spots(rng: np.random.Generator, patches: int, shape: Sequence[int], percent: float) -> Spots:
    """Return blind spots, evenly spread: one anywhere in each box of a grid laid over a patch.

    A box has 100 / `percent` pixels, whatever number of dimensions, and its sides need not be whole, so that the
    share of blind spots is what it is said to be. A patch has at least one.

    Parameters
    ----------
    rng
        Source of the draw.
    patches, shape
        Number of patches, and the shape of one in pixels.
    percent
        Percentage of the pixels that are blind spots.
    """
    side = (100 / percent) ** (1 / len(shape))
    boxes = [int(np.ceil(length / side)) for length in shape]
    corners = np.stack(np.meshgrid(*map(np.arange, boxes), indexing="ij"), axis=-1).reshape(-1, len(shape))
    drawn = ((corners + rng.random((patches, *corners.shape))) * side).astype(np.intp)
    inside = np.all(drawn < np.asarray(shape), axis=-1)
    without = np.flatnonzero(~inside.any(axis=1))
    drawn[without, 0], inside[without, 0] = rng.integers(shape, size=(len(without), len(shape))), True
    return Spots(np.nonzero(inside)[0], drawn[inside])


def uniform_around(
    rng: np.random.Generator, patches: NDArray[np.float32], spots: Spots, radius: int
) -> NDArray[np.float32]:
    """Return for each blind spot a pixel drawn from those within `radius`, itself included, as float32 (N,)."""
    low = np.maximum(spots.place - radius, 0)
    high = np.minimum(spots.place + radius + 1, patches.shape[1:])
    chosen = low + (rng.random(low.shape) * (high - low)).astype(np.intp)
    return np.asarray(patches[(spots.patch, *chosen.T)])


def median_around(patches: NDArray[np.float32], spots: Spots, radius: int) -> NDArray[np.float32]:
    """Return for each blind spot the median of the pixels within `radius`, without itself, as float32 (N,)."""
    offsets = hidden_pixels(np.ones((2 * radius + 1,) * (patches.ndim - 1)))
    places = spots.place[:, np.newaxis] + offsets
    inside = np.all((places >= 0) & (places < patches.shape[1:]), axis=-1)
    places = np.clip(places, 0, np.asarray(patches.shape[1:]) - 1)
    values = patches[(spots.patch[:, np.newaxis], *np.moveaxis(places, -1, 0))]
    ordered = np.sort(np.where(inside, values, np.inf), axis=1)
    count, rows = inside.sum(axis=1), np.arange(len(ordered))
    return np.asarray((ordered[rows, (count - 1) // 2] + ordered[rows, count // 2]) / 2, np.float32)


def hide_around(rng: np.random.Generator, patches: NDArray[np.float32], spots: Spots, hidden: NDArray[np.intp]) -> None:
    """Put uniform random numbers into the pixels around each blind spot; those beyond a patch move to its edge.

    Parameters
    ----------
    rng
        Source of the numbers, from -2 to 2.
    patches
        float32 (patches, *shape); changed in place.
    spots
        The blind spots.
    hidden
        (M, dimensions): which pixels, relative to a blind spot.
    """
    places = np.clip(spots.place[:, np.newaxis] + hidden, 0, np.asarray(patches.shape[1:]) - 1)
    index = (spots.patch[:, np.newaxis], *np.moveaxis(places, -1, 0))
    patches[index] = rng.uniform(*_STRUCT_RANGE, size=places.shape[:2])


def struct_mask(axes: str, direction: str, length: int) -> NDArray[np.uint8]:
    """Return the mask of structN2V: 1 in every pixel that is hidden, the blind spot in its middle included.

    Parameters
    ----------
    axes
        Axes of a patch, e.g. "ZYX".
    direction
        The axes along which the mask extends, in lower case: "x", "y" or "xy" (a square).
    length
        Number of pixels that are hidden together; odd.
    """
    return np.ones([length if axis.lower() in direction else 1 for axis in axes], np.uint8)


def hidden_pixels(mask: NDArray[Any]) -> NDArray[np.intp]:
    """Return the pixels of a mask with odd sides that are 1, but for its middle, relative to that; (M, dimensions)."""
    places = np.argwhere(mask) - np.asarray(mask.shape) // 2
    return np.asarray(places[np.any(places != 0, axis=1)], np.intp)
