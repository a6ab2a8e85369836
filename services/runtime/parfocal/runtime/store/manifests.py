"""The manifests that make a dataset, model or result exist: written last, never changed."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from parfocal.runtime.access.identity import UNVERIFIED
from parfocal.runtime.errors import DamagedError, InvalidInputError, NotFoundError, Violation
from parfocal.runtime.store.facts import Facts
from parfocal.runtime.store.store import Location, Store

DATASET_MANIFEST = "dataset.json"
MODEL_MANIFEST = "model.json"
RESULT_MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
"""Version of manifests: raised when readers that do not know a change would misunderstand them."""
UNCERTAINTY = "uncertainty"
"""The output that says how far a prediction may be off, in the units of the image."""
UNCERTAINTY_FACTOR = "uncertainty_factor"
"""Key in the calibration of a model: factor by which the predicted uncertainty is multiplied."""
OBJECTS = "objects"
"""The output with the table of objects, and in counts their number: a prediction beside it is a label image."""
PART = "part"
"""Kind of the result of a job that did a part of a prediction, and of the file that it has for each image."""
MOST_PARTS = 64
"""The most parts of a prediction: each of them reads the whole image once."""
TURNED_BACK = "turned_back"
"""The output that an image of another kind becomes when it is turned back into what it was made from."""


_ATTEMPT_FOLDER = re.compile(r"a\d{4,}/")


def attempt_folder(attempt: int) -> str:
    """Return the name of the folder for the files of one attempt of a job, e.g. "a0001"."""
    return f"a{attempt:04d}"


def public_name(name: str) -> str:
    """Return the name that people see for a file's name in a manifest: without the folder of the job's attempt."""
    match = _ATTEMPT_FOLDER.match(name)
    return name[match.end() :] if match else name


class FileEntry(BaseModel):
    """One file: `name` relative to the manifest's folder, size in bytes, SHA-256 in hexadecimal.

    Files that a job wrote lie in the folder of its attempt, so that a worker that was replaced cannot touch them.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    size: int
    sha256: str

    @property
    def public_name(self) -> str:
        """The name that people see, and that a download has."""
        return public_name(self.name)


class Manifest(BaseModel):
    """Common parts of all manifests. Unknown fields of a newer Parfocal are kept out of the way, not refused."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = SCHEMA_VERSION
    project: str
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    created_by: str = UNVERIFIED.name
    files: tuple[FileEntry, ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def read(cls, store: Store, location: Location) -> Self:
        """Read a manifest from the store.

        Raises
        ------
        NotFoundError
            It is not published.
        DamagedError
            It cannot be read, or a newer Parfocal wrote it in a way that this one does not know.
        """
        return cls.parse(store.read(location), str(location))

    @classmethod
    def parse(cls, data: bytes, name: str) -> Self:
        """Return the manifest in the bytes of one; `name` says in errors which it is.

        Raises
        ------
        DamagedError
            See `read`.
        """
        try:
            manifest = cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "its content"
            raise DamagedError(
                f"{name} is damaged, or was not written by Parfocal: {where}: {first['msg']}. Restore it from a "
                "backup, or remove its folder."
            ) from error
        if manifest.schema_version > SCHEMA_VERSION:
            raise DamagedError(
                f"{name} was written by a newer version of Parfocal (format {manifest.schema_version}; this one knows "
                f"{SCHEMA_VERSION}). Update this installation."
            )
        return manifest

    def to_bytes(self) -> bytes:
        """Return the manifest as it is stored."""
        return self.model_dump_json(indent=2).encode()

    def entry(self, name: str) -> FileEntry | None:
        """Return the entry of the file with the public name `name`, or None."""
        return next((entry for entry in self.files if entry.public_name == name), None)

    def place_of(self, folder: Location, name: str) -> Location:
        """Return where the file with the public name `name` lies; raise NotFoundError if the manifest has none.

        `folder` is the manifest's folder.
        """
        entry = self.entry(name)
        if entry is None:
            raise NotFoundError(f"There is no file {name} among those of {folder}.")
        return folder / entry.name


def _checked_name(value: str) -> str:
    """Return the name of a split, role or image; raise ValueError if it is none: it becomes the name of a file."""
    if value in {"", ".", ".."} or any(character in value for character in "/\\\0"):
        raise ValueError(f"{value!r} is not a valid name: it is empty, or holds a slash, a backslash or a zero byte")
    # Also where another program wrote the manifest: images find their partners by name.
    return unicodedata.normalize("NFC", value)


class ImageEntry(BaseModel):
    """One image of a dataset: what its header says, so that a request can be checked without its pixels."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    split: str
    role: str
    stem: str
    file: str
    shape: tuple[int, ...]
    dtype: str
    axes: str
    pixel_size_um: tuple[float | None, float | None, float | None] | None = None

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """Lengths in pixels along all axes but those of channels and colours."""
        return tuple(length for axis, length in zip(self.axes, self.shape, strict=True) if axis not in "CS")

    @field_validator("split", "role", "stem")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        return _checked_name(value)


