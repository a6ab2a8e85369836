"""From a dataset to batches of patches, for each kind of data: check, split, decode, take the normaliser's constants.

Memory use does not depend on the number of images. What a method's `Implementation.open` returns is made here, unless
its data are of another kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.datasets.classes import UNANNOTATED, class_indices
from parfocal.runtime.datasets.findings import file_name
from parfocal.runtime.datasets.pairs import CheckedImage, check_images, check_pairs
from parfocal.runtime.datasets.unpaired import check_unpaired
from parfocal.runtime.datasets.view import DatasetView
from parfocal.runtime.images.domains import unlike_domains
from parfocal.runtime.images.drift import training_statistics
from parfocal.runtime.images.files import PixelSize
from parfocal.runtime.images.memmaps import read_memmap, writing_memmap
from parfocal.runtime.images.scratch import blocks, release
from parfocal.runtime.methods.augmenting import Flips, FlipZ, Intensity, Warps
from parfocal.runtime.methods.implementation import (
    Example,
    Opened,
    TrainingDataRecord,
    ValidationImage,
)
from parfocal.runtime.methods.normaliser import Normaliser, NormaliserConstants
from parfocal.runtime.methods.parameters import Foreground, ObjectClasses, TrainingSettings
from parfocal.runtime.methods.roles import TARGET_STATISTICS, Roles
from parfocal.runtime.store.facts import Facts, Port
from parfocal.runtime.store.manifests import DatasetManifest
from parfocal.runtime.training.augmentation import Augmentation, Change
from parfocal.runtime.training.batches import PatchBatches, UnpairedBatches, channels_last, targets_last
from parfocal.runtime.training.label_targets import clean_label_targets
from parfocal.runtime.training.sampler import PatchSampler
from parfocal.runtime.training.split import Region, parts, split_images

FRAMES = "T"
"""The axis of a movie along which its frames are."""


class PatchSettings(TrainingSettings, Protocol):
    """Requirements on parameters to cut patches, which the mixins `Patches` and `Validation` meet."""

    @property
    def batch_size(self) -> int:
        """Patches in a batch."""

    @property
    def patches_per_image(self) -> int:
        """Patches cut from each image in an epoch."""

    @property
    def validation_fraction(self) -> float:
        """Part of the images that is held out."""

    def patch_shape(self, axes: str) -> tuple[int, ...]:
        """Return the shape in pixels of a patch with these spatial axes."""

    def roles(self, dataset: DatasetManifest) -> Roles:
        """Return which images of a dataset are the network's inputs and targets."""


P = TypeVar("P", bound=PatchSettings)


def open_pairs(data: DatasetView, parameters: P, normaliser: Normaliser) -> Opened[P]:
    """Return paired images, sources and targets both normalised.

    Raises
    ------
    InvalidInputError
        An image is not usable; all that are wrong are named.
    DiskFullError
        The cache cannot take the images.
    """
    roles = parameters.roles(data.manifest)
    images = _pairs(data, roles, parameters.patch_shape(data.axes), constant_targets=False)
    targets = images.decode_targets(data)
    constants = [tuple(normaliser.fit(each, images.target_axes) for each in several) for several in targets]
    letter, channels = channel_axis(images.target_axes, data.axes, targets[0][0].shape)
    ports = tuple(
        normalised_port(role, [each[number] for each in constants], channels, letter)
        for number, role in enumerate(roles.targets)
    )
    return _opened(data, parameters, normaliser, images, targets=targets, constants=constants, ports=ports)


def open_labels(
    data: DatasetView,
    parameters: P,
    normaliser: Normaliser,
    clean: Callable[[NDArray[Any]], NDArray[Any]],
    resolve: Callable[[P, Iterable[NDArray[Any]]], P],
) -> Opened[P]:
    """Return images with their label images and, where classes are trained on, class images; these are not normalised.

    Parameters
    ----------
    clean
        Makes of a label image what the network is trained on, of the same shape and dtype.
    resolve
        Returns the parameters with what was left to be measured on the label images.

    Raises
    ------
    InvalidInputError
        An image is not usable; all that are wrong are named.
    DiskFullError
        The cache cannot take the images.
    """
    roles = parameters.roles(data.manifest)
    images = _pairs(data, roles, parameters.patch_shape(data.axes), constant_targets=True)
    classes = parameters.classes if isinstance(parameters, ObjectClasses) else 0
    names = [[file_name(path) for path in paths] for paths in images.targets]
    cleaned = clean_label_targets(names, images.decode_targets(data), clean, classes, data.scratch / "labels")
    for warning in cleaned.warnings:
        data.warn(warning)
    parameters = resolve(parameters, (targets[0] for targets in cleaned.images))
    labels, *further = roles.targets
    ports = (Port(role=labels, kind="labels"), *(Port(role=role, kind="classes", classes=classes) for role in further))
    return _opened(data, parameters, normaliser, images, targets=cleaned.images, ports=ports)


