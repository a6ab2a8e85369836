"""From a draft to a version of a dataset: the images that somebody called complete, with their labels or boxes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from parfocal import v1
from parfocal.client import Client
from parfocal.client.datasets import Origin, create_dataset
from parfocal.portal.annotate.boxes import BoxEditor
from parfocal.portal.annotate.desk import Desk, Opened
from parfocal.portal.annotate.fields import Field
from parfocal.portal.uploads import HELD_OUT
from parfocal.runtime.datasets.annotations.box import Box
from parfocal.runtime.datasets.annotations.voc import voc_bytes
from parfocal.runtime.datasets.classes import CLASS_ROLE
from parfocal.runtime.errors import InvalidInputError, Violation
from parfocal.runtime.images.files import inspect_image, write_image
from parfocal.runtime.store.manifests import DatasetManifest
from parfocal.runtime.store.store import Location

USES: Final = {
    "same": "As in the dataset that they come from",
    "hold-out": f"For training, and every {HELD_OUT}th for testing",
    "train": "All for training",
}
"""What the images of the new dataset can be for, and how people call it."""


@dataclass(frozen=True)
class Wanted:
    """How a draft becomes a dataset: its name, what its images are for (a name of `USES`), and what is said of it."""

    name: str
    use: str = "same"
    description: str = ""


def suggested_use(fields: Sequence[Field]) -> str:
    """Return what complete images are best used for."""
    if any(field.split == "train" for field in fields):
        return "same"
    return "hold-out" if len(fields) >= HELD_OUT else "train"


def save_dataset(
    client: Client,
    desk: Desk,
    draft: v1.Draft,
    images: Sequence[tuple[Field, v1.DraftImage]],
    wanted: Wanted,
    class_names: Mapping[int, str],
) -> DatasetManifest:
    """Publish the complete images of a draft as a new version of a dataset.

    Numbers of objects, pixel size and axes stay as they are.

    Parameters
    ----------
    images
        The complete images with their states.
    class_names
        What the classes of objects or areas are called, by number.

    Raises
    ------
    InvalidInputError
        There is no complete image, two have the same name, or the images cannot become a dataset.
    """
    if not images:
        raise InvalidInputError("No image is marked as done yet. Mark those that are complete: only they are taken.")
    with tempfile.TemporaryDirectory(prefix="parfocal-") as scratch:
        folder = Path(scratch)
        taken: dict[tuple[str, str], str] = {}
        axes = ""
        for split, field in _splits([field for field, _ in images], wanted.use):
            other = taken.setdefault((split, field.stem), field.name)
            if other != field.name:
                text = f"has the same name as {other}. Take only one of them."
                raise InvalidInputError(f"{field.name} {text}", [Violation(field.name, text)])
            found = _arrange(client, draft, field, desk.opened(client, draft, field), folder / split)
            axes = axes or found
        editors = dict.fromkeys(name for _, state in images for name in state.editors)
        own = draft.model_uri and Location.parse(draft.model_uri).key.startswith(f"{client.project}/")
        try:
            return create_dataset(
                client,
                wanted.name,
                folder,
                axes="" if axes == "YX" else axes,
                kind=draft.kind,
                description=wanted.description,
                class_names=class_names,
                origin=Origin(draft.base_uri, draft.model_uri if own else "", draft.draft, tuple(editors)),
            )
        except InvalidInputError as error:
            # Where the portal puts the images together is of no interest to anybody.
            raise InvalidInputError(error.message.replace(str(folder), "The draft"), error.violations) from error


def _splits(fields: Sequence[Field], use: str) -> Iterator[tuple[str, Field]]:
    """Yield each image with the part of the dataset that it becomes one of."""
    for number, field in enumerate(sorted(fields, key=lambda field: field.stem), start=1):
        if use == "same":
            yield field.split or "train", field
        else:
            yield "test" if use == "hold-out" and number % HELD_OUT == 0 else "train", field


def _arrange(client: Client, draft: v1.Draft, field: Field, opened: Opened, folder: Path) -> str:
    """Put an image and what was drawn in it where a dataset has them; return the axes of the image."""
    source = folder / "source"
    target = folder / "target"
    for place in (source, target):
        place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        path = field.source.fetch(client, Path(scratch))
        axes = inspect_image(path).axes
        shutil.move(path, source / f"{field.stem}{''.join(path.suffixes[-1:])}")
    with opened.lock:
        if isinstance(opened.editor, BoxEditor):
            names = list(draft.classes)
            boxes = tuple(Box(names[box.classed - 1], box.corners) for box in opened.editor.boxes if box.classed)
            (target / f"{field.stem}.xml").write_bytes(voc_bytes(f"{field.stem}.tif", opened.editor.shape, boxes))
            return axes
        write_image(target / f"{field.stem}.tif", opened.image())
        if draft.kind == "labels" and draft.classes:
            (folder / CLASS_ROLE).mkdir(exist_ok=True)
            write_image(folder / CLASS_ROLE / f"{field.stem}.tif", opened.class_image())
    return axes
