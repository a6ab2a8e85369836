"""Batches of images that are annotated with boxes or coordinates instead of other images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.datasets.boxes import Boxes, check_boxes
from parfocal.runtime.datasets.coordinates import Localisations, check_coordinates
from parfocal.runtime.datasets.view import DatasetView
from parfocal.runtime.images.drift import training_statistics
from parfocal.runtime.images.files import PixelSize
from parfocal.runtime.methods.implementation import Batch, Example, Opened, TrainingDataRecord, ValidationImage
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.store.facts import Facts, Port
from parfocal.runtime.training.data import PatchSettings, augmentation, channels_last, normalised_port
from parfocal.runtime.training.sampler import FixedPatches, Patch, PatchSampler
from parfocal.runtime.training.split import Region, Split, split_images

P = TypeVar("P", bound=PatchSettings)
A = TypeVar("A")
Turn = Callable[[NDArray[Any]], NDArray[Any]]
"""Moves points (N, 2), y and x in pixels of a patch, to where they are after a change of view."""
Cut = Callable[[A, tuple[int, ...], tuple[int, ...], Turn], A]
"""Returns what of an annotation lies between a first and an end pixel (Y, X), in pixels of this part, turned."""


@dataclass(frozen=True)
class AnnotatedBatches(Generic[A]):
    """Batches of patches whose targets are, for each patch, what is annotated in it.

    Attributes
    ----------
    role
        Role of the inputs.
    sampler, validation
        Cut the patches; both have no targets of their own.
    annotations
        Of each image.
    cut
        Cuts an annotation as the sampler cuts the image.
    """

    role: str
    sampler: PatchSampler
    validation: FixedPatches
    annotations: Sequence[A]
    cut: Cut[A]

    @property
    def steps_per_epoch(self) -> int:
        """Training batches in an epoch."""
        return self.sampler.steps_per_epoch

    @property
    def validation_steps(self) -> int:
        """Validation batches."""
        return len(self.validation)

    def batch(self, epoch: int, step: int) -> Batch:
        """Return a training batch; its targets are a list with an annotation for each patch."""
        patches, turns = self.sampler.places(epoch, step)
        return self._batch(self.sampler.batch(epoch, step)[0], patches, turns)

    def validation_batch(self, step: int) -> Batch:
        """Return a validation batch."""
        patches = self.validation.places(step)
        return self._batch(self.validation.batch(step)[0], patches, [0] * len(patches))

    def _batch(self, inputs: NDArray[np.float32], patches: Sequence[Patch], turns: Sequence[int]) -> Batch:
        targets = [self._target(patch, turn) for patch, turn in zip(patches, turns, strict=True)]
        pixels = np.ascontiguousarray(channels_last(inputs, "B" + self.sampler.axes))
        return Batch({self.role: pixels}, targets, len(inputs))

    def _target(self, patch: Patch, number: int) -> A:
        shape = self.sampler.patch_shape
        end = tuple(first + length for first, length in zip(patch.corner, shape, strict=True))

        def turn(points: NDArray[Any]) -> NDArray[Any]:
            if self.sampler.augmentation is None:
                return points
            return self.sampler.augmentation.turn_points(number, points, (shape[0], shape[1]))

        return self.cut(self.annotations[patch.image], patch.corner, end, turn)


def open_boxes(data: DatasetView, parameters: P, normaliser: Normaliser) -> Opened[P]:
    """Return images with boxes; a patch has the boxes whose middle lies in it.

    Raises
    ------
    InvalidInputError
        An image or annotation is not usable; all that are wrong are named.
    DiskFullError
        The cache cannot take the images.
    """
    roles = parameters.roles(data.manifest)
    source, target = roles.source, roles.targets[0]
    folder, axes = data.fetch(source, target), data.manifest.select("train", source)[0].axes
    report = check_boxes(
        folder / source, folder / target, axes=axes, classes=data.manifest.classes, min_images=data.minimum_images
    )
    for warning in dict.fromkeys(report.warnings):
        data.warn(warning)
    images = [each.image for each in report.images]
    split = _split(data, parameters, [image.stem for image in images], [each.shape for each in report.images])
    data.progress("decoding the images")
    return _opened(
        parameters,
        normaliser,
        axes=axes,
        target=Port(role=target, kind="boxes", classes=len(data.manifest.classes)),
        names=[image.stem for image in images],
        sources=[data.decode(image.path) for image in images],
        annotations=[each.arrays(data.manifest.classes) for each in report.images],
        cut=cut_boxes,
        split=split,
        source=source,
        pixel_size=images[0].pixel_size,
    )


def open_coordinates(data: DatasetView, parameters: P, normaliser: Normaliser) -> Opened[P]:
    """Return the frames of stacks, each an image of its own, with the emitters located in them.

    Raises
    ------
    InvalidInputError
        A stack or table is not usable; all that are wrong are named.
    DiskFullError
        The cache cannot take the images.
    """
    roles = parameters.roles(data.manifest)
    source, target = roles.source, roles.targets[0]
    folder = data.fetch(source, target)
    report = check_coordinates(folder / source, folder / target, min_images=data.minimum_images)
    for warning in dict.fromkeys(report.warnings):
        data.warn(warning)
    images = [stack.image for stack in report.stacks]
    split = _split(data, parameters, [image.stem for image in images], [image.shape[1:] for image in images])
    data.progress("decoding the images")
    names, frames, annotations, first = [], [], [], [0]
    for stack in report.stacks:
        pixels, located = data.decode(stack.image.path), stack.localisations()
        for number in range(len(pixels)):
            names.append(f"{stack.image.stem}, frame {number}")
            frames.append(pixels[number])
            annotations.append(located.of_frame(number))
        first.append(len(frames))

    def in_frames(regions: Sequence[Region]) -> tuple[Region, ...]:
        return tuple(
            region.model_copy(update={"index": frame})
            for region in regions
            for frame in range(first[region.index], first[region.index + 1])
        )

    by_frame = split.model_copy(
        update={"training": in_frames(split.training), "validation": in_frames(split.validation)}
    )
    opened = _opened(
        parameters,
        normaliser,
        axes=data.axes,
        target=Port(role=target, kind="points"),
        names=names,
        sources=frames,
        annotations=annotations,
        cut=cut_localisations,
        split=by_frame,
        source=source,
        pixel_size=images[0].pixel_size,
    )
    # What is recorded is how stacks were divided, not thousands of frames.
    return replace(opened, record=replace(opened.record, split=split.model_dump(mode="json")))


def cut_boxes(boxes: Boxes, start: tuple[int, ...], end: tuple[int, ...], turn: Turn) -> Boxes:
    """Return the boxes whose middle lies in a part of the image, clipped to it."""
    middle = (boxes.corners[:, :2] + boxes.corners[:, 2:]) / 2
    inside = np.all((middle >= start) & (middle < end), axis=1)
    corners = boxes.corners[inside]
    clipped = np.clip(corners, [*start, *start], [*end, *end])
    opposite = [turn(part - np.array(start, np.float32)) for part in (clipped[:, :2], clipped[:, 2:])]
    return Boxes(
        np.concatenate([np.minimum(*opposite), np.maximum(*opposite)], axis=1).astype(np.float32),
        boxes.classes[inside],
        boxes.difficult[inside],
        boxes.truncated[inside] | np.any(clipped != corners, axis=1),
    )


def cut_localisations(
    located: Localisations, start: tuple[int, ...], end: tuple[int, ...], turn: Turn
) -> Localisations:
    """Return the emitters in a part of a frame."""
    places = np.stack([located.y, located.x], axis=1)
    inside = np.all((places >= start) & (places < end), axis=1)
    moved = turn(places[inside] - np.array(start))
    return Localisations(
        located.frame[inside],
        moved[:, 0],
        moved[:, 1],
        located.intensity[inside],
        None if located.uncertainty is None else located.uncertainty[inside],
    )


def _split(data: DatasetView, parameters: P, stems: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> Split:
    split = split_images(
        stems,
        shapes,
        validation_fraction=parameters.validation_fraction,
        patch_shape=parameters.patch_shape(data.axes),
        seed=parameters.seed,
    )
    for warning in split.warnings:
        data.warn(warning)
    return split


def _opened(
    parameters: P,
    normaliser: Normaliser,
    *,
    axes: str,
    target: Port,
    names: Sequence[str],
    sources: Sequence[NDArray[Any]],
    annotations: Sequence[A],
    cut: Cut[A],
    split: Split,
    source: str,
    pixel_size: PixelSize | None,
) -> Opened[P]:
    letter = next((axis for axis in axes if axis not in "ZYX"), "")
    plain = axes.replace(letter, "C") if letter else axes
    constants = [normaliser.fit(image, plain) for image in sources]
    sampler = PatchSampler(
        sources=sources,
        targets=None,
        regions=split.training,
        patch_shape=parameters.patch_shape(plain.replace("C", "")),
        patches_per_image=parameters.patches_per_image,
        batch_size=parameters.batch_size,
        seed=parameters.seed,
        axes=plain,
        normaliser=normaliser,
        source_constants=constants,
        augmentation=augmentation(parameters),
    )

    def validation_images() -> Iterator[ValidationImage]:
        for region in split.validation:
            spatial = iter(slice(start, stop) for start, stop in zip(region.start, region.stop, strict=True))
            window = tuple(slice(None) if axis in "CS" else next(spatial) for axis in plain)
            pixels = normaliser.apply(np.asarray(sources[region.index])[window], constants[region.index])
            annotation = cut(annotations[region.index], region.start, region.stop, lambda points: points)
            yield ValidationImage(names[region.index], {source: channels_last(pixels, plain)}, annotation)

    statistics = training_statistics(sources)
    channels = sources[0].shape[axes.index(letter)] if letter else 1
    return Opened(
        AnnotatedBatches(source, sampler, sampler.validation_batches(split.validation), annotations, cut),
        parameters,
        Facts(inputs=(normalised_port(source, constants, channels),), targets=(target,)),
        TrainingDataRecord(
            split=split.model_dump(mode="json"),
            statistics=statistics.model_dump() if statistics is not None else {},
            pixel_size_um=(pixel_size.x, pixel_size.y, pixel_size.z) if pixel_size else None,
            examples=(Example(names[0], source, sources[0]),),
        ),
        validation_images,
    )
