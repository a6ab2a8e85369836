"""Patches for training and validation, cut on the fly from arrays that may be larger than memory.

The sampler is stateless: a batch is a function of (seed, epoch, step) and of nothing else, whatever was drawn before
and in whichever process. So a resumed training sees exactly the batches it would have seen, nothing but the epoch
needs to be saved, and memory does not grow with the data: of a memory-mapped array only a patch is read at a time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.scratch import blocks, release
from parfocal.runtime.methods.normaliser import Normaliser, NormaliserConstants
from parfocal.runtime.training.augmentation import UNCHANGED, Augmentation, View, Warp, warp_array
from parfocal.runtime.training.split import Region

Targets = NDArray[Any] | tuple[NDArray[Any], ...]
# Draws before a rare object is looked for; until then every place with an object has the same chance.
_FOREGROUND_TRIES = 10
# The largest image whose pages are left in memory once a patch was read.
_MAPPED_BYTES = 2**25


class Patch(NamedTuple):
    """Position of a patch: the image's place in the list and the patch's first pixel along each spatial axis.

    `region` are the first and the end pixel, along each axis, of what may be shown besides by a warped patch.
    """

    image: int
    corner: tuple[int, ...]
    region: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class PatchSampler:
    """Random patches for training, and a fixed grid of patches for validation.

    Parameters
    ----------
    sources
        Raw images, usually memory-mapped.
    targets
        Per image its target, or a tuple of several; None for methods that are trained on the sources alone.
    regions
        The parts of the images to draw from; `Region.index` counts in `sources`.
    patch_shape
        Patch in pixels along the spatial axes.
    patches_per_image
        Draws per region and epoch.
    batch_size
        Patches per batch.
    seed
        Seed of corners, order and augmentation.
    axes, target_axes
        Axes of the source and target arrays. C and S are read whole; the others are the spatial axes. Targets have
        the source's spatial axes unless stated.
    normaliser
        Applied to every array that has constants.
    source_constants
        Per image, the constants of the whole source; None leaves the values as they are.
    target_constants
        The same for the targets: one per image, or a tuple of them (None for labels) where there are several.
    augmentation
        Applied alike to source and targets; None for none.
    foreground_fraction
        Chance that a patch is asked to contain an object of the first target, which is then a label or class image.
    least_label
        The lowest number that counts as an object: 0 where a patch is asked for anything that is annotated.
    fill
        Per image, what warped patches show of the source where they look beyond their region: mirrored objects would
        be objects without annotation. There labels are 0. None mirrors the region.
    magnification
        Factor by which the image is magnified along Y and X, for networks that are shown objects of one size. Below 1,
        a patch shows more than its own length of the image. It applies to validation as well.
    """

    sources: Sequence[NDArray[Any]]
    targets: Sequence[Targets] | None
    regions: Sequence[Region]
    patch_shape: tuple[int, ...]
    patches_per_image: int
    batch_size: int
    seed: int
    axes: str = "YX"
    target_axes: str | None = None
    normaliser: Normaliser = field(default_factory=Normaliser)
    source_constants: Sequence[NormaliserConstants] | None = None
    target_constants: Sequence[NormaliserConstants | tuple[NormaliserConstants | None, ...]] | None = None
    augmentation: Augmentation | None = None
    foreground_fraction: float = 0.0
    least_label: int = 1
    fill: Sequence[float] | None = None
    magnification: float = 1.0

    def __post_init__(self) -> None:
        if not self.regions or min(self.patches_per_image, self.batch_size) < 1:
            raise ValueError("PatchSampler needs a region, a patch per image and a batch of at least one")
        for region in self.regions:
            if len(region.shape) != len(self.patch_shape) or any(np.less(region.shape, self.patch_shape)):
                raise InvalidInputError(
                    f"{region.stem}: its part of {region.shape} pixels is smaller than a patch of {self.patch_shape}. "
                    "Choose a smaller patch."
                )

    @property
    def steps_per_epoch(self) -> int:
        """Batches per epoch; the last one is filled up with further draws, so that all are of one size."""
        return math.ceil(len(self.regions) * self.patches_per_image / self.batch_size)

    def batch(self, epoch: int, step: int) -> tuple[NDArray[np.float32], Targets | None]:
        """Return batch number `step` (from 0) of epoch number `epoch`.

        Returns
        -------
        source : NDArray
            float32, ``(batch, *patch)``, with the channel axis of `axes` where there is one.
        target : NDArray or tuple of NDArray or None
            As the targets were given: normalised float32, or of their own type without constants.

        Raises
        ------
        ValueError
            The step is beyond the epoch.
        """
        source, targets, *_ = self.placed_batch(epoch, step)
        return source, targets

    def placed_batch(
        self, epoch: int, step: int
    ) -> tuple[NDArray[np.float32], Targets | None, list[Patch], list[View]]:
        """Return a batch as `batch` does, where its patches lie, and the change of view that each was given."""
        rng = np.random.default_rng([self.seed, epoch, step + 1])
        patches, changes = self._drawn(rng, epoch, step)
        source, targets = self._read(patches, changes)
        if self.augmentation is not None:
            source = self.augmentation.vary_intensity(rng, source, self.axes)
        return source, targets, patches, changes

    def _drawn(self, rng: np.random.Generator, epoch: int, step: int) -> tuple[list[Patch], list[View]]:
        if not 0 <= step < self.steps_per_epoch:
            raise ValueError(f"step {step} is not in an epoch of {self.steps_per_epoch} steps")
        slots = _slots(self.seed, epoch, len(self.regions), self.patches_per_image)
        numbers = np.arange(step * self.batch_size, (step + 1) * self.batch_size) % len(slots)
        patches = self._draw(rng, slots[numbers])
        if self.augmentation is None:
            return patches, [self._placed(UNCHANGED, patch) for patch in patches]
        draws = rng.integers(8, size=self.batch_size)
        return patches, [
            self._view(patch, draw, np.random.default_rng([self.seed, epoch, step + 1, number]))
            for number, (patch, draw) in enumerate(zip(patches, draws.tolist(), strict=True))
        ]

    def _view(self, patch: Patch, draw: int, rng: np.random.Generator) -> View:
        assert self.augmentation is not None
        return self._placed(self.augmentation.view(draw, (self.patch_shape[-2], self.patch_shape[-1]), rng), patch)

    def _placed(self, view: View, patch: Patch) -> View:
        """Return a view magnified, and moved so far that it shows nothing from beyond the patch's region."""
        warp = view.warp
        if self.magnification != 1:
            warp = warp or Warp((self.patch_shape[-2], self.patch_shape[-1]), np.eye(2), np.zeros(2))
            warp = replace(warp, matrix=warp.matrix / self.magnification)
        return view if warp is None else replace(view, warp=warp.kept_inside(patch.corner[-2:], patch.region[-2:]))

    def validation_batches(self, regions: Sequence[Region], max_patches: int = 512) -> FixedPatches:
        """Return a fixed grid of patches from other regions, cut, normalised and batched alike but never augmented."""
        patches = fixed_patches(regions, self.patch_shape, max_patches)
        if len(patches) > self.batch_size:  # whole batches only, spread over all regions
            patches = _spread(patches, len(patches) // self.batch_size * self.batch_size)
        return FixedPatches(self, patches)

    def _draw(self, rng: np.random.Generator, slots: NDArray[np.int64]) -> list[Patch]:
        """Draw a corner for each slot, again and again where an object is asked for and none is there."""
        regions = [self.regions[slot] for slot in slots]
        starts = np.array([region.start for region in regions])
        room = np.array([region.stop for region in regions]) - starts - self.patch_shape + 1
        corners = starts + rng.integers(room)
        if self.foreground_fraction:
            for number in np.flatnonzero(rng.random(len(slots)) < self.foreground_fraction):
                corners[number] = self._near_object(rng, regions[number], corners[number], room[number])
        return [
            Patch(region.index, tuple(corner), tuple(zip(region.start, region.stop, strict=True)))
            for region, corner in zip(regions, corners.tolist(), strict=True)
        ]

    def _near_object(
        self, rng: np.random.Generator, region: Region, corner: NDArray[np.int64], room: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return a corner whose patch holds an object, if there is one: by chance or else around one of its pixels."""
        assert self.targets is not None
        given = self.targets[region.index]
        labels = given[0] if isinstance(given, tuple) else given
        for _ in range(_FOREGROUND_TRIES):
            window = tuple(slice(first, first + length) for first, length in zip(corner, self.patch_shape, strict=True))
            if np.any(labels[window] >= self.least_label):
                return corner
            corner = region.start + rng.integers(room)
        part = labels[tuple(slice(*bounds) for bounds in zip(region.start, region.stop, strict=True))]
        pixel = _pixel_above(part, self.least_label, rng)
        if pixel is not None:
            offset = pixel - rng.integers(self.patch_shape)
            corner = region.start + np.clip(offset, 0, room - 1)
        return corner

    def _read(self, patches: Sequence[Patch], changes: Sequence[View]) -> tuple[NDArray[np.float32], Targets | None]:
        """Cut, change and normalise; without targets None takes their place."""
        target_axes = self.target_axes or "".join(axis for axis in self.axes if axis not in "CS")
        rows = []
        for patch, change in zip(patches, changes, strict=True):
            given = () if self.targets is None else self.targets[patch.image]
            arrays = [self.sources[patch.image], *(given if isinstance(given, tuple) else (given,))]
            axes = [self.axes] + [target_axes] * (len(arrays) - 1)
            constants = self._constants(patch.image, len(arrays))
            views = [
                # Of targets, only images have constants.
                change.turn(self._cut(patch, change, *each, nearest=number > 0 and constants[number] is None), each[1])
                for number, each in enumerate(zip(arrays, axes, strict=True))
            ]
            for array in arrays:
                if array.nbytes > _MAPPED_BYTES:
                    # Patches from all over the image would come to hold it whole.
                    release(array)
            rows.append(
                [
                    view if constant is None else self.normaliser.apply(view, constant)
                    for view, constant in zip(views, constants, strict=True)
                ]
            )
        source, *targets = (np.stack(column) for column in zip(*rows, strict=True))
        source = source.astype(np.float32, copy=False)
        if self.targets is None:
            return source, None
        return source, tuple(targets) if isinstance(self.targets[0], tuple) else targets[0]

    def _cut(self, patch: Patch, change: View, array: NDArray[Any], axes: str, *, nearest: bool) -> NDArray[Any]:
        window = self._window(patch.corner, axes)
        if change.warp is None:
            return np.asarray(array)[window]
        fill = None if self.fill is None else 0.0 if nearest else self.fill[patch.image]
        return warp_array(array, axes, window, patch.region[-2:], change.warp, nearest=nearest, fill=fill)

    def _window(self, corner: tuple[int, ...], axes: str) -> tuple[slice, ...]:
        spatial = iter(zip(corner, self.patch_shape, strict=True))
        window = []
        for axis in axes:
            if axis in "CS":
                window.append(slice(None))
            else:
                start, length = next(spatial)
                window.append(slice(start, start + length))
        return tuple(window)

    def _constants(self, image: int, count: int) -> tuple[NormaliserConstants | None, ...]:
        source = self.source_constants[image] if self.source_constants is not None else None
        if self.target_constants is None:
            return (source, *[None] * (count - 1))
        given = self.target_constants[image]
        return (source, *(given if isinstance(given, tuple) else (given,)))


@dataclass(frozen=True)
class FixedPatches:
    """The same patches in every epoch, read again each time: ``len(...)`` batches, numbered from 0."""

    sampler: PatchSampler
    patches: Sequence[Patch]

    def __len__(self) -> int:
        return math.ceil(len(self.patches) / self.sampler.batch_size)

    def batch(self, step: int) -> tuple[NDArray[np.float32], Targets | None]:
        """Return batch number `step`, as `PatchSampler.batch` does but for the random changes."""
        places = self.places(step)
        return self.sampler._read(places, [self.sampler._placed(UNCHANGED, place) for place in places])

    def places(self, step: int) -> Sequence[Patch]:
        """Return where the patches of a batch lie."""
        if not 0 <= step < len(self):
            raise ValueError(f"step {step} is not in {len(self)} validation steps")
        size = self.sampler.batch_size
        return self.patches[step * size : (step + 1) * size]


def fixed_patches(regions: Sequence[Region], patch_shape: Sequence[int], max_patches: int) -> list[Patch]:
    """Lay a grid of patches over regions, evenly spread and without overlap; thin it out evenly above `max_patches`."""
    patches = []
    for region in regions:
        corners = [
            # As many patches as fit, from edge to edge.
            np.linspace(start, stop - length, max(1, (stop - start) // length)).astype(int).tolist()
            for start, stop, length in zip(region.start, region.stop, patch_shape, strict=True)
        ]
        grid = np.stack(np.meshgrid(*corners, indexing="ij"), axis=-1).reshape(-1, len(corners))
        bounds = tuple(zip(region.start, region.stop, strict=True))
        patches += [Patch(region.index, tuple(corner), bounds) for corner in grid.tolist()]
    return _spread(patches, max_patches)


def _spread(patches: list[Patch], most: int) -> list[Patch]:
    if len(patches) <= most:
        return patches
    return [patches[place] for place in np.linspace(0, len(patches) - 1, most).round().astype(int)]


def _pixel_above(labels: NDArray[Any], least: int, rng: np.random.Generator) -> NDArray[np.int64] | None:
    """Return the place of one of the pixels that have this label or a higher one, each as likely; None without any."""
    counts = []
    for window in blocks(labels.shape):
        counts.append(int(np.count_nonzero(labels[window] >= least)))
        release(labels)
    if not sum(counts):
        return None
    number = int(rng.integers(sum(counts)))
    for window, count in zip(blocks(labels.shape), counts, strict=True):
        if number < count:
            inside = np.argwhere(labels[window] >= least)[number]
            return np.asarray(inside + [each.start for each in window])
        number -= count
    raise AssertionError("the label image changed")


@functools.lru_cache(maxsize=4)
def _slots(seed: int, epoch: int, regions: int, draws: int) -> NDArray[np.int64]:
    """Every region `draws` times, in an order of its own for each epoch."""
    order = np.random.default_rng([seed, epoch, 0]).permutation(np.repeat(np.arange(regions), draws))
    order.flags.writeable = False
    return order
