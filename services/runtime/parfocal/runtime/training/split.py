"""Split of the images into a training and a validation set.

Images are held out whole: patches of one image share its staining, its focus and often its very structures, so a
validation loss taken on patches of a training image says little about the next image. Only where holding out a
whole image would cost too much of the data is a block held out instead, with a gap, a record and a warning.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from parfocal.runtime.datasets.findings import some
from parfocal.runtime.errors import InvalidInputError, InvalidParameterError, Violation


class Region(BaseModel):
    """A block of one image, or all of it: pixels `start` (included) to `stop` (excluded) along each axis.

    `index` is the image's place in the list that was split, `stem` its name, which stays true when the list changes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int
    stem: str
    start: tuple[int, ...]
    stop: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Length per axis in pixels."""
        return tuple(stop - start for start, stop in zip(self.start, self.stop, strict=True))


LARGEST_PART: Final = 2**24
"""The most pixels of what is held out that are looked at in one piece."""


def parts(regions: Iterable[Region], most_pixels: int = LARGEST_PART) -> Iterator[Region]:
    """Yield the regions, those that are larger than `most_pixels` in parts of even size, which cover them once."""
    for region in regions:
        counts = [1] * len(region.shape)
        while math.prod(-(-length // count) for length, count in zip(region.shape, counts, strict=True)) > most_pixels:
            longest = int(np.argmax([length / count for length, count in zip(region.shape, counts, strict=True)]))
            counts[longest] += 1
        edges = [
            [start + length * number // count for number in range(count + 1)]
            for start, length, count in zip(region.start, region.shape, counts, strict=True)
        ]
        for place in np.ndindex(*counts):
            bounds = [(each[number], each[number + 1]) for each, number in zip(edges, place, strict=True)]
            start, stop = zip(*bounds, strict=True)
            yield region.model_copy(update={"start": start, "stop": stop})


class Split(BaseModel):
    """Training and validation set, as recorded in the model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Literal["image", "block", "frames"]
    seed: int
    validation_fraction: float
    training: tuple[Region, ...]
    validation: tuple[Region, ...]
    warnings: tuple[str, ...] = ()


def split_images(
    stems: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    *,
    validation_fraction: float,
    patch_shape: Sequence[int],
    seed: int,
) -> Split:
    """Divide images into training and validation.

    With n images, ``round(validation_fraction * n)`` of them, and at least one, are held out whole, as long as that
    leaves the loss of training data within twice the wanted fraction (n >= 5 for 0.1). With fewer images one
    contiguous block is held out at an end of each image that is large enough, along one axis, and a gap of one
    patch beside it is used by neither. The result depends on the names and the seed, not on the order of the list.

    Parameters
    ----------
    stems
        Names of the images, each once.
    shapes
        Length along the axes of the patch in pixels, per image.
    validation_fraction
        The wanted share of validation, above 0 and below 1.
    patch_shape
        The patch in pixels; its last two axes are Y and X.
    seed
        Seed of the random choice.

    Raises
    ------
    InvalidInputError
        An image is smaller than the patch, or the images are too few and too small to hold anything out.
    InvalidParameterError
        The fraction is out of range.
    """
    if not 0 < validation_fraction < 1:
        text = f"{validation_fraction} is not between 0 and 1"
        raise InvalidParameterError(f"validation_fraction: {text}", [Violation("validation_fraction", text)])
    if not stems or len(set(stems)) != len(stems) or len(shapes) != len(stems):
        raise ValueError("split_images needs images with different names and one shape for each")
    patch = tuple(patch_shape)
    _check_sizes(stems, shapes, patch)
    ordered = sorted(range(len(stems)), key=lambda index: stems[index])
    whole = [Region(index=i, stem=stems[i], start=(0,) * len(patch), stop=tuple(shapes[i])) for i in ordered]
    rng = np.random.default_rng(seed)
    if held_out := _whole_images(len(stems), validation_fraction):
        return _by_image(whole, held_out, validation_fraction, seed, rng)
    return _by_block(whole, patch, validation_fraction, seed, rng)