class AnnotationEntry(BaseModel):
    """One file of a dataset that is no image: what was drawn in, or located on, the source image of the same stem.

    `objects` is the number of its boxes or localisations.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    split: str
    role: str
    stem: str
    file: str
    objects: int

    @field_validator("split", "role", "stem")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        return _checked_name(value)


class ObjectSizes(BaseModel):
    """Sizes of the objects of label images: their bounding boxes in pixels along each axis.

    `largest_in` is a file with an object that spans most along any axis.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    objects: int
    median: tuple[float, ...]
    largest: tuple[int, ...]
    largest_in: str = ""


class DatasetManifest(Manifest):
    """A published dataset version. `images` has one entry for each image, `annotations` for each other file.

    Attributes
    ----------
    kind
        Kind of the dataset: a name of `parfocal.runtime.datasets.kinds`. Empty in datasets made before kinds were
        recorded, whose targets are images.
    classes
        Names of the classes of boxes or of class images, in the order of their index.
    class_values
        The grey value of each class in class images, in the same order.
    counts
        Counts by split, e.g. {"train": {"images": 20, "boxes": 93}}.
    class_counts
        By split: number of boxes, or of pixels in class images, of each class.
    unpaired
        The splits in which images of the same name are no partners.
    object_sizes
        By split of label images: sizes of the objects; empty in datasets made before this was measured.
    field_counts
        By split: estimated number of different fields of view in the source images; empty in datasets made before this
        was counted.
    part
        Which part was taken of files that were converted: options of the command line, e.g. "--channel DAPI".
    part_channels
        Names of the channels that were taken, in their order, as the first training image has them; empty where it has
        none, and in datasets made before this was recorded.
    parent, source_model, draft, editors
        Where targets were drawn or corrected in Parfocal: the address of the dataset or result that they began with,
        that of the model that had predicted them, the id of the draft, and everybody who has changed an image.
    """

    dataset: str
    version: int
    images: tuple[ImageEntry, ...]
    licence: str = ""
    description: str = ""
    kind: str = ""
    annotations: tuple[AnnotationEntry, ...] = ()
    classes: tuple[str, ...] = ()
    class_values: tuple[int, ...] = ()
    counts: dict[str, dict[str, int]] = Field(default_factory=dict)
    class_counts: dict[str, dict[str, int]] = Field(default_factory=dict)
    unpaired: tuple[str, ...] = ()
    object_sizes: dict[str, ObjectSizes] = Field(default_factory=dict)
    field_counts: dict[str, int] = Field(default_factory=dict)
    part: str = ""
    part_channels: tuple[str, ...] = ()
    parent: str = ""
    source_model: str = ""
    draft: str = ""
    editors: tuple[str, ...] = ()

    @property
    def image_class_values(self) -> tuple[int, ...]:
        """The value of each class where the targets are class images; label images may have others beside them."""
        return self.class_values if self.kind == "classes" else ()

    @property
    def class_names(self) -> dict[int, str]:
        """The name of each grey value of class images, of those that somebody has named."""
        pairs = zip(self.class_values, self.classes, strict=False)
        return {value: name for value, name in pairs if name != str(value)}

    def select(self, split: str, role: str) -> tuple[ImageEntry, ...]:
        """Return the images of one split ("train", "test") and role ("source", "target", "target_DAPI", …)."""
        return tuple(image for image in self.images if image.split == split and image.role == role)

    def select_annotations(self, split: str, role: str = "target") -> tuple[AnnotationEntry, ...]:
        """Return the files with boxes or localisations of one split, one for each source image."""
        return tuple(entry for entry in self.annotations if entry.split == split and entry.role == role)

    def has_targets(self, split: str) -> bool:
        """Return whether a split has what predictions of its sources can be compared with, image by image."""
        if split in self.unpaired:
            return False
        return bool(self.select(split, "target") or self.select_annotations(split))

    def has_unpaired(self, split: str) -> bool:
        """Return whether a split has images of two kinds that are no pairs, which can be compared as sets."""
        return split in self.unpaired and bool(self.select(split, "source") and self.select(split, "target"))

    def can_be_judged_by(self, split: str) -> bool:
        """Return whether quality control can compare predictions of a split: image by image, or as sets."""
        return self.has_targets(split) or self.has_unpaired(split)

    def roles(self, kind: str) -> tuple[str, ...]:
        """Return the roles of a kind, e.g. "target", then "target_DAPI" and others with a suffix in order of name."""
        found = {image.role for image in self.images}
        return tuple(sorted(role for role in found if role == kind or role.startswith(f"{kind}_")))


