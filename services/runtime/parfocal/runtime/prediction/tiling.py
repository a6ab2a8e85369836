"""Images of any size through a network of one size: tiles in, one seamless image out.

All tiles are equal, so a network is compiled once; they lie on a grid of the network's divisor, so pooling sees the
same groups of pixels as it would in the whole image. Nothing is cropped: images are padded by reflection to a legal
size and cut back to their own. Networks whose output at a pixel depends on the whole tile (instance normalisation) have
no exact tiles: theirs overlap by half and fade into each other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.errors import DamagedError, OutOfMemoryError
from parfocal.runtime.images.scratch import IN_MEMORY, Scratch, release
from parfocal.runtime.methods.implementation import Learner
from parfocal.runtime.methods.outputs import Unit
from parfocal.runtime.methods.steps import AllSteps, Steps
from parfocal.runtime.prediction.pace import in_network

Predict = Callable[[NDArray[Any]], NDArray[Any]]
_WIDEST_BLEND = 16


class TileLearner(Learner, Protocol):
    """A learner whose network turns tiles into tiles."""

    def predict_batch(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the network's output for a batch, channels last."""


@dataclass(frozen=True)
class Geometry:
    """How a network may be applied piece by piece: legal sizes, and how far an output pixel sees.

    Attributes
    ----------
    divisor
        The axes of an input must be multiples of this many pixels: one number for all, or one for each.
    overlap
        Pixels by which neighbouring tiles must overlap so that tiled equals untiled, likewise.
    output_channels
        Channels of the raw output.
    scale
        How many pixels of the output one of the input becomes, likewise; 0 where the output has no such axis, which
        tiles then hold whole.
    exact
        Whether an output pixel depends on nothing beyond `overlap`. It is not so with instance normalisation: such
        tiles overlap by half and fade into each other.
    """

    divisor: int | tuple[int, ...]
    overlap: int | tuple[int, ...]
    output_channels: int
    scale: int | tuple[int, ...] = 1
    exact: bool = True

    def scales(self, axes: str) -> tuple[int, ...]:
        """Return the scale along each of the axes of an image."""
        return per_axis(self.scale, len(axes))


@dataclass(frozen=True)
class Tiling:
    """How an image is to be cut for a network, and whom to tell.

    Attributes
    ----------
    most_pixels
        The most pixels that a tile may have.
    on_tile
        Called with the tiles done and all of them; may raise to end the prediction.
    scratch
        Where a network's output lies, which may be several times as large as the image.
    steps
        What does the tiles where several jobs share them.
    """

    most_pixels: int
    on_tile: Callable[[int, int], None] | None = None
    scratch: Scratch = IN_MEMORY
    steps: Steps | None = None

    @classmethod
    def of(cls, unit: Unit) -> Tiling:
        """Return how a unit is to be cut."""
        return cls(unit.most_pixels, unit.report, unit.scratch, unit.steps)


class Pixels(Protocol):
    """An image of which parts can be had: an array, or something that reads or normalises them when asked."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of all axes in pixels."""

    def __getitem__(self, window: tuple[slice, ...], /) -> NDArray[Any]:
        """Return the pixels in a window along the first axes."""


@dataclass(frozen=True)
class _Axis:
    """The tiles along one axis of the padded image, and each tile's weights, which add up to 1 at every pixel.

    `scale` is how many pixels of the output one of the input becomes; 0 where the output has no such axis.
    """

    scale: int
    length: int
    before: int
    padded: int
    tile: int
    starts: tuple[int, ...]
    weights: tuple[NDArray[np.float32], ...]


