"""Inputs of an evaluation: its dataset, its model, and the prediction and target of each test image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.datasets.labels import label_problem
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import IMAGE_SUFFIXES, Image, image_stem, open_image
from parfocal.runtime.images.scratch import IN_MEMORY, Scratch
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.store.manifests import (
    DATASET_MANIFEST,
    MODEL_MANIFEST,
    RESULT_MANIFEST,
    UNCERTAINTY,
    AnnotationEntry,
    DatasetManifest,
    FileEntry,
    ImageEntry,
    ModelManifest,
    ResultManifest,
)
from parfocal.runtime.store.store import Location


class ImageToScore(Protocol):
    """Common fields of items: a name for tables, the target it belongs to, the digest of its source, and its shape."""

    @property
    def label(self) -> str:
        """The name."""
        ...

    @property
    def role(self) -> str:
        """The target; empty where there are none."""
        ...

    @property
    def source_sha256(self) -> str:
        """Digest of the source in hexadecimal; empty where it is not known."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in pixels."""
        ...


ItemT = TypeVar("ItemT", bound=ImageToScore)


@dataclass(frozen=True)
class Item:
    """One test image and one of its targets: where its three versions lie, and the digest of its source.

    `label` names it in tables: the stem, or role and stem where there are several targets. `shape` is that of the
    target, `pixel_size` its pixel size in X and `voxel_um` that along all its axes, both in micrometres, None where
    they are unknown. `uncertainty` is what the model said of itself, where it did. `target_classes` and
    `predicted_classes` are images of the classes of objects, where both are there and asked for. `problem` says why
    the prediction cannot be scored, where that is known beforehand.
    """

    label: str
    role: str
    source: Path
    target: Path
    prediction: Path
    source_sha256: str
    pixel_size: float | None
    shape: tuple[int, ...]
    voxel_um: tuple[float, ...] | None
    uncertainty: Path | None = None
    target_classes: Path | None = None
    predicted_classes: Path | None = None
    problem: str = ""


@dataclass(frozen=True)
class AnnotatedImage:
    """One image and the file that says what was drawn in it or located on it; stems are names in tables.

    Attributes
    ----------
    label
        The stem.
    role
        Role of the annotation: "target".
    source, annotation
        Local copies.
    source_sha256
        Digest of the source.
    axes, shape
        Axes of the source, and its shape in pixels.
    pixel_um
        Length of a pixel in X, Y and Z in micrometres, each None where it is unknown.
    """

    label: str
    role: str
    source: Path
    annotation: Path
    source_sha256: str
    axes: str
    shape: tuple[int, ...]
    pixel_um: tuple[float | None, float | None, float | None]

    @property
    def plane(self) -> tuple[int, int]:
        """(Y, X) in pixels."""
        lengths = dict(zip(self.axes, self.shape, strict=True))
        return lengths["Y"], lengths["X"]


@dataclass(frozen=True)
class AnnotatedItem(AnnotatedImage):
    """One annotated test image, and the table that a prediction has of it."""

    prediction: Path


@dataclass(frozen=True)
class Inputs(Generic[ItemT]):
    """Inputs of an evaluation: dataset, model (if one is named), prediction, and the images to score.

    Attributes
    ----------
    dataset
        None where there are no targets.
    source_role
        Role of the images that the prediction was made from.
    missing
        Labels of test images without a prediction.
    left_out
        By label of a further image: why it is not judged.
    input_uri, split
        Place of the images, and the split that was chosen.
    images_of
        Description of the images for the report, e.g. "test images of the dataset cells, version 1".
    model_uri
        URI of the model to which the verdict is added; empty for none.
    channels
        By role of a target that is one channel of an image: role of that image, and index of the channel.
    """

    dataset: DatasetManifest | None
    model: ModelManifest | None
    prediction: ResultManifest
    source_role: str
    items: Sequence[ItemT]
    missing: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    input_uri: str = ""
    split: str = ""
    images_of: str = ""
    model_uri: str = ""
    channels: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def roles(self) -> list[str]:
        """The targets that are judged."""
        return list(dict.fromkeys(item.role for item in self.items))

    @property
    def validation_regions(self) -> list[Any]:
        """Parts of the training images that validated the model's training; empty if no model states them."""
        return list(self.model.split.get("validation", ())) if self.model is not None else []


def read_inputs(context: JobContext, *, first_target_only: bool = False) -> Inputs[Item]:
    """Return what a job is to score.

    Parameters
    ----------
    context
        The job.
    first_target_only
        Leave out what a prediction has besides the first target, such as the classes of objects.

    Raises
    ------
    InvalidInputError
        No prediction has the name of a target.
    """
    named = read_named(context)
    roles = named.prediction.targets[:1] if first_target_only else named.prediction.targets
    items, missing = _items(context, named.dataset, named.prediction, named.source_role, roles)
    return named.inputs(context, items, missing)