class KeptWeights(BaseModel):
    """Weights of a model that can be predicted with: after which epoch, and why these.

    `metric` is what they were selected by and `value` its value then; the weights of the last epoch have neither.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    epoch: int
    metric: str = ""
    value: float | None = None


class ModelManifest(Manifest):
    """A published model version: everything needed to apply it, and everything known of how it was made.

    `facts` are what the network was built for and what was measured on its data; `weights` are those that can be
    predicted with, by name, the usual ones first. `part` and `part_channels` are those of its dataset, what was taken
    of its files; empty in models made before this was recorded. A model that was not trained by Parfocal has an
    `origin`, and neither job nor dataset. If it came in a package, `package` is what that says of it: the word of its
    authors, which nobody here has checked.
    """

    model: str
    version: int
    service: str
    method: str
    job: str
    parameters: dict[str, Any]
    citation: str = ""
    axes: str
    normaliser: dict[str, Any]
    facts: Facts = Field(default_factory=Facts)
    weights: dict[str, KeptWeights] = Field(default_factory=dict)
    training_statistics: dict[str, Any] = Field(default_factory=dict)
    dataset_uri: str
    dataset_sha256: dict[str, str] = Field(default_factory=dict)
    part: str = ""
    part_channels: tuple[str, ...] = ()
    split: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    environment: dict[str, Any] = Field(default_factory=dict)
    parent: str = ""
    origin: str = ""
    package: dict[str, Any] = Field(default_factory=dict)
    pixel_size_um: tuple[float | None, float | None, float | None] | None = None
    training_seconds: float = 0.0
    epochs: int = 0

    @property
    def source(self) -> str:
        """The dataset's role that the model was trained on."""
        return self.facts.source

    @property
    def input_channels(self) -> int:
        """Channels of an image that the model takes."""
        return self.facts.input_channels

    @property
    def calibration(self) -> dict[str, float]:
        """Single numbers that were set on the validation images or measured on the data."""
        return {name: value for name, value in self.facts.measured.items() if isinstance(value, int | float)}

    def weights_named(self, name: str, field: str = "weights") -> str:
        """Return the name of kept weights; "best" are the usual ones, the first, where none are called so.

        Raises
        ------
        InvalidInputError
            The model has no such weights; the violation has the name of the `field` that asked for them.
        """
        if name in self.weights:
            return name
        if name == "best" and self.weights:
            return next(iter(self.weights))
        known = ", ".join(self.weights) or "none"
        text = f"The model {self.model}:{self.version} has no weights {name!r}; it has {known}."
        raise InvalidInputError(text, [Violation(field, text)])

    @property
    def best_epoch(self) -> int:
        """The epoch of the weights that are usually predicted with; 0 where no training is known."""
        return next((kept.epoch for kept in self.weights.values()), 0)


class ResultFile(BaseModel):
    """One processed image: its input with digest, what was written, or why nothing was.

    `outputs` are names in `files` of the manifest, by kind of output; `labels` are the kinds whose values are numbers
    of objects or classes, empty in results made before this was recorded. `drift` says how the input differs from all
    images the model was trained on.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    input: str
    input_sha256: str
    outputs: dict[str, str] = Field(default_factory=dict)
    labels: tuple[str, ...] = ()
    seconds: float = 0.0
    clipped_fraction: float = 0.0
    reason: str = ""
    drift: tuple[str, ...] = ()
    metrics: dict[str, float] = Field(default_factory=dict)


class ResultManifest(Manifest):
    """A published result of a prediction or evaluation.

    `targets` are the dataset's roles that a prediction stands for: the output "prediction" for the first, an output
    of the role's name for each of the others. `part` is the number (from 1) and count where the job did one part of a
    prediction, whose kind is then "part"; `parts` are the ids of the jobs whose parts were merged into this one.
    """

    job: str
    service: str
    method: str
    kind: str
    model_uri: str = ""
    input_uri: str = ""
    split: str = ""
    targets: tuple[str, ...] = ("target",)
    parameters: dict[str, Any] = Field(default_factory=dict)
    environment: dict[str, Any] = Field(default_factory=dict)
    verdict: dict[str, Any] = Field(default_factory=dict)
    summary: dict[str, Any] = Field(default_factory=dict)
    images: tuple[ResultFile, ...] = ()
    part: tuple[int, int] | None = None
    parts: tuple[str, ...] = ()

    @property
    def predictions(self) -> dict[str, FileEntry]:
        """The file with the prediction of each image, by its public name, where there is one."""
        files = {entry.name: entry for entry in self.files}
        made = (files.get(image.outputs.get("prediction", "")) for image in self.images if not image.reason)
        return {entry.public_name: entry for entry in made if entry is not None}

    @classmethod
    def at(cls, store: Store, place: Location) -> Self | None:
        """Return the result that is published at a place; None for any other folder."""
        if place.bucket != store.results.bucket or place.key.count("/") != 1:
            return None
        try:
            return cls.read(store, place / RESULT_MANIFEST)
        except NotFoundError:
            return None