def open_classes(
    data: DatasetView,
    parameters: P,
    normaliser: Normaliser,
    *,
    values: Sequence[int] | None = None,
    ignored: int | None = None,
) -> Opened[P]:
    """Return images with class images: in each pixel the place of its class, int8; see `class_indices`.

    Of a dataset with label images the classes are background and foreground. Where pixels are not annotated, patches
    are asked for by `Foreground` parameters to contain some that are.

    Parameters
    ----------
    values
        The value of each class, in the order of their indices; None: those of the dataset.
    ignored
        The value of pixels that are not annotated; None if all are.

    Raises
    ------
    InvalidInputError
        An image is not usable; all that are wrong are named.
    DiskFullError
        The cache cannot take the images.
    """
    roles = parameters.roles(data.manifest)
    images = _pairs(data, roles, parameters.patch_shape(data.axes), constant_targets=True)
    if values is None:
        values = data.manifest.image_class_values
    targets, sparse = [], False
    for number, several in enumerate(images.decode_targets(data)):
        indices = []
        for place, drawn in enumerate(several):
            path = data.scratch / "classes" / f"{number}-{place}.npy"
            with writing_memmap(path, drawn.shape, np.int8) as out:
                for window in blocks(drawn.shape):
                    out[window] = class_indices(np.asarray(drawn[window]), values, ignored)
                    sparse = sparse or bool(place == 0 and (out[window] == UNANNOTATED).any())
                    release(drawn)
                    release(out)
            indices.append(read_memmap(path))
        targets.append(tuple(indices))
    ports = tuple(Port(role=role, kind="classes", classes=max(1, len(values) - 1)) for role in roles.targets)
    return _opened(data, parameters, normaliser, images, targets=targets, ports=ports, least_label=0 if sparse else 1)


def open_sources(data: DatasetView, parameters: P, normaliser: Normaliser) -> Opened[P]:
    """Return normalised images without targets: what a network is trained on follows from the images alone.

    Each frame of a movie is an image, normalised by itself as in prediction. Whole movies are held out, or the same
    block of each of their frames.

    Raises
    ------
    InvalidInputError
        An image is not usable; all that are wrong are named.
    DiskFullError
        The cache cannot take the images.
    """
    role = parameters.roles(data.manifest).source
    folder, axes = data.fetch(role), data.manifest.select("train", role)[0].axes
    least = dict(zip(data.axes, parameters.patch_shape(data.axes), strict=True))
    report = check_images(
        folder / role, axes=axes, min_size=least, min_images=data.minimum_images, reading=data.reading
    )
    _warn_once(data, report.warnings)
    return _opened(data, parameters, normaliser, _alone(data, role, report.images))


def open_unpaired(data: DatasetView, parameters: P, normaliser: Normaliser) -> Opened[P]:
    """Return two sets of normalised images of different fields, of which each batch has as many of one as of the other.

    Raises
    ------
    InvalidInputError
        An image is not usable; all that are wrong are named.
    DiskFullError
        The cache cannot take the images.
    """
    roles = parameters.roles(data.manifest)
    source, target = roles.source, roles.targets[0]
    folder = data.fetch(source, target)
    source_axes, target_axes = (data.manifest.select("train", role)[0].axes for role in (source, target))
    report = check_unpaired(
        folder / source,
        folder / target,
        axes=source_axes,
        target_axes=target_axes,
        min_size=dict(zip(data.axes, parameters.patch_shape(data.axes), strict=True)),
        min_images=data.minimum_images,
        reading=data.reading,
    )
    _warn_once(data, report.warnings)
    first, second = (
        _opened(data, parameters, normaliser, _alone(data, role, images), stream=stream)
        for stream, (role, images) in enumerate(((source, report.sources), (target, report.targets)))
    )
    for warning in unlike_domains(
        *([data.decode(image.path) for image in images] for images in (report.sources, report.targets)),
        pixel_sizes=(report.sources[0].pixel_size, report.targets[0].pixel_size),
    ):
        data.warn(warning)
    split = {name: (*first.record.split[name], *second.record.split[name]) for name in ("training", "validation")}

    def validation_images() -> Iterator[ValidationImage]:
        for mine, theirs in zip(first.validation_images(), second.validation_images(), strict=False):
            yield ValidationImage(mine.name, {**mine.inputs, **theirs.inputs}, None)

    return Opened(
        UnpairedBatches(first.batches, second.batches),
        parameters,
        Facts(
            inputs=first.facts.inputs,
            targets=second.facts.inputs,
            measured={TARGET_STATISTICS: dict(second.record.statistics)},
        ),
        replace(
            first.record,
            split={**first.record.split, **split},
            examples=(*first.record.examples, *second.record.examples),
        ),
        validation_images,
    )


