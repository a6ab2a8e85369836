"""Batches of images that are annotated with boxes or coordinates instead of other images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.datasets.boxes import Boxes, BoxReport, check_boxes
from parfocal.runtime.datasets.coordinates import Localisations, check_coordinates
from parfocal.runtime.datasets.findings import Notes, file_name
from parfocal.runtime.datasets.view import DatasetView
from parfocal.runtime.errors import InvalidInputError, Violation
from parfocal.runtime.images.drift import training_statistics
from parfocal.runtime.images.files import PixelSize
from parfocal.runtime.images.scratch import release
from parfocal.runtime.methods.implementation import Batch, Example, Opened, TrainingDataRecord, ValidationImage
from parfocal.runtime.methods.normaliser import Normaliser, NormaliserConstants
from parfocal.runtime.store.facts import Facts, Port
from parfocal.runtime.training.augmentation import UNCHANGED, View, moved_box
from parfocal.runtime.training.batches import channels_last
from parfocal.runtime.training.data import PatchSettings, augmentation, backgrounds, normalised_port
from parfocal.runtime.training.sampler import FixedPatches, Patch, PatchSampler
from parfocal.runtime.training.split import Region, Split, parts, split_images, split_stacks

P = TypeVar("P", bound=PatchSettings)
A = TypeVar("A")
Cut = Callable[[A, Patch, tuple[int, int], View], A]
"""Returns what of an annotation a patch of a shape (Y, X) shows, in pixels of the patch."""


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
        Annotations of each image.
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
        inputs, _, patches, views = self.sampler.placed_batch(epoch, step)
        return self._batch(inputs, patches, views)

    def validation_batch(self, step: int) -> Batch:
        """Return a validation batch."""
        patches = self.validation.places(step)
        return self._batch(self.validation.batch(step)[0], patches, [UNCHANGED] * len(patches))

    def _batch(self, inputs: NDArray[np.float32], patches: Sequence[Patch], views: Sequence[View]) -> Batch:
        shape = (self.sampler.patch_shape[0], self.sampler.patch_shape[1])
        targets = [
            self.cut(self.annotations[patch.image], patch, shape, view)
            for patch, view in zip(patches, views, strict=True)
        ]
        pixels = np.ascontiguousarray(channels_last(inputs, "B" + self.sampler.axes))
        return Batch({self.role: pixels}, targets, len(inputs))


def open_boxes(
    data: DatasetView,
    parameters: P,
    normaliser: Normaliser,
    *,
    classes: Sequence[str] = (),
    least_side: float = 0.0,
) -> Opened[P]:
    """Return images with boxes; a patch has the boxes whose middle lies in it.

    Parameters
    ----------
    data, parameters, normaliser
        The dataset, and how it is cut and normalised.
    classes
        The classes to train on, whose order is that of the indices in `Boxes.classes`; empty: all of the dataset.
    least_side
        Shortest side in pixels; smaller boxes are left out.

    Raises
    ------
    InvalidInputError
        An image or annotation is not usable; all that are wrong are named. Or no box is left to be trained on.
    DiskFullError
        The cache cannot take the images.
    """
    roles = parameters.roles(data.manifest)
    source, target = roles.source, roles.targets[0]
    folder, axes = data.fetch(source, target), data.manifest.select("train", source)[0].axes
    report = check_boxes(
        *(folder / source, folder / target),
        axes=axes,
        classes=data.manifest.classes,
        min_images=data.minimum_images,
        reading=data.reading,
    )
    for warning in dict.fromkeys(report.warnings):
        data.warn(warning)
    images = [each.image for each in report.images]
    chosen = tuple(classes) or data.manifest.classes
    annotations = _chosen(data, report, chosen, least_side)
    split = _split(data, parameters, [image.stem for image in images], [each.shape for each in report.images])
    data.progress("decoding the images")
    return _opened(
        parameters,
        normaliser,
        axes=axes,
        target=Port(role=target, kind="boxes", classes=len(chosen)),
        names=[image.stem for image in images],
        sources=[data.decode(image.path) for image in images],
        annotations=annotations,
        cut=cut_boxes,
        split=split,
        source=source,
        pixel_size=images[0].pixel_size,
    )


def open_coordinates(data: DatasetView, parameters: P, normaliser: Normaliser) -> Opened[P]:
    """Return the frames of stacks, each an image of its own, with the emitters located in them.

    With the rule "stack" all frames of a stack are normalised alike, with other rules each by itself.

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
    report = check_coordinates(folder / source, folder / target, min_images=data.minimum_images, reading=data.reading)
    for warning in dict.fromkeys(report.warnings):
        data.warn(warning)
    images = [stack.image for stack in report.stacks]
    split = split_stacks(
        [image.stem for image in images],
        [image.shape for image in images],
        validation_fraction=parameters.validation_fraction,
        patch_shape=parameters.patch_shape(data.axes),
        seed=parameters.seed,
    )
    for warning in split.warnings:
        data.warn(warning)
    data.progress("decoding the images")
    names, frames, annotations, first = [], [], [], [0]
    constants: list[NormaliserConstants] = []
    for stack in report.stacks:
        pixels, located = data.decode(stack.image.path), stack.localisations()
        if normaliser.rule == "stack":
            constants += [normaliser.fit(pixels, "TYX")] * len(pixels)
        for number in range(len(pixels)):
            names.append(f"{stack.image.stem}, frame {number}")
            frames.append(pixels[number])
            annotations.append(located.of_frame(number))
        first.append(len(frames))

    def in_frames(regions: Sequence[Region]) -> tuple[Region, ...]:
        return tuple(
            Region(index=first[region.index] + frame, stem=region.stem, start=region.start[1:], stop=region.stop[1:])
            for region in regions
            for frame in range(region.start[0], region.stop[0])
        )

    by_frame = split.model_copy(
        update={"training": in_frames(split.training), "validation": in_frames(split.validation)}
    )
    opened = _opened(
        parameters,
        normaliser,
        axes=data.axes.replace("T", ""),
        target=Port(role=target, kind="points"),
        names=names,
        sources=frames,
        annotations=annotations,
        cut=cut_localisations,
        split=by_frame,
        source=source,
        pixel_size=images[0].pixel_size,
        constants=constants,
    )
    # What is recorded is how stacks were divided, not thousands of frames.
    return replace(opened, record=replace(opened.record, split=split.model_dump(mode="json")))