def read_annotated_inputs(context: JobContext, table: str) -> Inputs[AnnotatedItem]:
    """Return what a job is to score where targets are boxes or places, and predictions are tables of them.

    Parameters
    ----------
    context
        The job.
    table
        The name under which the prediction published its tables, such as "detections".

    Raises
    ------
    InvalidInputError
        The prediction has no such table of an annotated image.
    """
    spec = context.job.evaluation
    named = read_named(context)
    split, dataset = spec.split or "test", named.dataset
    tables = files_below(named.prediction, f"{table}/", (".csv",))
    known = annotated_images(dataset, split, named.source_role)
    missing = tuple(stem for stem in known if stem not in tables)
    found = {stem: entries for stem, entries in known.items() if stem in tables}
    if not found:
        raise InvalidInputError(
            f"No prediction of {spec.prediction_uri} has a table {table}/NAME.csv with the name of an annotated image "
            f"of {spec.dataset_uri} ({split}). Predict this split of the dataset with a model that makes {table} first."
        )
    images = fetch_annotated(context, spec.dataset_uri, dataset, found)
    predictions = fetch_files(context, spec.prediction_uri, (tables[stem] for stem in found))
    items = [AnnotatedItem(**vars(image), prediction=predictions[tables[image.label].name]) for image in images]
    return named.inputs(context, items, missing)


@dataclass(frozen=True)
class Named:
    """Dataset, model and prediction that the request of an evaluation names."""

    dataset: DatasetManifest
    model: ModelManifest | None
    prediction: ResultManifest

    @property
    def source_role(self) -> str:
        """Role of the images that were predicted."""
        return _source_role(self.model, self.prediction)

    def inputs(self, context: JobContext, items: Sequence[ItemT], missing: tuple[str, ...]) -> Inputs[ItemT]:
        """Return these with the images to score, and the labels of those without a prediction."""
        spec, dataset = context.job.evaluation, self.dataset
        split = spec.split or "test"
        return Inputs(
            dataset,
            self.model,
            self.prediction,
            self.source_role,
            items,
            missing,
            input_uri=spec.dataset_uri,
            split=split,
            images_of=f"{split} images of the dataset {dataset.dataset}, version {dataset.version}",
            model_uri=spec.model_uri,
        )


def read_named(context: JobContext) -> Named:
    """Return the manifests that the request of an evaluation names."""
    spec = context.job.evaluation
    model = None
    if spec.model_uri:
        model = ModelManifest.read(context.store, Location.parse(spec.model_uri) / MODEL_MANIFEST)
    return Named(
        DatasetManifest.read(context.store, Location.parse(spec.dataset_uri) / DATASET_MANIFEST),
        model,
        ResultManifest.read(context.store, Location.parse(spec.prediction_uri) / RESULT_MANIFEST),
    )


def annotated_images(
    dataset: DatasetManifest, split: str, source_role: str
) -> dict[str, tuple[ImageEntry, AnnotationEntry]]:
    """Return the annotated images of a split by stem, in the order of the manifest."""
    sources = {image.stem: image for image in dataset.select(split, source_role)}
    annotations = dataset.select_annotations(split)
    return {entry.stem: (sources[entry.stem], entry) for entry in annotations if entry.stem in sources}


def fetch_annotated(
    context: JobContext,
    uri: str,
    dataset: DatasetManifest,
    chosen: Mapping[str, tuple[ImageEntry, AnnotationEntry]],
) -> list[AnnotatedImage]:
    """Return some `annotated_images` of the dataset at a URI, with local copies of their files."""
    entries = {entry.name: entry for entry in dataset.files}
    files = fetch_files(context, uri, (entries[each.file] for pair in chosen.values() for each in pair))
    return [
        AnnotatedImage(
            label=stem,
            role=annotation.role,
            source=files[source.file],
            annotation=files[annotation.file],
            source_sha256=entries[source.file].sha256,
            axes=source.axes,
            shape=source.shape,
            pixel_um=source.pixel_size_um or (None, None, None),
        )
        for stem, (source, annotation) in chosen.items()
    ]


def _source_role(model: ModelManifest | None, prediction: ResultManifest) -> str:
    """Return the role of the images that were predicted; some models can also predict their sources from targets."""
    if model is None:
        return "target" if prediction.targets == ("source",) else "source"
    return model.facts.directed(backwards=model.source in prediction.targets).source


