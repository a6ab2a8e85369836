"""From a published dataset to a patch sampler: mirror, check, split, decode, take the normaliser's constants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal import v1
from parfocal.runtime.datasets.findings import file_name
from parfocal.runtime.datasets.pairs import check_pairs
from parfocal.runtime.images.drift import training_statistics
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.methods.implementation import Channels, Implementation, ObjectImplementation
from parfocal.runtime.methods.parameters import (
    ClassTrainingParameters,
    LabelTrainingParameters,
    Roles,
    TrainingParameters,
)
from parfocal.runtime.store.manifests import DATASET_MANIFEST, DatasetManifest
from parfocal.runtime.store.store import Location
from parfocal.runtime.training.augmentation import Augmentation
from parfocal.runtime.training.label_targets import clean_label_targets
from parfocal.runtime.training.sampler import PatchSampler
from parfocal.runtime.training.split import Split, split_images


@dataclass(frozen=True)
class TrainingData:
    """What a training learns from, and what its model records of it."""

    sampler: PatchSampler
    split: Split
    roles: Roles
    channels: Channels
    statistics: dict[str, Any]
    target_constants: dict[str, dict[str, float]]
    pixel_size_um: tuple[float | None, float | None, float | None] | None
    example: tuple[str, NDArray[Any], NDArray[Any]]

    def labels(self) -> Iterator[NDArray[Any]]:
        """Yield the first target of each image, label images where a method learns from such."""
        for given in self.sampler.targets or ():
            yield given[0] if isinstance(given, tuple) else given

    def validation_images(self) -> Iterator[tuple[NDArray[np.float32], NDArray[Any]]]:
        """Yield each part kept for validation as a normalised source, channels last, with its first target.

        The target is normalised as it is in training: labels are not.
        """
        sampler = self.sampler
        assert sampler.targets is not None
        assert sampler.source_constants is not None
        for region in self.split.validation:
            window = tuple(slice(start, stop) for start, stop in zip(region.start, region.stop, strict=True))
            source = np.asarray(sampler.sources[region.index])
            channel = next((number for number, axis in enumerate(sampler.axes) if axis in "CS"), None)
            constants = sampler.source_constants[region.index]
            if channel is None:
                image = sampler.normaliser.apply(source[window], constants)
            else:
                cut = (*window[:channel], slice(None), *window[channel:])
                image = np.moveaxis(sampler.normaliser.apply(source[cut], constants), channel, -1)
            given = sampler.targets[region.index]
            target = np.asarray(given[0] if isinstance(given, tuple) else given)[window]
            if sampler.target_constants is not None:
                known = sampler.target_constants[region.index]
                first = known[0] if isinstance(known, tuple) else known
                assert first is not None
                target = sampler.normaliser.apply(target, first)
            yield image, target


def load_training_data(
    context: JobContext, parameters: TrainingParameters, implementation: Implementation
) -> TrainingData:
    """Return the training data of a job with paired images; memory use does not depend on their number.

    Where the targets are label images, and perhaps class images, they are cleaned, and never normalised.

    Raises
    ------
    InvalidInputError
        An image is not usable; all that are wrong are named.
    DiskFullError
        The cache cannot take the images.
    """
    normaliser = implementation.normaliser
    labels = implementation if isinstance(implementation, ObjectImplementation) else None
    place = Location.parse(context.job.training.dataset_uri)
    dataset = DatasetManifest.read(context.store, place / DATASET_MANIFEST)
    roles = parameters.roles(dataset)
    wanted = tuple(f"train/{role}/" for role in (roles.source, *roles.targets))
    entries = [entry for entry in dataset.files if entry.name.startswith(wanted)]
    folder = context.cache.mirror(context.store, place, entries, context.scratch / "dataset") / "train"
    axes = context.method.axes
    first = dataset.select("train", roles.source)[0]
    source_axes = first.axes
    patch = parameters.patch_shape(axes)
    reports = [
        check_pairs(
            folder / roles.source,
            folder / role,
            axes=axes,
            source_axes=source_axes,
            min_size=dict(zip(axes, patch, strict=True)),
            min_images=context.method.minimum_images,
            constant_targets=labels is not None,
        )
        for role in roles.targets
    ]
    pairs = reports[0].pairs
    for warning in dict.fromkeys(warning for report in reports for warning in report.warnings):
        context.warn(warning)
    split = split_images(
        [pair.stem for pair in pairs],
        [pair.shape for pair in pairs],
        validation_fraction=parameters.validation_fraction,
        patch_shape=patch,
        seed=parameters.seed,
    )
    for warning in split.warnings:
        context.warn(warning)
    context.report_progress(v1.Progress(stage="preparing"), message="decoding the images", at_once=True)
    digests = {entry.name: entry.sha256 for entry in entries}

    def decode(path: Path) -> NDArray[Any]:
        return context.cache.decode(path, digests[f"train/{path.parent.name}/{path.name}"])

    sources = [decode(pair.source) for pair in pairs]
    targets = [tuple(decode(report.pairs[number].target) for report in reports) for number in range(len(pairs))]
    if labels is not None:
        cleaned = clean_label_targets(
            [[file_name(report.pairs[number].target) for report in reports] for number in range(len(pairs))],
            targets,
            labels,
            parameters.classes if isinstance(parameters, ClassTrainingParameters) else 0,
            context.scratch / "labels",
        )
        targets = cleaned.images
        for warning in cleaned.warnings:
            context.warn(warning)
    letter = next((axis for axis in source_axes if axis not in axes), "")
    sampler_axes = source_axes.replace(letter, "C") if letter else source_axes
    target_constants = None
    if labels is None:
        target_constants = [tuple(normaliser.fit(image, axes) for image in images) for images in targets]
    sampler = PatchSampler(
        sources=sources,
        targets=targets,
        regions=split.training,
        patch_shape=patch,
        patches_per_image=parameters.patches_per_image,
        batch_size=parameters.batch_size,
        seed=parameters.seed,
        axes=sampler_axes,
        target_axes=axes,
        normaliser=normaliser,
        source_constants=[normaliser.fit(image, sampler_axes) for image in sources],
        target_constants=target_constants,
        augmentation=Augmentation(
            flip=parameters.augment_flip,
            rotate90=parameters.augment_rotate,
            intensity=isinstance(parameters, LabelTrainingParameters) and parameters.augment_intensity,
        ),
        foreground_fraction=parameters.foreground_fraction if isinstance(parameters, LabelTrainingParameters) else 0.0,
    )
    statistics = training_statistics(sources)
    constants = {}
    for number, role in enumerate(roles.targets if target_constants is not None else ()):
        found = [each[number] for each in target_constants or ()]
        constants[role] = {
            "offset": float(np.mean([each.offset[0] for each in found])),
            "scale": float(np.mean([each.scale[0] for each in found])),
        }
    pixel_size = pairs[0].pixel_size
    return TrainingData(
        sampler=sampler,
        split=split,
        roles=roles,
        channels=Channels(first.shape[source_axes.index(letter)] if letter else 1, roles.targets),
        statistics=statistics.model_dump() if statistics is not None else {},
        target_constants=constants,
        pixel_size_um=(pixel_size.x, pixel_size.y, pixel_size.z) if pixel_size else None,
        example=(pairs[0].stem, sources[0], targets[0][0]),
    )
