"""The images of a draft: where each one and what is known of it lie, and which the model is least sure of."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import quote
from weakref import WeakKeyDictionary

from parfocal import v1
from parfocal.client import Client
from parfocal.client.datasets import read_dataset
from parfocal.client.published import read_manifest
from parfocal.client.transfer import download_files, for_each
from parfocal.portal.words import title_in
from parfocal.runtime.datasets.classes import CLASS_ROLE
from parfocal.runtime.errors import InvalidInputError, NotFoundError, ParfocalError, PreconditionError
from parfocal.runtime.images.files import IMAGE_SUFFIXES, image_stem
from parfocal.runtime.store.manifests import OBJECTS, DatasetManifest, FileEntry, ResultFile, ResultManifest
from parfocal.runtime.store.names import versioned_name

DETECTIONS: Final = "detections"
_PREDICTION: Final = "prediction"
_SCORES: Final = {OBJECTS: "probability", DETECTIONS: "confidence"}
_UNSURE: Final = 0.5
_FRESH_SECONDS: Final = 20.0
KIND_TITLES: Final[Mapping[str, str]] = {
    "labels": "Objects: one number for each",
    "classes": "Areas: a class for each pixel",
    "boxes": "Boxes around objects",
}
"""What can be drawn, and how people call it."""


@dataclass(frozen=True)
class Stored:
    """A file of a published dataset or result; `entry` is None for an image that a prediction was given."""

    uri: str
    name: str
    entry: FileEntry | None = None

    def fetch(self, client: Client, folder: Path) -> Path:
        """Return the path of the file, brought to `folder`."""
        if self.entry is not None:
            (path,) = download_files(client, self.uri, [self.entry], folder, overwrite=True)
            return path
        path = folder / PurePosixPath(self.name).name
        with path.open("wb") as file:
            for data in client.catalog.parts(self.uri, self.name):
                file.write(data)
        return path


@dataclass(frozen=True)
class Field:
    """One image of a draft.

    Attributes
    ----------
    name
        Its name in the draft and in addresses, without a slash: "train:f015" of a dataset, the name of the input of a
        result.
    stem, split
        Its name without suffix, and the part of the dataset that it belongs to; empty for other images.
    source
        The image itself.
    tiles
        The address at which the viewer finds its tiles; empty where nobody has made them.
    target
        Label image, class image or boxes that it begins with; None where there are none.
    classes
        The class image beside a label image.
    scores
        The table with the scores of what was predicted.
    certainty
        The mean score of what was predicted in it, 0 to 1; None where nothing is known.
    found, unsure
        How many objects have a score, and how many of them one below one half.
    differs
        How it differs from all images that the model was trained on.
    """

    name: str
    stem: str
    split: str
    source: Stored
    tiles: str = ""
    target: Stored | None = None
    classes: Stored | None = None
    scores: Stored | None = None
    certainty: float | None = None
    found: int = 0
    unsure: int = 0
    differs: Sequence[str] = ()

    @property
    def doubt(self) -> str:
        """Say in words how certain the model is of it; empty where nothing is known."""
        words = []
        if self.differs:
            words.append("differs from the training images")
        if self.certainty is not None:
            words.append(f"mean score {self.certainty:.2f}")
            if self.unsure:
                words.append(f"{self.unsure} of {self.found} below {_UNSURE:g}")
        elif self.scores is not None:
            words.append("nothing was found")
        return ", ".join(words)


@dataclass(frozen=True)
class Fields:
    """All images of a draft in the order in which they are offered; `order` says in words which that is."""

    fields: tuple[Field, ...]
    order: str

    def find(self, name: str) -> Field:
        """Return an image by its name; raise NotFoundError where there is none."""
        for field in self.fields:
            if field.name == name:
                return field
        raise NotFoundError(f"There is no image {name!r} in this draft.")


class FieldReader:
    """Reads the images of drafts. What is published never changes, so it is read once."""

    def __init__(self) -> None:
        self._known = lru_cache(maxsize=64)(_read)
        self._drafts: WeakKeyDictionary[Client, dict[str, tuple[float, v1.Draft]]] = WeakKeyDictionary()

    def draft(self, client: Client, name: str) -> v1.Draft:
        """Return what a draft began with; one that this client was given a moment ago is not asked for again.

        Tiles come by the dozen, and what a draft began with never changes.
        """
        known = self._drafts.setdefault(client, {})
        found = known.get(name)
        if found is None or time.monotonic() - found[0] > _FRESH_SECONDS:
            found = known[name] = (time.monotonic(), client.catalog.draft(name).draft)
        return found[1]

    def fields(self, client: Client, draft: v1.Draft) -> Fields:
        """Return the images of a draft.

        Raises
        ------
        NotFoundError
            What the draft began with was removed.
        """
        return self._known(_Key(client, draft.base_uri, draft.kind))


class _Key:
    """What images are remembered by: the project that reads them, the address and the kind, whoever reads."""

    def __init__(self, client: Client, uri: str, kind: str) -> None:
        self.client, self.uri, self.kind = client, uri, kind

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._parts == other._parts

    def __hash__(self) -> int:
        return hash(self._parts)

    @property
    def _parts(self) -> tuple[str, str, str]:
        # Addresses of tiles have the name of the project that looks at them.
        return self.client.project, self.uri, self.kind


def kind_of_result(result: ResultManifest) -> str:
    """Return what can be corrected of a prediction: "labels", "classes" or "boxes".

    Raises
    ------
    PreconditionError
        It has neither objects nor areas nor boxes.
    """
    if result.kind == _PREDICTION:
        if any(OBJECTS in image.outputs for image in result.images):
            return "labels"
        if any(DETECTIONS in image.outputs for image in result.images):
            return "boxes"
    raise PreconditionError("There is nothing to correct here: this result has neither objects, areas nor boxes.")


def _read(key: _Key) -> Fields:
    entry = key.client.catalog.entry_at(key.uri)
    if entry.kind == v1.ENTRY_KIND_DATASET:
        dataset = read_manifest(key.client, key.uri, DatasetManifest)
        return _of_dataset(key.client.project, key.uri, dataset, key.kind)
    return _of_result(key.client, key.uri, read_manifest(key.client, key.uri, ResultManifest), key.kind)


def _of_dataset(project: str, uri: str, dataset: DatasetManifest, kind: str) -> Fields:
    files = {entry.name: entry for entry in dataset.files}
    name = title_in(project, dataset).replace("/", "~")
    partners = {(image.split, image.role, image.stem): image.file for image in dataset.images}
    tables = {(each.split, each.stem): each.file for each in dataset.annotations if each.role == "target"}
    found = []
    for image in dataset.images:
        if image.role != "source":
            continue
        target = ""
        if kind == dataset.kind:
            target = partners.get((image.split, "target", image.stem), tables.get((image.split, image.stem), ""))
        classed = partners.get((image.split, CLASS_ROLE, image.stem), "") if kind == "labels" else ""
        key = f"{image.split}:{image.stem}"
        found.append(
            Field(
                name=key,
                stem=image.stem,
                split=image.split,
                source=Stored(uri, image.file, files[image.file]),
                tiles=_tiles(project, "dataset", name, key, image.role),
                target=Stored(uri, target, files[target]) if target else None,
                classes=Stored(uri, classed, files[classed]) if target and classed else None,
            )
        )
    found.sort(key=lambda field: field.split != "train")
    bare = not any(field.target for field in found)
    order = "In the order of their names; nothing is drawn in them yet." if bare else "In the order of their names."
    return Fields(tuple(found), order)


def _of_result(client: Client, uri: str, result: ResultManifest, kind: str) -> Fields:
    files = {entry.name: entry for entry in result.files}
    sources = _dataset_sources(client, result)
    found = []
    for image in result.images:
        name, path = image.input.replace("/", ":"), PurePosixPath(image.input)
        stem = image_stem(Path(path.name))
        known = sources.get(stem) if result.split else Field(name, stem, "", Stored(uri, f"inputs/{image.input}"))
        if known is None or image.reason:
            continue  # its dataset is gone, or nothing was predicted
        target = image.outputs.get(DETECTIONS if kind == "boxes" else _PREDICTION, "")
        classed = image.outputs.get(CLASS_ROLE, "") if kind == "labels" else ""
        scores = image.outputs.get(DETECTIONS if kind == "boxes" else OBJECTS, "")
        field = replace(
            known,
            name=name,
            target=_stored(uri, files, target),
            classes=_stored(uri, files, classed) if classed.lower().endswith(IMAGE_SUFFIXES) else None,
            scores=_stored(uri, files, scores) if scores.endswith(".csv") else None,
            differs=_differs(image),
        )
        found.append(field)
    scored = for_each([(field.name, field) for field in found], lambda field: _with_scores(client, field, kind))
    return in_order(scored)


def in_order(fields: Sequence[Field]) -> Fields:
    """Return images with those first of which the model is least certain, and in words why."""
    if not any(field.scores for field in fields):
        return Fields(tuple(fields), "In the order of their names: this method says nothing of how certain it is.")

    def doubt(field: Field) -> tuple[bool, float]:
        return not field.differs, -1.0 if field.certainty is None else field.certainty

    text = "Least certain first: by the mean score that the model gave what it found"
    if any(field.differs for field in fields):
        text += "; images that differ from its training images come before all others"
    return Fields(tuple(sorted(fields, key=doubt)), f"{text}.")


def _with_scores(client: Client, field: Field, kind: str) -> Field:
    """Return an image with what the table of its objects or boxes says of how certain the model is."""
    if field.scores is None:
        return field
    try:
        text = client.catalog.read(field.scores.uri, field.scores.name).decode("utf-8", "replace")
    except ParfocalError:
        return field  # the order is a help, not a condition
    column = _SCORES[DETECTIONS if kind == "boxes" else OBJECTS]
    values = [number for row in csv.DictReader(io.StringIO(text)) if (number := _number(row.get(column))) is not None]
    if not values:
        return field
    unsure = sum(value < _UNSURE for value in values)
    return replace(field, certainty=sum(values) / len(values), found=len(values), unsure=unsure)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value <= 1 else None


def _dataset_sources(client: Client, result: ResultManifest) -> dict[str, Field]:
    """Return by stem the images of the dataset that a prediction was made from; nothing for own images."""
    if not result.split or not result.input_uri:
        return {}
    try:
        dataset = read_dataset(client, versioned_name(result.input_uri, client.project))
    except ParfocalError as error:
        raise NotFoundError(
            f"The images of this prediction are those of {versioned_name(result.input_uri)}, which is not there any "
            "more. Take it out of the trash, and open this page again."
        ) from error
    own = _of_dataset(client.project, result.input_uri, dataset, "none").fields
    return {field.stem: field for field in own if field.split == result.split}


def _differs(image: ResultFile) -> tuple[str, ...]:
    return tuple(image.drift)


def _stored(uri: str, files: Mapping[str, FileEntry], name: str) -> Stored | None:
    entry = files.get(name)
    return None if entry is None else Stored(uri, entry.public_name, entry)


def _tiles(project: str, kind: str, name: str, image: str, layer: str) -> str:
    return "/".join(("/p", project, "tiles", kind, *(quote(part, safe=":") for part in (name, image, layer)), "info"))


def require_drawable(kind: str) -> str:
    """Return a kind if it is one that can be drawn, else raise InvalidInputError."""
    if kind not in KIND_TITLES:
        raise InvalidInputError(f"Choose what you want to draw: {', '.join(KIND_TITLES)}.")
    return kind