def predict_tiled(
    predict: Predict,
    image: Pixels,
    *,
    tile_shape: Sequence[int],
    overlap: int | Sequence[int],
    divisor: int | Sequence[int],
    scale: int | Sequence[int] = 1,
    exact: bool = True,
    batch_size: int = 1,
    output_channels: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    scratch: Scratch = IN_MEMORY,
    steps: Steps | None = None,
) -> NDArray[np.float32]:
    """Apply a network to an image tile by tile.

    Of each tile, the `overlap` outermost pixels at its inner edges, which lack context, are given no weight; over
    up to 16 pixels further in, neighbouring tiles fade into each other along a raised cosine. A network that looks
    no further than `overlap` pixels therefore gives the same result tiled and whole. Where that is never so (`exact` is
    False) tiles overlap by half, and fade into each other over all of it that has context.

    When memory runs out the batch is halved down to one tile, then the tile along its longest axis down to the
    smallest that still has something to contribute; then the image is started again.

    Parameters
    ----------
    predict
        Maps ``(batch, *tile)`` to ``(batch, *tile)``, or to ``(batch, *tile, output_channels)``; the lengths of a tile
        come back times `scale`.
    image
        YX or ZYX, with any further (channel) axes behind the axes of the tile.
    tile_shape
        The wanted tile in pixels; rounded up to the divisor and to the smallest tile of which the overlap leaves
        something, and down to the padded image.
    overlap
        How far the network looks, in pixels, per axis or for all.
    divisor
        Tile lengths must be multiples of it, per axis or for all (e.g. 2**depth).
    scale
        How many pixels of the output one of the input becomes, per axis or for all. 0: the output has no such axis,
        and tiles hold all of it.
    exact
        Whether the network's output at a pixel depends on nothing beyond `overlap`.
    batch_size
        The most tiles per call; fewer where that spreads the tiles evenly over the calls.
    output_channels
        Length of the channel axis that the network adds behind, if any.
    progress
        Called with the number of tiles done and of all tiles.
    scratch
        Where the result lies.
    steps
        What does the tiles where several jobs share them, which then are not made smaller when memory runs out.

    Returns
    -------
    NDArray
        float32, of the image's spatial shape times `scale` and, where there are, `output_channels`.

    Raises
    ------
    OutOfMemoryError
        Even the smallest tile needs more memory than there is.
    """
    count = len(tile_shape)
    overlaps, divisors, scales = (per_axis(each, count) for each in (overlap, divisor, scale))
    wanted = tuple(tile_shape)
    while True:
        planned = zip(image.shape, wanted, overlaps, divisors, scales, strict=False)
        axes = [_plan(length, *along, exact=exact) for length, *along in planned]
        try:
            return _run(predict, image, axes, batch_size, output_channels, progress, scratch, steps or AllSteps())
        except (MemoryError, OutOfMemoryError) as error:
            tile = tuple(axis.tile for axis in axes)
            if steps is not None:
                raise out_of_memory_in_part(tile) from error
            if batch_size > 1 and math.prod(len(axis.starts) for axis in axes) > 1:
                batch_size = max(1, batch_size // 2)
            elif (smaller := _halved(axes, overlaps, divisors, exact=exact)) is not None:
                wanted = smaller
            else:
                raise OutOfMemoryError(
                    f"Prediction ran out of memory even with tiles of {' x '.join(map(str, tile))} pixels. "
                    "Free memory on this machine or use a larger one."
                ) from error


def apply_tiled(learner: TileLearner, image: Pixels, geometry: Geometry, tiling: Tiling) -> NDArray[np.float32]:
    """Return what a network makes of one normalised image of any size, channels last in both."""
    return predict_tiled(
        learner.predict_batch,
        image,
        tile_shape=choose_tile(image.shape[:-1], geometry.divisor, tiling.most_pixels, geometry.scale),
        overlap=geometry.overlap,
        divisor=geometry.divisor,
        scale=geometry.scale,
        exact=geometry.exact,
        output_channels=geometry.output_channels,
        progress=tiling.on_tile,
        scratch=tiling.scratch,
        steps=tiling.steps,
    )


def out_of_memory_in_part(tile: Sequence[int]) -> OutOfMemoryError:
    """Return the error of a job that has too little memory for the tiles of a prediction that it shares with others."""
    return OutOfMemoryError(
        f"Tiles of {' x '.join(map(str, tile))} pixels need more memory than there is. Jobs that share an image must "
        "have the same tiles: choose a smaller tile_size for all of them."
    )


def choose_tile(
    shape: Sequence[int], divisor: int | Sequence[int], max_pixels: int, scale: int | Sequence[int] = 1
) -> tuple[int, ...]:
    """Choose a tile for an image: all of it where it fits, else halved along its longest axis until it does.

    Parameters
    ----------
    shape
        Spatial shape of the image in pixels.
    divisor
        Tile lengths are multiples of it, per axis or for all.
    max_pixels
        The most pixels that a tile may have before or after the network; a tile is never smaller than the divisor.
    scale
        How many pixels of the output one of the input becomes, per axis or for all; an axis with 0 stays whole.
    """
    divisors, scales = per_axis(divisor, len(shape)), per_axis(scale, len(shape))
    tile = [_round_up(length, multiple) for length, multiple in zip(shape, divisors, strict=True)]
    gain = math.prod(max(each, 1) for each in scales)
    parts = [axis for axis in range(len(tile)) if scales[axis]]
    while parts and math.prod(tile) * gain > max_pixels:
        longest = max(parts, key=lambda axis: tile[axis] / divisors[axis])
        if tile[longest] == divisors[longest]:
            break
        tile[longest] = _round_up(tile[longest] // 2, divisors[longest])
    return tuple(tile)


def _run(
    predict: Predict,
    image: Pixels,
    axes: Sequence[_Axis],
    batch_size: int,
    output_channels: int | None,
    progress: Callable[[int, int], None] | None,
    scratch: Scratch,
    steps: Steps,
) -> NDArray[np.float32]:
    channels = () if output_channels is None else (output_channels,)
    places = list(itertools.product(*(range(len(axis.starts)) for axis in axes)))
    calls = math.ceil(len(places) / batch_size)
    size = math.ceil(len(places) / calls)
    groups = [places[first : first + size] for first in range(0, len(places), size)]

    def apply(number: int) -> dict[str, NDArray[np.float32]]:
        group = groups[number]
        tiles = [_cut(image, axes, place) for place in group]
        tiles += tiles[-1:] * (size - len(tiles))  # an incomplete batch would be compiled once more
        batch = np.stack(tiles)
        with in_network():
            values = np.asarray(predict(batch))
        expected = (len(batch), *(axis.tile * axis.scale for axis in axes if axis.scale), *channels)
        if values.shape != expected:
            raise ValueError(f"the network gave {values.shape} for a batch of {batch.shape}, {expected} expected")
        if progress is not None:
            progress(number * size + len(group), len(places))
        # Without what has no weight: it need not be kept.
        return {
            str(at): tile[_counted(axes, place)[1]].astype(np.float32, copy=False)
            for at, (place, tile) in enumerate(zip(group, values, strict=False))
        }

    out: NDArray[np.float32] | None = None
    plan = f"{size} x {' x '.join(f'{axis.tile} of {axis.length} at {axis.starts[-1]}' for axis in axes)}"
    values = size * math.prod(axis.tile * axis.scale for axis in axes if axis.scale) * math.prod(channels)
    most = values * np.dtype(np.float32).itemsize
    for group, found in zip(groups, steps.run(plan, len(groups), apply, most_bytes=most), strict=True):
        if out is None:
            out = scratch.zeros((*(axis.length * axis.scale for axis in axes if axis.scale), *channels), np.float32)
        for place, tile in zip(group, found.values(), strict=True):
            _add(out, tile, axes, place)
        release(out)
    assert out is not None
    return out


def _cut(image: Pixels, axes: Sequence[_Axis], place: tuple[int, ...]) -> NDArray[Any]:
    """Cut one tile; pixels outside the image are mirrored into it, as often as it takes."""
    starts = [axis.starts[number] - axis.before for axis, number in zip(axes, place, strict=True)]
    if all(0 <= start <= axis.length - axis.tile for axis, start in zip(axes, starts, strict=True)):
        return image[tuple(slice(start, start + axis.tile) for axis, start in zip(axes, starts, strict=True))]
    index = []
    for axis, start in zip(axes, starts, strict=True):
        period = max(1, 2 * (axis.length - 1))
        folded = np.arange(start, start + axis.tile) % period
        index.append(np.minimum(folded, period - folded))
    part = image[tuple(slice(int(along.min()), int(along.max()) + 1) for along in index)]
    mirrored: NDArray[Any] = part[np.ix_(*(along - along.min() for along in index))]
    return mirrored


def _counted(axes: Sequence[_Axis], place: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return where the part of a tile that lies in the image and counts is in the output, and in the tile's output."""
    target, source = [], []
    for axis, chosen in zip(axes, place, strict=True):
        if not axis.scale:
            continue
        start = axis.starts[chosen] - axis.before
        counted = np.flatnonzero(axis.weights[chosen])
        low, high = max(int(counted[0]), -start), min(int(counted[-1]) + 1, axis.length - start)
        target.append(slice((start + low) * axis.scale, (start + high) * axis.scale))
        source.append(slice(low * axis.scale, high * axis.scale))
    return tuple(target), tuple(source)


def _add(out: NDArray[np.float32], part: NDArray[np.float32], axes: Sequence[_Axis], place: tuple[int, ...]) -> None:
    """Add the part of a tile that counts, weighted."""
    target, source = _counted(axes, place)
    kept = [(axis, chosen) for axis, chosen in zip(axes, place, strict=True) if axis.scale]
    weights = np.ones((1,) * len(kept), np.float32)
    for number, ((axis, chosen), along) in enumerate(zip(kept, source, strict=True)):
        weight = np.repeat(axis.weights[chosen], axis.scale)[along]
        weights = weights * weight.reshape([-1 if axis_ == number else 1 for axis_ in range(len(kept))])
    if out.ndim > len(kept):
        weights = weights[..., np.newaxis]
    if part.shape != out[target].shape:
        # Only of a part that other jobs have computed; to be spread over the image it could take any memory.
        raise DamagedError(f"A tile of the image has the shape {part.shape} and does not fit. Predict the image again.")
    out[target] += part * weights


def _plan(length: int, wanted: int, overlap: int, divisor: int, scale: int, *, exact: bool) -> _Axis:
    padded = _round_up(length, divisor)
    tile = min(max(_round_up(wanted, divisor), _least_tile(overlap, divisor, exact=exact)), padded)
    before = (padded - length) // 2
    if tile == padded or not scale:
        return _Axis(scale, length, before, padded, padded, (0,), (np.ones(padded, np.float32),))
    if exact:
        blend = min(_WIDEST_BLEND, overlap)
        stride = (tile - 2 * overlap - blend) // divisor * divisor
    else:
        stride = tile // 2 // divisor * divisor
        blend = tile - 2 * overlap - stride
    count = 1 + math.ceil((padded - tile) / stride)
    starts = tuple(min(number * stride, padded - tile) for number in range(count))
    raw = [_ramp(tile, overlap, blend, start == 0, start == padded - tile) for start in starts]
    total = np.zeros(padded)
    for start, weight in zip(starts, raw, strict=True):
        total[start : start + tile] += weight
    weights = tuple((w / total[start : start + tile]).astype(np.float32) for start, w in zip(starts, raw, strict=True))
    return _Axis(scale, length, before, padded, tile, starts, weights)


def _ramp(tile: int, overlap: int, blend: int, at_start: bool, at_end: bool) -> NDArray[np.float64]:
    """Weigh a tile's pixels: 0 in the overlap, then a raised cosine over `blend` pixels, then 1; 1 at image edges."""
    inside = np.arange(tile) - overlap
    rise = 0.5 - 0.5 * np.cos(np.pi * np.clip((inside + 0.5) / max(1, blend), 0, 1))
    rise[inside < 0] = 0
    rise = np.where(inside >= blend, 1.0, rise)
    weight = np.ones(tile)
    if not at_start:
        weight *= rise
    if not at_end:
        weight *= rise[::-1]
    return weight


def _least_tile(overlap: int, divisor: int, *, exact: bool) -> int:
    """Return the smallest legal tile that leaves a stride of at least one divisor, and something to fade in."""
    if not exact:
        return _round_up(4 * overlap + 4 * divisor, divisor)
    return _round_up(2 * overlap + min(_WIDEST_BLEND, overlap) + divisor, divisor)


def _halved(
    axes: Sequence[_Axis], overlaps: Sequence[int], divisors: Sequence[int], *, exact: bool
) -> tuple[int, ...] | None:
    """Halve the tile along the longest axis that allows it; None when none does."""
    tile = tuple(axis.tile for axis in axes)
    for axis in sorted(range(len(tile)), key=lambda axis: -tile[axis]):
        least = _least_tile(overlaps[axis], divisors[axis], exact=exact)
        half = max(_round_up(tile[axis] // 2, divisors[axis]), least)
        if half < tile[axis] and axes[axis].scale:
            return (*tile[:axis], half, *tile[axis + 1 :])
    return None


def per_axis(value: int | Sequence[int], count: int) -> tuple[int, ...]:
    """Return one number for each of so many axes."""
    values = (value,) * count if isinstance(value, int) else tuple(value)
    if len(values) != count:
        raise ValueError(f"{value} does not have one number for each of {count} axes")
    return values


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