@dataclass(frozen=True)
class _Images:
    """Images that were found to be usable, in natural order of their names.

    `shapes` are those along the method's axes; `axes` are those of the sources and `target_axes` those of the targets,
    which may have one more. `targets` are the files of each image's targets, none for images alone.
    """

    source: str
    axes: str
    target_axes: str
    stems: Sequence[str]
    shapes: Sequence[tuple[int, ...]]
    sources: Sequence[Path]
    targets: Sequence[tuple[Path, ...]]
    pixel_size: PixelSize | None

    def decode_targets(self, data: DatasetView) -> list[tuple[NDArray[Any], ...]]:
        """Return the targets of each image, memory-mapped."""
        return [tuple(data.decode(path) for path in paths) for paths in self.targets]


def _pairs(data: DatasetView, roles: Roles, patch: tuple[int, ...], *, constant_targets: bool) -> _Images:
    """Fetch and check sources with their targets, saying everything that is wrong with them."""
    folder = data.fetch(roles.source, *roles.targets)
    # All targets of a training have the same axes.
    source_axes, target_axes = (
        data.manifest.select("train", role)[0].axes for role in (roles.source, roles.targets[0])
    )
    reports = [
        check_pairs(
            folder / roles.source,
            folder / role,
            axes=data.axes,
            source_axes=source_axes,
            target_axes=target_axes,
            min_size=dict(zip(data.axes, patch, strict=True)),
            min_images=data.minimum_images,
            constant_targets=constant_targets,
            readings=(data.reading, data.reading),
        )
        for role in roles.targets
    ]
    _warn_once(data, (warning for report in reports for warning in report.warnings))
    pairs = reports[0].pairs
    return _Images(
        source=roles.source,
        axes=source_axes,
        target_axes=target_axes,
        stems=[pair.stem for pair in pairs],
        shapes=[pair.shape for pair in pairs],
        sources=[pair.source for pair in pairs],
        targets=[tuple(report.pairs[number].target for report in reports) for number in range(len(pairs))],
        pixel_size=pairs[0].pixel_size,
    )


def _alone(data: DatasetView, role: str, images: Sequence[CheckedImage]) -> _Images:
    """Return checked images of one role, which have no targets."""
    axes = images[0].axes
    return _Images(
        source=role,
        axes=axes,
        target_axes=data.axes,
        stems=[image.stem for image in images],
        shapes=[tuple(image.shape[axes.index(axis)] for axis in data.axes) for image in images],
        sources=[image.path for image in images],
        targets=[() for _ in images],
        pixel_size=images[0].pixel_size,
    )


def _warn_once(data: DatasetView, warnings: Iterable[str]) -> None:
    for warning in dict.fromkeys(warnings):
        data.warn(warning)


def channel_axis(axes: str, spatial: str, shape: Sequence[int]) -> tuple[Literal["", "C", "S"], int]:
    """Return whether images have colours (S), other channels (C) or neither beside their spatial axes, and how many."""
    letter = next((axis for axis in axes if axis not in spatial), "")
    if not letter:
        return "", 1
    return "S" if letter == "S" else "C", shape[axes.index(letter)]


def normalised_port(
    role: str,
    constants: Sequence[NormaliserConstants],
    channels: int = 1,
    channel_axis: Literal["", "C", "S"] = "",
) -> Port:
    """Return the port of normalised images, with the means of their constants."""
    offset, scale = (
        tuple(np.mean(values, axis=0).tolist())
        for values in ([each.offset for each in constants], [each.scale for each in constants])
    )
    return Port(role=role, channels=channels, channel_axis=channel_axis, offset=offset, scale=scale)


