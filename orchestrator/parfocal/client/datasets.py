"""Datasets: folders of image pairs on this computer, and their published versions in the store."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from parfocal.client.client import Client
from parfocal.client.convert import convert, converted_stem, is_makers_format
from parfocal.client.published import OnDamaged, log_damaged, read_published
from parfocal.client.transfer import OnProgress, for_each, no_progress
from parfocal.runtime.datasets.pairs import ImagePair, PairReport, check_pairs, find_images
from parfocal.runtime.errors import InvalidInputError, NotFoundError, ParfocalError, Violation, refusal
from parfocal.runtime.images.files import (
    IMAGE_SUFFIXES,
    image_stem,
    inspect_image,
    name_clash,
    read_image,
    write_image,
)
from parfocal.runtime.store.manifests import DATASET_MANIFEST, DatasetManifest, FileEntry, ImageEntry
from parfocal.runtime.store.names import check_name, dataset_location
from parfocal.runtime.store.publish import claim_version, file_entry, publish
from parfocal.runtime.store.store import Location

NO_TEST_IMAGES = (
    "There are no test images: quality control needs some that were not used for training. "
    "Put a few pairs into test/source and test/target and create the dataset again."
)


@dataclass(frozen=True)
class FolderReport:
    """A folder fit to become a dataset: its pairs, and what is suspicious about them.

    `files` has all images by split and role, in the order of the pairs: those of the pairs and those of further
    roles, such as ``target_DAPI``.
    """

    train: tuple[ImagePair, ...]
    test: tuple[ImagePair, ...]
    warnings: tuple[str, ...]
    files: Mapping[tuple[str, str], tuple[tuple[str, Path], ...]]

    @property
    def pairs(self) -> tuple[ImagePair, ...]:
        """All pairs, those for training first."""
        return self.train + self.test


def check_folder(folder: Path, axes: str = "YX") -> FolderReport:
    """Check a folder ``{train,test}/{source,target}/NAME.tif``, or ``{source,target}/NAME.tif`` without test images.

    Further folders ``target_LABEL`` beside ``target`` hold other images of the same fields to learn, further folders
    ``source_LABEL`` others to learn from; these may have more planes or channels than their targets.

    Parameters
    ----------
    folder
        The folder.
    axes
        What each image must have, e.g. "YX" or "ZYX"; "YXS" for colour sources, whose targets are "YX".

    Raises
    ------
    InvalidInputError
        Something is wrong: the message lists the first ten problems, `violations` holds all.
    """
    with _checked(folder, axes) as report:
        return report


def create_dataset(
    client: Client,
    name: str,
    folder: Path,
    *,
    axes: str = "YX",
    licence: str = "",
    description: str = "",
    on_progress: OnProgress = no_progress,
) -> DatasetManifest:
    """Check a folder, convert its images to OME-TIFF and publish them as a new version of the dataset `name`.

    Nothing is visible before all is uploaded. Values, data type and pixel size are kept.

    Parameters
    ----------
    client
        Whose store and project to use.
    name
        Name of the dataset; the version is given.
    folder, axes
        As for `check_folder`.
    licence, description
        For the record.
    on_progress
        Called after each uploaded image.

    Raises
    ------
    InvalidInputError
        As for `check_folder`.
    UnavailableError
        The store does not answer.
    """
    place = dataset_location(client.store, client.project, name)
    # Before minutes are spent on reading images.
    client.store.folders(place)
    with _checked(folder, axes) as report:
        return _publish(client, place, report, licence, description, on_progress)


def list_datasets(client: Client, on_damaged: OnDamaged = log_damaged) -> list[DatasetManifest]:
    """Return all published versions of all datasets of the project, by name, newest first.

    `on_damaged` is told of those whose manifest cannot be read, which are left out.
    """
    store = client.store
    return read_published(
        store,
        store.datasets / client.project,
        DATASET_MANIFEST,
        lambda place: DatasetManifest.read(store, place / DATASET_MANIFEST),
        on_damaged,
    )


def read_dataset(client: Client, name: str) -> DatasetManifest:
    """Return the manifest of the dataset "name" (newest version) or "name:version"."""
    return DatasetManifest.read(client.store, Location.parse(client.dataset_uri(name)) / DATASET_MANIFEST)


@contextlib.contextmanager
def _checked(folder: Path, axes: str) -> Iterator[FolderReport]:
    """Give the report on a folder; converted copies of makers' formats live as long as the context."""
    if not re.fullmatch("T?C?Z?YXS?", axes):
        raise InvalidInputError(
            f"{axes!r} are no axes of an image: write YX for planes, ZYX for volumes, YXS for colour images, CYX for "
            "images with channels."
        )
    splits = _splits(folder)
    with tempfile.TemporaryDirectory(prefix="parfocal-") as scratch:
        problems: list[Violation] = []
        reports: dict[str, PairReport] = {}
        files: dict[tuple[str, str], tuple[tuple[str, Path], ...]] = {}
        warnings: list[str] = []
        for split, parent in splits.items():
            try:
                reports[split] = _check_split(parent, Path(scratch) / split, axes, files, split)
            except InvalidInputError as error:
                where = "" if parent == folder else f"{split}/"
                problems += [
                    Violation(f"{where}{item.field}", item.description)
                    for item in error.violations or (Violation(split, error.message),)
                ]
                continue
            lead = f"{split}: " if len(splits) > 1 else ""
            warnings += [f"{lead}{text}" for text in reports[split].warnings]
        if len({frozenset(role for each, role in files if each == split) for split in reports}) > 1:
            warnings.append("train and test do not have the same folders: what is missing in test cannot be judged.")
        if problems:
            raise _refusal(folder, problems)
        train, test = (reports[split].pairs if split in reports else () for split in ("train", "test"))
        if len(train) == 1:
            warnings.append(
                "There is only one training pair: a part of it is held out for validation, and the model may not "
                "suit other images. Ten pairs or more are better."
            )
        if not test:
            warnings.append(NO_TEST_IMAGES)
        yield FolderReport(train, test, tuple(warnings), files)


