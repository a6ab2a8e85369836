"""From a published dataset to a patch sampler: mirror, check, split, decode, take the normaliser's constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from parfocal import v1
from parfocal.runtime.augmentation import Augmentation
from parfocal.runtime.images import decode_to_memmap
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.manifests import DATASET_MANIFEST, DatasetManifest
from parfocal.runtime.normaliser import Normaliser, training_quantiles
from parfocal.runtime.pairs import check_pairs
from parfocal.runtime.parameters import TrainingParameters
from parfocal.runtime.sampler import PatchSampler
from parfocal.runtime.split import Split, split_images
from parfocal.runtime.store import Location


@dataclass(frozen=True)
class TrainingData:
    """What a training learns from, and what its model records of it."""

    sampler: PatchSampler
    split: Split
    quantiles: dict[str, Any]
    pixel_size_um: tuple[float | None, float | None, float | None] | None
    example: tuple[str, NDArray[Any], NDArray[Any]]


def load_training_data(context: JobContext, parameters: TrainingParameters, normaliser: Normaliser) -> TrainingData:
    """Return the training data of a job with paired images; memory use does not depend on their number.

    Raises
    ------
    InvalidInputError
        An image is not usable; all that are wrong are named.
    DiskFullError
        The cache cannot take the images.
    """
    place = Location.parse(context.job.training.dataset_uri)
    dataset = DatasetManifest.read(context.store, place / DATASET_MANIFEST)
    entries = [entry for entry in dataset.files if entry.name.startswith("train/")]
    folder = context.cache.mirror(context.store, place, entries, context.scratch / "dataset") / "train"
    axes = context.method.axes
    patch = parameters.patch_shape(axes)
    report = check_pairs(
        folder / "source",
        folder / "target",
        axes=axes,
        min_size=dict(zip(axes, patch, strict=True)),
        min_images=context.method.minimum_images,
    )
    for warning in report.warnings:
        context.warn(warning)
    split = split_images(
        [pair.stem for pair in report.pairs],
        [pair.shape for pair in report.pairs],
        validation_fraction=parameters.validation_fraction,
        patch_shape=patch,
        seed=parameters.seed,
    )
    for warning in split.warnings:
        context.warn(warning)
    digests = {entry.name: entry.sha256 for entry in dataset.files}
    decoded = context.cache.decoded()
    context.report_progress(v1.Progress(stage="preparing"), message="decoding the images", at_once=True)
    sources = [decode_to_memmap(p.source, decoded, digests[f"train/source/{p.source.name}"]) for p in report.pairs]
    targets = [decode_to_memmap(p.target, decoded, digests[f"train/target/{p.target.name}"]) for p in report.pairs]
    sampler = PatchSampler(
        sources=sources,
        targets=targets,
        regions=split.training,
        patch_shape=patch,
        patches_per_image=parameters.patches_per_image,
        batch_size=parameters.batch_size,
        seed=parameters.seed,
        axes=axes,
        normaliser=normaliser,
        source_constants=[normaliser.fit(image, axes) for image in sources],
        target_constants=[normaliser.fit(image, axes) for image in targets],
        augmentation=Augmentation(flip=parameters.augment_flip, rotate90=parameters.augment_rotate),
    )
    pixel_size = report.pairs[0].pixel_size
    return TrainingData(
        sampler=sampler,
        split=split,
        quantiles={
            "source": training_quantiles(sources).model_dump(mode="json"),
            "target": training_quantiles(targets).model_dump(mode="json"),
        },
        pixel_size_um=(pixel_size.x, pixel_size.y, pixel_size.z) if pixel_size else None,
        example=(report.pairs[0].stem, sources[0], targets[0]),
    )