def _chosen(data: DatasetView, report: BoxReport, classes: Sequence[str], least_side: float) -> list[Boxes]:
    """Return the boxes of each image that are of some classes and not too small, with the indices of these classes."""
    index = np.array([classes.index(name) if name in classes else -1 for name in data.manifest.classes], np.int64)
    notes, annotations = Notes(), []
    for each in report.images:
        boxes = each.arrays(data.manifest.classes)
        wanted = index[boxes.classes] >= 0
        small = np.any(boxes.corners[:, 2:] - boxes.corners[:, :2] < least_side, axis=1) & wanted
        if small.any():
            text = f"Boxes with a side of less than {least_side:g} pixels were left out"
            notes.add(text, file_name(each.image.path), int(small.sum()))
        kept = boxes.select(wanted & ~small)
        annotations.append(replace(kept, classes=index[kept.classes]))
    for text in notes.texts():
        data.warn(text)
    if not any(len(each.corners) for each in annotations):
        raise InvalidInputError(
            f"No image has a box of {', '.join(classes)} that can be trained on. Choose other classes, or correct "
            "the annotations.",
            [Violation(each.image.path.name, "has no box to be trained on") for each in report.images],
        )
    return annotations


def cut_boxes(boxes: Boxes, patch: Patch, shape: tuple[int, int], view: View) -> Boxes:
    """Return the boxes whose middle a patch shows, clipped to it; see `moved_box` for turned ones."""
    inside = _inside((boxes.corners[:, :2] + boxes.corners[:, 2:]) / 2, patch.region)
    corners = moved_box(boxes.corners[inside] - np.tile(np.array(patch.corner, np.float32), 2), view, shape)
    middle = (corners[:, :2] + corners[:, 2:]) / 2
    shown = np.all((middle >= 0) & (middle < shape), axis=1)
    inside[inside] = shown
    corners = corners[shown]
    clipped = np.clip(corners, 0, [*shape, *shape])
    return Boxes(
        clipped.astype(np.float32),
        boxes.classes[inside],
        boxes.difficult[inside],
        boxes.truncated[inside] | np.any(clipped != corners, axis=1),
    )


def cut_localisations(located: Localisations, patch: Patch, shape: tuple[int, int], view: View) -> Localisations:
    """Return the emitters that a patch of a frame shows."""
    places = np.stack([located.y, located.x], axis=1)
    inside = _inside(places, patch.region)
    moved = view.move(places[inside] - np.array(patch.corner), shape)
    shown = np.all((moved >= 0) & (moved < shape), axis=1)
    inside[inside] = shown
    return Localisations(
        located.frame[inside],
        moved[shown, 0],
        moved[shown, 1],
        located.intensity[inside],
        None if located.uncertainty is None else located.uncertainty[inside],
    )


def _inside(places: NDArray[Any], region: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    """Return which places (N, 2) lie in a region: beyond it images are not read, and show nothing that is annotated."""
    start, stop = np.array(region).T
    return np.asarray(np.all((places >= start) & (places < stop), axis=1))


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
    constants: Sequence[NormaliserConstants] = (),
) -> Opened[P]:
    letter = next((axis for axis in axes if axis not in "ZYX"), "")
    plain = axes.replace(letter, "C") if letter else axes
    constants = constants or [normaliser.fit(image, plain) for image in sources]
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
        fill=backgrounds(sources, plain),
    )

    def validation_images() -> Iterator[ValidationImage]:
        for region in parts(split.validation):
            spatial = iter(slice(start, stop) for start, stop in zip(region.start, region.stop, strict=True))
            window = tuple(slice(None) if axis in "CS" else next(spatial) for axis in plain)
            pixels = normaliser.apply(np.asarray(sources[region.index])[window], constants[region.index])
            release(sources[region.index])
            bounds = tuple(zip(region.start, region.stop, strict=True))
            whole = Patch(region.index, region.start, bounds)
            annotation = cut(annotations[region.index], whole, (region.shape[0], region.shape[1]), UNCHANGED)
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
