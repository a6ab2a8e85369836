"""The images that the model of an evaluation was trained on, for baselines and for what the model expects."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.qc.evaluation.inputs import (
    AnnotatedImage,
    AnnotatedItem,
    Inputs,
    Item,
    ItemT,
    annotated_images,
    fetch_annotated,
    read_source,
    scratch_of,
)
from parfocal.qc.metrics.bands import LARGE_PIXELS, SAMPLED, is_large, sample_windows
from parfocal.qc.metrics.objects.labels import kind_of_target
from parfocal.runtime.errors import InvalidInputError, NotFoundError
from parfocal.runtime.images.files import open_image
from parfocal.runtime.images.scratch import release
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.store.manifests import DATASET_MANIFEST, DatasetManifest
from parfocal.runtime.store.store import Location


def training_dataset(context: JobContext, inputs: Inputs[ItemT]) -> tuple[Location, DatasetManifest]:
    """Return the dataset that the model was trained on, else the one that it is judged by, and where it lies."""
    assert inputs.dataset is not None
    uri, dataset, model = context.job.evaluation.dataset_uri, inputs.dataset, inputs.model
    # An imported model has no dataset of its own.
    if model is not None and model.dataset_uri not in ("", uri):
        uri = model.dataset_uri
        dataset = DatasetManifest.read(context.store, Location.parse(uri) / DATASET_MANIFEST)
    return Location.parse(uri), dataset


def training_annotations(context: JobContext, inputs: Inputs[AnnotatedItem], most: int) -> list[AnnotatedImage]:
    """Return the first annotated images of the training, at most so many: a baseline may be chosen on them."""
    place, dataset = training_dataset(context, inputs)
    known = annotated_images(dataset, "train", inputs.source_role)
    return fetch_annotated(context, str(place), dataset, dict(islice(known.items(), most)))


def unpaired_images(context: JobContext, inputs: Inputs[Item], role: str) -> Iterator[NDArray[Any]]:
    """Yield the training images of a role where these are no pairs, else none; large ones as in `training_pairs`."""
    place, dataset = training_dataset(context, inputs)
    role, channel = inputs.channels.get(role, (role, None))
    entries = {entry.name: entry for entry in dataset.files}
    for image in dataset.select("train", role) if "train" in dataset.unpaired else ():
        pixels = read_source(context.cache.fetch(context.store, place, entries[image.file]), scratch_of(context))
        pixels = pixels if channel is None else pixels[channel]
        shape = pixels.shape[-len(inputs.items[0].shape) :]
        warn_of_samples(context, shape)
        for window in sample_windows(shape):
            part: tuple[Any, ...] = ..., *window
            yield pixels[part]
            release(pixels)


def trained_on_pairs(context: JobContext, inputs: Inputs[Item], role: str) -> bool:
    """Return whether the training images have targets of a role that show the same as they do."""
    _, dataset = training_dataset(context, inputs)
    role, _ = inputs.channels.get(role, (role, None))
    return "train" not in dataset.unpaired and bool(dataset.select("train", role))


def training_pairs(
    context: JobContext, inputs: Inputs[Item], role: str, *, validation: bool
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield the pairs a baseline may be chosen on, never test images: the model's validation or all its images.

    Where the training images are no pairs, or have no targets, there are none. Of a large image, its `sample_windows`
    are given one after the other.
    """
    place, dataset = training_dataset(context, inputs)
    source_role = inputs.source_role
    if not trained_on_pairs(context, inputs, role):
        return
    role, channel = inputs.channels.get(role, (role, None))
    if validation and inputs.validation_regions:
        regions = [(region["stem"], region["start"], region["stop"]) for region in inputs.validation_regions]
    else:
        regions = [(image.stem, None, None) for image in dataset.select("train", source_role)]
    entries = {entry.name: entry for entry in dataset.files}
    files = {(image.role, image.stem): entries[image.file] for image in dataset.images if image.split == "train"}
    for stem, start, stop in regions:
        pair = []
        for each in (source_role, role):
            if (each, stem) not in files:
                raise NotFoundError(f"The training image {stem!r} is missing in {place} as {each}.")
            pixels = read_source(context.cache.fetch(context.store, place, files[each, stem]), scratch_of(context))
            window: tuple[Any, ...] = (...,)
            if start is not None:  # the last axes: channels of a source come first
                window = ..., *(slice(*bounds) for bounds in zip(start, stop, strict=True))
            pair.append(pixels[window])
        source, target = pair[0], pair[1] if channel is None else pair[1][channel]
        warn_of_samples(context, target.shape)
        for part in sample_windows(target.shape):
            yield source[(..., *part)], target[part]
            release(source)
            release(target)


def warn_of_samples(context: JobContext, shape: tuple[int, ...]) -> None:
    """Tell people, once, that a baseline is chosen on windows of a large image."""
    if is_large(shape):
        context.warn(
            f"Of images of more than {LARGE_PIXELS / 1e6:.0f} million pixels, the baseline was chosen on {SAMPLED}. "
            "Each counts as an image."
        )


def require_grey_targets(context: JobContext, inputs: Inputs[Item], role: str) -> None:
    """Raise InvalidInputError if all targets look like label images although the model was trained on grey values.

    A dim image of few grey values may look like labels by itself, so the targets of the training decide: this is about
    a dataset that was made for another kind of model.
    """
    # A dataset that the model was trained on is of its kind.
    if inputs.model is None or inputs.model.dataset_uri in ("", context.job.evaluation.dataset_uri):
        return
    items = [item for item in inputs.items if item.role == role]
    first = next(training_pairs(context, inputs, role, validation=False), None)
    if first is None or kind_of_target(_middle_plane(first[1])) != "image":
        return
    targets = (open_image(item.target, scratch_of(context)).pixels for item in items)
    if all(kind_of_target(_middle_plane(target)) == "labels" for target in targets):
        raise InvalidInputError(
            f"The targets of {context.job.evaluation.dataset_uri} are label images, but the model was trained to "
            "predict grey values. Judge it with a dataset whose targets are images."
        )


def _middle_plane(image: NDArray[Any]) -> NDArray[Any]:
    """Return the middle plane of a stack; of a large one the window that is next to its middle."""
    planes: NDArray[Any] = image.reshape(-1, *image.shape[-2:])
    windows = sample_windows(planes.shape[1:])
    return np.array(planes[len(planes) // 2][windows[len(windows) // 2]])