def _items(
    context: JobContext, dataset: DatasetManifest, prediction: ResultManifest, source_role: str, roles: Sequence[str]
) -> tuple[list[Item], tuple[str, ...]]:
    """Return the images to score, and the labels of those without a prediction."""
    spec = context.job.evaluation
    split = spec.split or "test"
    sources = {image.stem: image for image in dataset.select(split, source_role)}
    entries = {entry.name: entry for entry in dataset.files}
    missing: list[str] = []
    found: list[tuple[str, ImageEntry, FileEntry, FileEntry, FileEntry | None]] = []
    for role in roles:
        predictions = predicted_files(prediction, role)
        widths = files_below(prediction, f"{UNCERTAINTY}/") if role == prediction.targets[0] else {}
        for target in dataset.select(split, role):
            stem = target.stem
            label = f"{role}/{stem}" if len(roles) > 1 else stem
            if stem in predictions and stem in sources:
                found.append((label, target, entries[sources[stem].file], predictions[stem], widths.get(stem)))
            else:
                missing.append(label)
    if not found:
        raise InvalidInputError(
            f"No prediction of {spec.prediction_uri} has the name of a target of {spec.dataset_uri} ({split}). "
            "Predict this split of the dataset first."
        )
    of_dataset = fetch_files(
        context, spec.dataset_uri, (each for _, target, source, *_ in found for each in (source, entries[target.file]))
    )
    of_prediction = fetch_files(
        context, spec.prediction_uri, (entry for *_, predicted, width in found for entry in (predicted, width) if entry)
    )
    items = [
        Item(
            label=label,
            role=target.role,
            source=of_dataset[source.name],
            target=of_dataset[target.file],
            prediction=of_prediction[predicted.name],
            source_sha256=source.sha256,
            pixel_size=target.pixel_size_um[0] if target.pixel_size_um else None,
            shape=target.shape,
            voxel_um=_voxel(target),
            uncertainty=None if width is None else of_prediction[width.name],
        )
        for label, target, source, predicted, width in found
    ]
    for role in roles:
        if not any(item.role == role for item in items):
            context.warn(f"The dataset has no {split} images of {role}: this target was not judged.")
    return items, tuple(missing)


def fetch_files(context: JobContext, uri: str, entries: Iterable[FileEntry]) -> dict[str, Path]:
    """Return local copies of files of one dataset or result, by the names in its manifest."""
    wanted = {entry.name: entry for entry in entries}
    return dict(zip(wanted, context.cache.fetch_all(context.store, Location.parse(uri), wanted.values()), strict=True))


def predicted_files(prediction: ResultManifest, role: str) -> dict[str, FileEntry]:
    """Return the files that a prediction published for one of its targets, by stem."""
    return files_below(prediction, "" if role == prediction.targets[0] else f"{role}/")


def files_below(
    prediction: ResultManifest, folder: str, suffixes: tuple[str, ...] = IMAGE_SUFFIXES
) -> dict[str, FileEntry]:
    """Return the files that a prediction published in a folder, by stem: its images, or files with other endings.

    Parameters
    ----------
    folder
        Empty, or with a slash at the end.
    suffixes
        Endings in lower case.
    """
    return {
        image_stem(Path(entry.name)): entry
        for entry in prediction.files
        if entry.public_name.startswith(folder)
        and "/" not in entry.public_name.removeprefix(folder)
        and entry.name.lower().endswith(suffixes)
    }


def _voxel(image: ImageEntry) -> tuple[float, ...] | None:
    """Distances of pixels along the spatial axes, in their order; None unless all are known."""
    letters = [letter for letter in image.axes if letter in "ZYX"]
    sizes = dict(zip("XYZ", image.pixel_size_um or (None, None, None), strict=True))
    known = [size for letter in letters if (size := sizes[letter]) is not None]
    return tuple(known) if known and len(known) == len(letters) else None


def scratch_of(context: JobContext) -> Scratch:
    """Return where the images of an evaluation lie that are too large for the memory, and what is made of them."""
    return Scratch(context.scratch / "arrays")


def read_label_target(item: Item, scratch: Scratch = IN_MEMORY) -> Image:
    """Open a target that shows objects or foreground; raise InvalidInputError if it holds grey values."""
    target = open_image(item.target, scratch, labels=True)
    if problem := label_problem(target.pixels):
        raise InvalidInputError(f"{item.label} (target) {problem}. Name a dataset of label images.")
    return target


def read_source(path: Path, scratch: Scratch = IN_MEMORY) -> NDArray[Any]:
    """Return the pixels of an image, the axis of its channels or colours in front; large ones lie in `scratch`."""
    return channels_first(open_image(path, scratch))


def channels_first(image: Image) -> NDArray[Any]:
    """Return the pixels of an image, the axis of its channels or colours in front."""
    axis = next((image.axes.index(axis) for axis in "CS" if axis in image.axes), 0)
    return np.moveaxis(image.pixels, axis, 0)
