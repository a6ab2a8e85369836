"""Images for judging a translation without pairs: predictions with their inputs, and real images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from parfocal.qc.evaluation.inputs import Inputs, fetch_files, files_below, predicted_files, read_named
from parfocal.qc.evaluation.room import SizedImage, size_of
from parfocal.qc.evaluation.training_images import training_dataset
from parfocal.qc.unpaired.scoring import drawn
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.store.manifests import TURNED_BACK, DatasetManifest, ImageEntry
from parfocal.runtime.store.store import Location


@dataclass(frozen=True)
class Translated:
    """One predicted image, what it was made from, and where the model did that, what it was turned back into.

    `shape` is that of the input in pixels, channels or colours in front.
    """

    label: str
    role: str
    source: Path
    prediction: Path
    back: Path | None
    source_sha256: str
    shape: tuple[int, ...]
    pixel_size: float | None


def read_unpaired_inputs(context: JobContext) -> Inputs[Translated]:
    """Return the predictions of a job with their inputs.

    Raises
    ------
    InvalidInputError
        No prediction has the name of an image.
    """
    named, spec = read_named(context), context.job.evaluation
    dataset, prediction, role = named.dataset, named.prediction, named.prediction.targets[0]
    entries = {entry.name: entry for entry in dataset.files}
    sources = {image.stem: image for image in dataset.select(spec.split or "test", named.source_role)}
    files, backs = predicted_files(prediction, role), files_below(prediction, f"{TURNED_BACK}/")
    found = [stem for stem in sources if stem in files]
    if not found:
        raise InvalidInputError(
            f"No prediction of {spec.prediction_uri} has the name of an image of {spec.dataset_uri}. Predict this "
            "split of the dataset first."
        )
    inputs = fetch_files(context, spec.dataset_uri, (entries[sources[stem].file] for stem in found))
    wanted = (entry for stem in found for entry in (files[stem], backs.get(stem)) if entry is not None)
    predictions = fetch_files(context, spec.prediction_uri, wanted)
    items = [
        Translated(
            label=stem,
            role=role,
            source=inputs[sources[stem].file],
            prediction=predictions[files[stem].name],
            back=predictions[backs[stem].name] if stem in backs else None,
            source_sha256=entries[sources[stem].file].sha256,
            shape=size_of(sources[stem], stem).shape,
            pixel_size=_pixel_size(sources[stem]),
        )
        for stem in found
    ]
    return named.inputs(context, items, tuple(stem for stem in sources if stem not in files))


def training_images(context: JobContext, inputs: Inputs[Translated], role: str) -> dict[str, Path]:
    """Return training images of a role by the names of their files, at most as many as are compared."""
    place, dataset = training_dataset(context, inputs)
    return _images(context, place, dataset, "train", role)


def test_images(context: JobContext, inputs: Inputs[Translated], role: str) -> dict[str, Path]:
    """Return the real images of the kind that is made, out of the split that is judged, by the names of their files."""
    assert inputs.dataset is not None
    return _images(context, Location.parse(inputs.input_uri), inputs.dataset, inputs.split, role)


def sizes_of_real(context: JobContext, inputs: Inputs[Translated]) -> list[SizedImage]:
    """Return the sizes of the images that are no items: those of the training, of both kinds, and real test images."""
    assert inputs.dataset is not None
    _, trained_on = training_dataset(context, inputs)
    made = inputs.roles[0]
    of_training = [image for role in (made, inputs.source_role) for image in _chosen(trained_on, "train", role)]
    images = (*of_training, *_chosen(inputs.dataset, inputs.split, made))
    return [size_of(image, image.file) for image in images]


def _images(context: JobContext, place: Location, dataset: DatasetManifest, split: str, role: str) -> dict[str, Path]:
    entries = {entry.name: entry for entry in dataset.files}
    return fetch_files(context, str(place), (entries[image.file] for image in _chosen(dataset, split, role)))


def _chosen(dataset: DatasetManifest, split: str, role: str) -> list[ImageEntry]:
    """Return the images of a role that are compared.

    Raises
    ------
    InvalidInputError
        There are none.
    """
    images: Sequence[ImageEntry] = dataset.select(split, role)
    if not images:
        raise InvalidInputError(
            f"The dataset {dataset.dataset!r} (version {dataset.version}) has no images in {split}/{role} to compare "
            f"predictions with. Create it again with images in {split}/{role}."
        )
    return [images[number] for number in drawn(len(images))]


def _pixel_size(image: ImageEntry) -> float | None:
    return image.pixel_size_um[0] if image.pixel_size_um else None