def _check_split(
    parent: Path, scratch: Path, axes: str, files: dict[tuple[str, str], tuple[tuple[str, Path], ...]], split: str
) -> PairReport:
    """Check the images of one split and add them to `files`; return the report on source and target."""
    further = sorted(
        path.name for path in parent.iterdir() if path.is_dir() and path.name.startswith(("source_", "target_"))
    )
    folders = {role: _readable(parent / role, scratch / role) for role in ("source", "target", *further)}
    target_axes = axes.translate({ord("S"): None, ord("C"): None})
    report = check_pairs(folders["source"], folders["target"], axes=target_axes, source_axes=axes, empty_targets=True)
    warnings = list(report.warnings)
    files[split, "source"] = tuple((pair.stem, pair.source) for pair in report.pairs)
    files[split, "target"] = tuple((pair.stem, pair.target) for pair in report.pairs)
    for role in further:
        _check_role_name(role)
        if role.startswith("target_"):
            other = check_pairs(
                folders["source"], folders[role], axes=target_axes, source_axes=axes, empty_targets=True
            )
        else:
            found = next(iter(find_images(folders[role]).values()), None)
            own = inspect_image(found).axes if found is not None else axes
            own = own if set(own) >= set(target_axes) else axes
            other = check_pairs(folders[role], folders["target"], axes=target_axes, source_axes=own, empty_targets=True)
        files[split, role] = tuple(
            (pair.stem, pair.target if role.startswith("target_") else pair.source) for pair in other.pairs
        )
        warnings += [text for text in other.warnings if text not in warnings]
    return PairReport(report.pairs, tuple(warnings))


def _check_role_name(role: str) -> None:
    if not re.fullmatch(r"(source|target)_[A-Za-z0-9-]+", role):
        text = f"the folder {role} needs a name of letters, digits and '-' after the first '_': rename it."
        raise InvalidInputError(text, [Violation(role, text)])