def split_stacks(
    stems: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    *,
    validation_fraction: float,
    patch_shape: Sequence[int],
    seed: int,
) -> Split:
    """Divide stacks of frames into training and validation; regions have the axes T, Y and X.

    Whole stacks are held out as `split_images` does. Where they are too few for that, the last frames of each stack
    are: emitters blink, so that frames which are not neighbours show different ones.

    Parameters
    ----------
    stems, validation_fraction, patch_shape, seed
        See `split_images`; patches are cut from single frames.
    shapes
        Shape of each stack (T, Y, X) in pixels.

    Raises
    ------
    InvalidInputError
        A stack is smaller than the patch, or nothing can be held out.
    """
    planes = [shape[1:] for shape in shapes]
    frames = [max(1, round(validation_fraction * shape[0])) for shape in shapes]
    if _whole_images(len(stems), validation_fraction) or any(
        held_out >= shape[0] for held_out, shape in zip(frames, shapes, strict=True)
    ):
        split = split_images(stems, planes, validation_fraction=validation_fraction, patch_shape=patch_shape, seed=seed)

        def in_time(region: Region) -> Region:
            first, last = (0, *region.start), (shapes[region.index][0], *region.stop)
            return region.model_copy(update={"start": first, "stop": last})

        regions = {name: tuple(map(in_time, getattr(split, name))) for name in ("training", "validation")}
        return split.model_copy(update=regions)
    _check_sizes(stems, planes, tuple(patch_shape))
    ordered = sorted(range(len(stems)), key=lambda index: stems[index])
    training, validation = [], []
    for index in ordered:
        length, *plane = shapes[index]
        stop = length - frames[index]
        kept = Region(index=index, stem=stems[index], start=(0, 0, 0), stop=(stop, *plane))
        training.append(kept)
        validation.append(kept.model_copy(update={"start": (stop, 0, 0), "stop": (length, *plane)}))
    warning = (
        f"There are too few stacks ({len(stems)}) to hold one out: validation uses the last frames of "
        f"{'the stack' if len(stems) == 1 else 'each stack'}. The validation loss will be lower than on new stacks: "
        "add stacks of other samples."
    )
    return Split(
        by="frames",
        seed=seed,
        validation_fraction=validation_fraction,
        training=tuple(training),
        validation=tuple(validation),
        warnings=(warning,),
    )


def _check_sizes(stems: Sequence[str], shapes: Sequence[tuple[int, ...]], patch: tuple[int, ...]) -> None:
    """Raise InvalidInputError if a patch does not fit into each image."""
    small = [stem for stem, shape in zip(stems, shapes, strict=True) if any(np.less(shape, patch))]
    if small:
        raise InvalidInputError(
            f"{some(sorted(small))}: smaller than a patch of {_by(patch)} pixels. "
            "Choose a smaller patch or leave these images out.",
            [Violation(stem, f"smaller than a patch of {_by(patch)} pixels") for stem in small],
        )


def _whole_images(count: int, fraction: float) -> int:
    """Return how many of so many images are held out whole; 0 if that would cost too much of the training data."""
    held_out = max(1, round(fraction * count))
    # Half a unit of slack so that 5 images at 0.1 count as within twice the fraction in floating point.
    return held_out if held_out < count and held_out <= 2 * fraction * count + 1e-9 else 0


def _by_image(whole: list[Region], held_out: int, fraction: float, seed: int, rng: np.random.Generator) -> Split:
    chosen = {int(place) for place in rng.permutation(len(whole))[:held_out]}
    warnings = []
    if held_out == 1:
        name = whole[next(iter(chosen))].stem
        warnings.append(
            f"The validation loss rests on a single image ({name}): with more images it would be more reliable."
        )
    return Split(
        by="image",
        seed=seed,
        validation_fraction=fraction,
        training=tuple(region for place, region in enumerate(whole) if place not in chosen),
        validation=tuple(region for place, region in enumerate(whole) if place in chosen),
        warnings=tuple(warnings),
    )


def _by_block(
    whole: list[Region], patch: tuple[int, ...], fraction: float, seed: int, rng: np.random.Generator
) -> Split:
    training, validation = [], []
    for region in whole:
        at_end = bool(rng.integers(2))
        axis = _axis_to_cut(region.shape, patch)
        if axis is None:
            training.append(region)
            continue
        length, gap = region.shape[axis], patch[axis]
        block = min(max(gap, round(fraction * length)), length - 2 * gap)  # leaves a gap and a patch to train on
        start, stop = list(region.start), list(region.stop)
        if at_end:
            start[axis], stop[axis] = length - block, length - block - gap
        else:
            stop[axis], start[axis] = block, block + gap
        held = {"start": tuple(start)} if at_end else {"stop": tuple(stop)}
        kept = {"stop": tuple(stop)} if at_end else {"start": tuple(start)}
        validation.append(region.model_copy(update=held))
        training.append(region.model_copy(update=kept))
    if not validation:
        least = " or ".join(f"{3 * length}" for length in sorted(set(patch)))
        raise InvalidInputError(
            f"There are too few images ({len(whole)}) to hold one out, and none is large enough to hold out a part of "
            f"it: one side must be at least three patches long ({least} pixels). Add images or choose a smaller patch.",
            [Violation("patch_size", f"no image is three patches of {_by(patch)} long")],
        )
    warning = (
        f"There are too few images ({len(whole)}) to hold one out: validation uses a block of "
        f"{'the image' if len(whole) == 1 else 'each large enough image'}, one patch away from the training part. The "
        "validation loss will be lower than on new images: add images from other samples."
    )
    return Split(
        by="block",
        seed=seed,
        validation_fraction=fraction,
        training=tuple(training),
        validation=tuple(validation),
        warnings=(warning,),
    )


def _axis_to_cut(shape: tuple[int, ...], patch: tuple[int, ...]) -> int | None:
    """Choose the axis that is longest in patches; Y or X if possible, as neighbouring planes show the same blur."""
    lateral = range(max(0, len(shape) - 2), len(shape))
    for axes in (lateral, range(lateral.start)):
        fitting = [axis for axis in axes if shape[axis] >= 3 * patch[axis]]
        if fitting:
            return max(fitting, key=lambda axis: shape[axis] / patch[axis])
    return None


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(str(length) for length in shape)