def _opened(
    data: DatasetView,
    parameters: P,
    normaliser: Normaliser,
    images: _Images,
    *,
    targets: Sequence[tuple[NDArray[Any], ...]] | None = None,
    constants: Sequence[tuple[NormaliserConstants, ...]] | None = None,
    ports: tuple[Port, ...] = (),
    stream: int = 0,
    least_label: int = 1,
) -> Opened[P]:
    """Return images split, decoded and cut into patches.

    Parameters
    ----------
    targets
        Targets of each image, if any; as many as there are `ports`.
    constants
        Constants with which the targets are normalised; None leaves them unchanged.
    stream
        Number of the set among those of one training, so that their random choices differ.
    least_label
        The lowest number of a target that patches are asked to contain.
    """
    patch = parameters.patch_shape(data.axes)
    split = split_images(
        images.stems,
        images.shapes,
        validation_fraction=parameters.validation_fraction,
        patch_shape=patch,
        seed=parameters.seed,
    )
    _warn_once(data, split.warnings)
    data.progress("decoding the images")
    sources = [data.decode(path) for path in images.sources]
    training, validation, axes = split.training, split.validation, images.axes
    if axes[0] == FRAMES and FRAMES not in data.axes:
        training, validation = (_regions_of_frames(regions, sources) for regions in (training, validation))
        sources, axes = [frame for movie in sources for frame in movie], axes[1:]
    letter, channels = channel_axis(axes, data.axes, sources[0].shape)
    # Planes may stand for channels as well.
    axes = "".join(axis if axis in data.axes else "C" for axis in axes)
    source_constants = [normaliser.fit(image, axes) for image in sources]
    sampler = PatchSampler(
        sources=sources,
        targets=targets,
        regions=training,
        patch_shape=patch,
        patches_per_image=parameters.patches_per_image,
        batch_size=parameters.batch_size,
        # Seeds are below this number.
        seed=parameters.seed + stream * 2**31,
        axes=axes,
        target_axes=images.target_axes,
        normaliser=normaliser,
        source_constants=source_constants,
        target_constants=constants,
        augmentation=augmentation(parameters),
        fill=backgrounds(sources, axes) if ports and ports[0].kind == "labels" else None,
        foreground_fraction=parameters.foreground_fraction if isinstance(parameters, Foreground) else 0.0,
        least_label=least_label,
    )

    def validation_images() -> Iterator[ValidationImage]:
        for region in parts(validation):
            window = tuple(slice(start, stop) for start, stop in zip(region.start, region.stop, strict=True))
            source = _cut(sources[region.index], window, axes)
            source = normaliser.apply(source, source_constants[region.index])
            stacked = None
            if targets is not None:
                planes = [_cut(target, window, images.target_axes) for target in targets[region.index]]
                if constants is not None:
                    planes = [normaliser.apply(*each) for each in zip(planes, constants[region.index], strict=True)]
                stacked = targets_last(planes, images.target_axes)
            for array in (sources[region.index], *(targets[region.index] if targets is not None else ())):
                release(array)
            yield ValidationImage(region.stem, {images.source: channels_last(source, axes)}, stacked)

    statistics = training_statistics(sources)
    labels = ports[0].kind != "image" if ports else False
    examples = [Example(images.stems[0], images.source, sources[0])]
    if targets is not None:
        examples.append(Example(images.stems[0], ports[0].role, targets[0][0], labels=labels))
    size = images.pixel_size
    return Opened(
        PatchBatches(images.source, sampler, sampler.validation_batches(validation)),
        parameters,
        Facts(inputs=(normalised_port(images.source, source_constants, channels, letter),), targets=ports),
        TrainingDataRecord(
            split=split.model_dump(mode="json"),
            statistics=statistics.model_dump() if statistics is not None else {},
            pixel_size_um=(size.x, size.y, size.z) if size else None,
            examples=tuple(examples),
        ),
        validation_images,
    )


def _regions_of_frames(regions: Iterable[Region], movies: Sequence[NDArray[Any]]) -> tuple[Region, ...]:
    """Return the regions of movies in each of their frames; `index` counts in the frames of all movies."""
    first = np.cumsum([0, *(len(movie) for movie in movies)]).tolist()
    return tuple(
        region.model_copy(update={"index": first[region.index] + frame})
        for region in regions
        for frame in range(len(movies[region.index]))
    )


def _cut(image: NDArray[Any], window: Sequence[slice], axes: str) -> NDArray[Any]:
    """Return all channels in a window along the spatial axes of an image."""
    spatial = iter(window)
    return np.asarray(image)[tuple(slice(None) if axis in "CS" else next(spatial) for axis in axes)]


def backgrounds(sources: Sequence[NDArray[Any]], axes: str) -> list[float]:
    """Return the median of each image, of every fourth pixel along Y and X."""
    thinned = tuple(slice(None, None, 4) if axis in "YX" else slice(None) for axis in axes)
    medians = []
    for image in sources:
        medians.append(float(np.median(image[thinned])))
        release(image)
    return medians


def augmentation(parameters: object) -> Augmentation:
    """Return the changes of patches that the parameters have mixins for and ask for."""
    flips = parameters if isinstance(parameters, Flips) else None
    asked = {
        name: Change(
            strength=getattr(parameters, f"augment_{name}"),
            probability=getattr(parameters, f"augment_{name}_probability"),
        )
        for mixin in (Warps, Intensity)
        if isinstance(parameters, mixin)
        for name in mixin.changes
    }
    return Augmentation(
        flip=flips is not None and flips.augment_flip,
        rotate90=flips is not None and flips.augment_rotate,
        flip_z=isinstance(parameters, FlipZ) and parameters.augment_flip_z,
        **asked,
    )
