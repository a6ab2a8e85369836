"""Sheets of examples of a dataset, of a folder or a stored one: what a training will see."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from parfocal.client.client import Client
from parfocal.client.convert import WHOLE, Part
from parfocal.client.datasets import checked_folder, read_dataset
from parfocal.client.transfer import download_files
from parfocal.runtime.datasets.view import FolderView
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.store.manifests import DatasetManifest
from parfocal.runtime.store.publish import file_entry
from parfocal.runtime.training.preview import PreviewParameters, preview_figure

# A few images are fetched, spread over the dataset.
_MOST_IMAGES: Final = 8


def preview_folder(
    folder: Path,
    parameters: Mapping[str, Any],
    *,
    kind: str = "",
    axes: str = "",
    part: Part = WHOLE,
    augmented: bool = False,
) -> bytes:
    """Return a sheet of a folder's training images as PNG; the folder is checked as for `create_dataset`.

    Parameters
    ----------
    folder, kind, axes, part
        As for `check_folder`.
    parameters
        Those of a training; what does not decide how patches look is passed over.
    augmented
        Show patches as a training sees them, too.

    Raises
    ------
    InvalidInputError
        As for `check_folder`.
    """
    with sampled_folder(folder, kind=kind, axes=axes, part=part) as (sample, manifest):
        return _sheet(sample, manifest, parameters, augmented)


@contextmanager
def sampled_folder(
    folder: Path, *, kind: str = "", axes: str = "", part: Part = WHOLE
) -> Iterator[tuple[Path, DatasetManifest]]:
    """Yield some training images of a folder, as they would be published, in a folder of their own, and their manifest.

    Raises
    ------
    InvalidInputError
        As for `check_folder`.
    """
    with (
        checked_folder(folder, axes, kind, None, False, part) as report,
        tempfile.TemporaryDirectory(prefix="parfocal-") as scratch,
    ):
        items = {item.file: item for item in report.items()}
        files, entries = [], []
        for name in _spread(items):
            path = Path(scratch) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            entries.append(items[name].write(path))
            files.append(file_entry(path, name))
        yield Path(scratch), report.manifest(files, entries, project="", dataset=folder.resolve().name, version=0)


def preview_stored(client: Client, name: str, parameters: Mapping[str, Any], *, augmented: bool = False) -> bytes:
    """Return a sheet of the training images of the dataset "name" or "name:version" as PNG; see `preview_folder`.

    Raises
    ------
    NotFoundError, UnavailableError
        There is no such dataset, or the store does not answer.
    """
    with sampled_dataset(client, name) as (sample, manifest):
        return _sheet(sample, manifest, parameters, augmented)


@contextmanager
def sampled_dataset(client: Client, name: str) -> Iterator[tuple[Path, DatasetManifest]]:
    """Yield some training images of the dataset "name" or "name:version" in a folder, and the manifest of these.

    Raises
    ------
    NotFoundError, UnavailableError
        There is no such dataset, or the store does not answer.
    """
    manifest = read_dataset(client, name)
    uri = client.dataset_uri(client.catalog.title(manifest.project, manifest.dataset, manifest.version))
    chosen = set(_spread(entry.name for entry in manifest.files))
    with tempfile.TemporaryDirectory(prefix="parfocal-") as scratch:
        download_files(client, uri, [entry for entry in manifest.files if entry.name in chosen], Path(scratch))
        some = manifest.model_copy(
            update={
                "images": tuple(image for image in manifest.images if image.file in chosen),
                "annotations": tuple(entry for entry in manifest.annotations if entry.file in chosen),
            }
        )
        yield Path(scratch), some


def _spread(files: Iterable[str]) -> list[str]:
    """Return the training files of some images, those of each role in natural order and evenly spread."""
    by_role: dict[str, list[str]] = {}
    for name in files:
        split, role, _ = name.split("/", 2)
        if split == "train":
            by_role.setdefault(role, []).append(name)
    if "source" not in by_role:
        raise InvalidInputError("There are no training images, so there is nothing to show.")
    chosen = []
    for names in by_role.values():
        places = np.unique(np.linspace(0, len(names) - 1, min(len(names), _MOST_IMAGES)).round().astype(int))
        chosen += [names[place] for place in places]
    return chosen


def _sheet(folder: Path, manifest: DatasetManifest, parameters: Mapping[str, Any], augmented: bool) -> bytes:
    letters = next(image.axes for image in manifest.images if image.role == "source")
    # Frames of stacks are images of their own; channels belong to an image.
    axes = "".join(axis for axis in letters if axis in "ZYX")
    view = FolderView(manifest=manifest, axes=axes, minimum_images=1, scratch=folder / ".scratch", folder=folder)
    figure = preview_figure(view, PreviewParameters.of(parameters), augmented=augmented)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
