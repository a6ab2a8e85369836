"""The images that a published dataset or result has to show, by name: a field of view, and each of its layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from parfocal.runtime.datasets.classes import CLASS_ROLE
from parfocal.runtime.errors import NotFoundError
from parfocal.runtime.images.files import IMAGE_SUFFIXES, image_stem
from parfocal.runtime.images.pyramid import tiles_digest
from parfocal.runtime.store.manifests import (
    DATASET_MANIFEST,
    OBJECTS,
    RESULT_MANIFEST,
    DatasetManifest,
    FileEntry,
    ImageEntry,
    ResultFile,
    ResultManifest,
)
from parfocal.runtime.store.store import Location, Store

_LABEL_KINDS = ("labels", "classes")
_MAIN = "prediction"


@dataclass(frozen=True)
class Layer:
    """One image file to show.

    Attributes
    ----------
    image
        Name of the field of view, without a slash: "test:f015" in datasets, the input's name in results.
    name
        Role such as "source" in datasets; output such as "prediction" or "maps.prediction.rse" in results.
    entry
        Entry of its file in the manifest.
    labels
        Whether its values are numbers of objects or classes.
    header
        Header from the manifest of a dataset; results have none.
    """

    image: str
    name: str
    entry: FileEntry
    labels: bool
    header: ImageEntry | None = None

    @property
    def digest(self) -> str:
        """Name of the folder with its tiles."""
        return tiles_digest(self.entry.sha256, labels=self.labels)


@dataclass(frozen=True)
class Layers:
    """All images of a published dataset or result, by name of the image, then of the layer."""

    place: Location
    images: Mapping[str, Mapping[str, Layer]] = field(default_factory=dict)

    def find(self, image: str, name: str) -> Layer:
        """Return a layer; raise NotFoundError naming what there is."""
        if image not in self.images:
            raise NotFoundError(f"There is no image {image!r} in {self.place.name}.")
        layers = self.images[image]
        if name not in layers:
            raise NotFoundError(f"The image {image!r} has no layer {name!r}; it has {', '.join(layers)}.")
        return layers[name]

    def all(self) -> list[Layer]:
        """Return all layers."""
        return [layer for layers in self.images.values() for layer in layers.values()]


def layers_at(store: Store, place: Location) -> Layers:
    """Return the layers of what is published at `place`; raise NotFoundError if that is no dataset and no result."""
    try:
        return layers_of_dataset(place, DatasetManifest.read(store, place / DATASET_MANIFEST))
    except NotFoundError:
        return layers_of_result(place, ResultManifest.read(store, place / RESULT_MANIFEST))


def layers_of_dataset(place: Location, dataset: DatasetManifest) -> Layers:
    """Return the layers of a dataset: its images by split and stem, with their roles."""
    entries = {entry.name: entry for entry in dataset.files}
    images: dict[str, dict[str, Layer]] = {}
    for image in dataset.images:
        target = image.role.startswith("target") and dataset.kind in _LABEL_KINDS
        name = f"{image.split}:{image.stem}"
        layer = Layer(name, image.role, entries[image.file], target or image.role == CLASS_ROLE, image)
        images.setdefault(name, {})[image.role] = layer
    return Layers(place, images)


def layers_of_result(place: Location, result: ResultManifest) -> Layers:
    """Return the layers of a result: those of its files that are images and belong to one of its inputs by name.

    What a prediction lists as an output has the name of the output; others, such as the maps of an evaluation, are
    named by their folders, joined by points.
    """
    files = {entry.name: entry for entry in result.files}
    by_stem: dict[str, list[tuple[str, FileEntry]]] = {}
    for entry in result.files:
        path = PurePosixPath(entry.public_name)
        if path.name.lower().endswith(IMAGE_SUFFIXES) and len(path.parts) > 1:
            # A label of several targets has a slash itself.
            for depth in range(1, len(path.parts)):
                stem = "/".join((*path.parts[depth:-1], _stem(path.name)))
                by_stem.setdefault(stem, []).append((".".join(path.parts[:depth]), entry))
    images: dict[str, dict[str, Layer]] = {}
    for item in result.images or _unlisted(result):
        name, layers = item.input.replace("/", ":"), dict[str, Layer]()
        listed = {kind: files[output] for kind, output in item.outputs.items() if output in files}
        for kind, entry in listed.items():
            if entry.name.lower().endswith(IMAGE_SUFFIXES) and kind != "overlay":
                labels = kind in item.labels or (kind == _MAIN and OBJECTS in item.outputs) or kind == CLASS_ROLE
                layers[kind] = Layer(name, kind, entry, labels)
        parent, _, last = item.input.rpartition("/")
        label = f"{parent}/{_stem(last)}" if parent else _stem(last)
        for kind, entry in by_stem.get(label, ()):
            if entry not in listed.values():
                layers.setdefault(kind, Layer(name, kind, entry, labels=False))
        if layers:
            images[name] = layers
    return Layers(place, images)


def _unlisted(result: ResultManifest) -> list[ResultFile]:
    """Return the images of a result that other programs have published without a list of them."""
    return [
        ResultFile(input=entry.public_name, input_sha256="", outputs={_MAIN: entry.name})
        for entry in result.files
        if "/" not in entry.public_name and result.kind == _MAIN
    ]


def _stem(name: str) -> str:
    return image_stem(Path(name)) if name.lower().endswith(IMAGE_SUFFIXES) else name
