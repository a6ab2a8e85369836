"""The images that a prediction is made of: a split of a dataset, a published prediction, or a plain folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from parfocal.runtime.errors import InvalidInputError, NotFoundError, Violation, refusal
from parfocal.runtime.images.files import IMAGE_SUFFIXES, name_clash, output_stem
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.store.manifests import DATASET_MANIFEST, DatasetManifest, FileEntry, ResultManifest
from parfocal.runtime.store.store import Location, Store


@dataclass(frozen=True)
class InputFile:
    """An image in the store: its name, its manifest entry (None in a plain folder), and the place of the manifest."""

    name: str
    entry: FileEntry | None
    place: Location


def list_inputs(store: Store, input_uri: str, split: str, role: str, names: Sequence[str] = ()) -> list[InputFile]:
    """Return the images of a split in one role, or without a split all images of a folder, or those with `names`.

    Where a prediction is published at `input_uri`, its predicted images are taken, by their public names: so one model
    is applied to what another has made.

    Raises
    ------
    InvalidInputError
        A folder holds no images, or two whose results would have the same name.
    NotFoundError
        A published prediction has no image of one of the names.
    """
    place = Location.parse(input_uri)
    if split:
        dataset = DatasetManifest.read(store, place / DATASET_MANIFEST)
        entries = {entry.name: entry for entry in dataset.files}
        images = dataset.select(split, role)
        return [InputFile(image.file.rsplit("/", 1)[-1], entries[image.file], place) for image in images]
    if (result := ResultManifest.at(store, place)) is not None:
        predictions = result.predictions
        wanted = names or [name for name in predictions if name.lower().endswith(IMAGE_SUFFIXES)]
        if missing := [name for name in wanted if name not in predictions]:
            raise NotFoundError(f"There is no predicted image {missing[0]!r} in {place}.")
        if not wanted:
            raise InvalidInputError(f"The result {place} has no images that another model could be applied to.")
        return [InputFile(name, predictions[name], place) for name in wanted]
    there = names or [str(item.location).removeprefix(f"{place}/") for item in store.objects(place)]
    found = [InputFile(name, None, place) for name in there if name.lower().endswith(IMAGE_SUFFIXES)]
    if not found:
        raise InvalidInputError(f"There are no TIFF, PNG or JPEG images below {place}.")
    known: dict[str, str] = {}
    clashes = [
        Violation(name, name_clash(Path(name), Path(other)))
        for name in (item.name for item in found)
        if (other := known.setdefault(output_stem(name), name)) != name
    ]
    if clashes:
        raise refusal(f"The images below {place} cannot be told apart:", clashes)
    return found


def fetch_input(context: JobContext, item: InputFile) -> Path:
    """Return the image as a local file: from the cache, or downloaded once for this job."""
    if item.entry is not None:
        return context.cache.fetch(context.store, item.place, item.entry)
    path = context.scratch / "inputs" / item.name
    if not path.exists():  # a download is there complete or not at all
        context.store.download(item.place / item.name, path)
    return path