def _splits(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise NotFoundError(f"There is no folder {folder}. Check the name.")
    if (folder / "train").is_dir():
        return {split: folder / split for split in ("train", "test") if (folder / split).is_dir()}
    if (folder / "source").is_dir() or (folder / "target").is_dir():
        return {"train": folder}
    inside = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir() if path.name[0] != ".")
    found = ", ".join(inside[:5]) + (" …" if len(inside) > 5 else "") if inside else "nothing"
    raise InvalidInputError(
        f"{folder} is not laid out as a dataset (found: {found}). Put the noisy images into train/source, the clean "
        "ones under the same names into train/target, and pairs for quality control into test/source and test/target."
    )


def _readable(folder: Path, scratch: Path) -> Path:
    """Return a folder that services' readers can list: `folder`, or a copy of links and converted images."""
    everything = sorted(folder.iterdir()) if folder.is_dir() else []
    foreign = {path for path in everything if is_makers_format(path)}
    if not foreign:
        return folder
    scratch.mkdir(parents=True)
    problems: list[Violation] = []
    known = {image_stem(path): path for path in everything if path.suffix.lower() in IMAGE_SUFFIXES}
    for path in sorted(foreign):
        if (other := known.setdefault(converted_stem(path), path)) != path:
            problems.append(Violation(f"{folder.name}/{path.name}", name_clash(path, other)))
            continue
        try:
            convert(path, scratch)
        except InvalidInputError as error:
            problems += error.violations
    if problems:
        raise InvalidInputError("Some images cannot be used.", problems)
    for path in everything:
        if path not in foreign and path.is_file():
            (scratch / path.name).symlink_to(path.resolve())
    return scratch


def _refusal(folder: Path, problems: list[Violation]) -> InvalidInputError:
    return refusal(
        f"{folder} cannot become a dataset: {len(problems)} problem{'s' if len(problems) > 1 else ''}.", problems
    )


def _publish(
    client: Client,
    folder: Location,
    report: FolderReport,
    licence: str,
    description: str,
    on_progress: OnProgress,
) -> DatasetManifest:
    check_name("dataset", folder.name)
    place = claim_version(client.store, folder, "parfocal dataset create")
    sources = [
        (f"{split}/{role}/{stem}.tif", (split, role, stem, path))
        for (split, role), images in sorted(report.files.items())
        for stem, path in images
    ]
    with tempfile.TemporaryDirectory(prefix="parfocal-") as scratch:

        def send(item: tuple[str, str, str, Path]) -> tuple[FileEntry, ImageEntry]:
            split, role, stem, original = item
            name = f"{split}/{role}/{stem}.tif"
            image = read_image(original)
            path = Path(scratch) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, image)
            entry = file_entry(path, name)
            client.store.upload(path, place / name)
            path.unlink()
            size = image.pixel_size
            return entry, ImageEntry(
                split=split,
                role=role,
                stem=stem,
                file=name,
                shape=image.pixels.shape,
                dtype=image.pixels.dtype.name,
                axes=image.axes,
                pixel_size_um=None if size is None else (size.x, size.y, size.z),
            )

        try:
            sent = for_each(sources, send, on_progress)
            manifest = DatasetManifest(
                project=client.project,
                dataset=folder.name,
                version=int(place.name),
                files=tuple(entry for entry, _ in sent),
                images=tuple(image for _, image in sent),
                warnings=report.warnings,
                licence=licence,
                description=description,
            )
            publish(client.store, place, DATASET_MANIFEST, manifest)
        except BaseException:
            _sweep(client, place, [name for name, _ in sources])
            raise
    return manifest


def _sweep(client: Client, place: Location, names: list[str]) -> None:
    """Remove what an interrupted upload left; the claim stays, because version numbers are never reused."""
    with contextlib.suppress(ParfocalError):
        if client.store.exists(place / DATASET_MANIFEST):
            return  # published after all
        for name in names:
            client.store.delete(place / name)
