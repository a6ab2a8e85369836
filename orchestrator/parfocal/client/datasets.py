"""Datasets: folders of images on this computer, and their published versions in the store."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from parfocal.client.client import Client
from parfocal.client.convert import (
    WHOLE,
    Part,
    channel_names,
    convert,
    converted_stem,
    images_in,
    is_makers_format,
    part_there,
    shown_name,
)
from parfocal.client.formats.layout import laid_out
from parfocal.client.formats.plates import is_plate, is_zarr
from parfocal.client.published import OnDamaged, log_damaged, manifest_of, read_manifest, read_published
from parfocal.client.transfer import OnProgress, no_progress
from parfocal.client.uploads import ToSend, uploading
from parfocal.runtime.datasets import folder as folders
from parfocal.runtime.datasets.findings import Notes
from parfocal.runtime.datasets.layout import role_folder, split_folders
from parfocal.runtime.datasets.pairs import is_hidden
from parfocal.runtime.datasets.report import FolderReport, Item
from parfocal.runtime.errors import InvalidInputError, Violation, refusal
from parfocal.runtime.images.files import IMAGE_SUFFIXES, image_stem, inspect_image, name_clash, printable
from parfocal.runtime.images.notes import Note
from parfocal.runtime.images.scratch import Scratch
from parfocal.runtime.store.manifests import (
    DATASET_MANIFEST,
    AnnotationEntry,
    DatasetManifest,
    ImageEntry,
)
from parfocal.runtime.store.names import check_name


@dataclass(frozen=True)
class Origin:
    """Where targets come from that people drew or corrected; see the fields of `DatasetManifest` of the same names."""

    parent: str = ""
    source_model: str = ""
    draft: str = ""
    editors: tuple[str, ...] = ()


def check_folder(
    folder: Path,
    axes: str = "",
    *,
    kind: str = "",
    pixel_size_nm: float | None = None,
    label_components: bool = False,
    part: Part = WHOLE,
) -> FolderReport:
    """Check a folder as `create_dataset` does; see `parfocal.runtime.datasets.folder.check_folder`."""
    with checked_folder(folder, axes, kind, pixel_size_nm, label_components, part) as report:
        return report


def create_dataset(
    client: Client,
    name: str,
    folder: Path,
    *,
    axes: str = "",
    kind: str = "",
    pixel_size_nm: float | None = None,
    label_components: bool = False,
    part: Part = WHOLE,
    licence: str = "",
    description: str = "",
    origin: Origin = Origin(),
    class_names: Mapping[int, str] = MappingProxyType({}),
    on_progress: OnProgress = no_progress,
) -> DatasetManifest:
    """Check a folder, convert its images to OME-TIFF and publish them as a new version of the dataset `name`.

    Nothing is visible before all is uploaded. Values, data type and pixel size are kept. Boxes of any format become
    PASCAL VOC, one file for each image; localisations become tables in nm.

    Parameters
    ----------
    client
        Whose store and project to use.
    name
        Name of the dataset; the version is given.
    folder, axes, kind, pixel_size_nm, label_components
        As for `check_folder`.
    part
        What is taken of each image.
    licence, description, origin
        For the record.
    class_names
        What the classes of class images are called, by grey value; those without a name are called by their value.
    on_progress
        Called after each uploaded image.

    Raises
    ------
    InvalidInputError
        As for `check_folder`, or a class cannot have its name.
    UnavailableError
        The store does not answer.
    """
    check_name("dataset", name)
    # Before minutes are spent on reading images.
    client.catalog.projects()
    with checked_folder(folder, axes, kind, pixel_size_nm, label_components, part) as report:
        taken = _of_sources(folder, part, axes)
        fields = {
            "licence": licence,
            "description": description,
            "part": taken.options,
            "part_channels": _names_of_channels(folder, taken, axes),
            **asdict(origin),
        }
        return _publish(client, name, report.named(class_names), fields, on_progress)


def list_datasets(
    client: Client, on_damaged: OnDamaged = log_damaged, *, shared: bool = False
) -> list[DatasetManifest]:
    """Return all published versions of all datasets of the project, by name, newest first.

    `on_damaged` is told of those whose manifest cannot be read, which are left out. With `shared` those that other
    projects share with this one follow.
    """
    return read_published(
        client, "dataset", lambda entry: manifest_of(client, entry, DatasetManifest), on_damaged, shared=shared
    )


def read_dataset(client: Client, name: str) -> DatasetManifest:
    """Return the manifest of the dataset "name" (newest version) or "name:version"."""
    return read_manifest(client, client.dataset_uri(name), DatasetManifest)


@contextlib.contextmanager
def checked_folder(
    folder: Path,
    axes: str,
    kind: str,
    pixel_size_nm: float | None,
    label_components: bool,
    part: Part = WHOLE,
) -> Iterator[FolderReport]:
    """Give the report on a folder; converted copies of proprietary formats live as long as the context."""
    if axes:
        # Before files are converted by them.
        folders.check_axes(axes)
    notes = Notes()
    known: dict[str, Path] = {}
    with tempfile.TemporaryDirectory(prefix="parfocal-") as scratch:
        laid = laid_out(folder, Path(scratch) / "layout", part)
        of_sources = _of_sources(folder, part, axes)

        def readable(path: Path, name: str) -> Path:
            # Asked for again where a folder is checked again; converted once.
            if name not in known:
                own = part if _is_target(name) else of_sources
                wanted = _part_of(name, own, axes, one_plate=is_zarr(folder))
                known[name] = _readable(path, Path(scratch) / name, notes, wanted)
            return known[name]

        try:
            report = folders.check_folder(
                laid,
                kind=kind or ("labels" if part.labels else ""),
                # Files that are written anew have these; targets that stay as they are may not say theirs.
                axes=part.axes_left(axes),
                pixel_size_nm=pixel_size_nm,
                label_components=label_components,
                readable=readable,
                scratch=Scratch(Path(scratch) / "arrays"),
            )
        except InvalidInputError as error:
            raise InvalidInputError(error.message.replace(str(laid), str(folder)), error.violations) from error
        if part and not any(text.startswith(Note("converted").sentence) for text in notes.texts()):
            raise InvalidInputError(
                f"Wells or labels were chosen, but no image in {folder} is an OME-Zarr, which alone may have them. "
                "Leave the choice out."
            )
        yield replace(report, warnings=(*notes.texts(), *report.warnings))


@dataclass(frozen=True)
class _Wanted:
    """What is taken of the files of one folder.

    `without` are the wells that are left out; `plate` says that there must be one. `axes` are those that somebody says
    the source images have.
    """

    part: Part
    without: tuple[str, ...]
    axes: str
    plate: bool
    target: bool

    def axes_of(self, path: Path) -> str:
        """Return the axes by which one of the files is read.

        Targets have no channels and no colours but their own, where they say so: what they say nothing of may be that.

        Raises
        ------
        InvalidInputError
            It is a target that cannot be read.
        """
        if not self.target:
            return self.axes
        if "C" in self.axes and not is_makers_format(path):
            header = inspect_image(path)
            if len(header.axes) == len(self.axes) and any(note.code == "axes-guessed" for note in header.notes):
                return self.axes
        return self.axes.translate({ord("S"): None, ord("C"): None})

    def of(self, path: Path) -> Part:
        """Return what is taken of one of the files."""
        if not self.target or not self.part.of_images or is_makers_format(path):
            return self.part
        # Targets may lack the channels, planes or frames of their sources.
        try:
            return part_there(path, self.part, self.axes_of(path))
        except InvalidInputError:
            # It may hold several images as well; what else is wrong is told with all others.
            return self.part if self.part.scene else WHOLE


def _is_target(name: str) -> bool:
    """Return whether the folder "split/role" holds targets."""
    return name.partition("/")[2].startswith("target")


def _of_sources(folder: Path, part: Part, axes: str) -> Part:
    """Return what is taken of the source images: no channels, where targets have some and no source has.

    Predictions take again what was taken of the sources.
    """
    if not part.channels or part.labels or is_zarr(folder):
        return part

    def any_has_channels(*, target: bool) -> bool:
        wanted = _Wanted(part, (), axes, plate=False, target=target)
        for place in split_folders(folder).values():
            roles = place.glob("target*") if target else [role_folder(place, "source")]
            for path in (path for role in roles if role.is_dir() for path in sorted(role.iterdir())):
                if is_makers_format(path):
                    return True
                # What cannot be read is told when all files are looked at.
                with contextlib.suppress(InvalidInputError):
                    seen = path.name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(path)
                    if seen and "C" in inspect_image(path, axes=wanted.axes_of(path)).axes:
                        return True
        return False

    if any_has_channels(target=False) or not any_has_channels(target=True):
        return part
    return replace(part, channels=())


def _names_of_channels(folder: Path, part: Part, axes: str) -> tuple[str, ...]:
    """Return the names of the channels that are taken of the first training image; empty where nobody chose any."""
    if not part.channels:
        return ()
    source = folder if is_zarr(folder) else role_folder(split_folders(folder)["train"], "source")
    files = [source] if is_zarr(source) else sorted(source.iterdir())
    for path in files:
        if is_makers_format(path) or (path.name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(path)):
            with contextlib.suppress(InvalidInputError):
                return channel_names(next(iter(images_in(path, part.wells, part.test_wells))), part, axes)
    return ()


def _part_of(name: str, part: Part, axes: str, *, one_plate: bool) -> _Wanted:
    """Return what is taken of the folder "split/role"."""
    split, _, role = name.partition("/")
    test = split == "test"
    target = _is_target(name)
    own = replace(
        part,
        wells=part.test_wells or part.wells if test else part.wells,
        test_wells=(),
        labels=part.labels if role == "target" else "",
    )
    without = part.test_wells if one_plate and not test else ()
    return _Wanted(own, without, axes, plate=role == "source" and bool(own.wells or without), target=target)


def _readable(folder: Path, scratch: Path, notes: Notes, wanted: _Wanted) -> Path:
    """Return a folder that services' readers can list: `folder`, or a copy of links and converted images."""
    everything = sorted(folder.iterdir()) if folder.is_dir() else []
    foreign = {
        path
        for path in everything
        if is_makers_format(path) or (path.name.lower().endswith(IMAGE_SUFFIXES) and wanted.of(path).of_images)
    }
    if not foreign:
        return folder
    if wanted.plate and not any(map(is_plate, foreign)):
        raise InvalidInputError(
            f"Wells were chosen, but there is no plate (OME-Zarr) in {folder.name}. Leave --well and --test-well out."
        )
    scratch.mkdir(parents=True)
    problems: list[Violation] = []
    known = {image_stem(path): path for path in everything if path.suffix.lower() in IMAGE_SUFFIXES}
    for path in _images(sorted(foreign), wanted, problems):
        name = printable(shown_name(path))
        if (other := known.setdefault(converted_stem(path), path)) != path:
            problems.append(Violation(name, name_clash(path, other)))
            continue
        try:
            _, found = convert(path, scratch, wanted.of(path), wanted.axes_of(path))
        except InvalidInputError as error:
            problems += error.violations
            continue
        for note in found:
            # Training and test images often have the same names.
            notes.add(note.sentence, note.at(f"{folder.parent.name}/{name}"))
    if problems:
        raise refusal(f"Some images in {folder} cannot be used.", problems)
    for path in everything:
        if path not in foreign:
            (scratch / path.name).symlink_to(path.resolve())
    return scratch


def _images(paths: list[Path], wanted: _Wanted, problems: list[Violation]) -> Iterator[Path]:
    """Yield the images of files and plates; what is wrong with a plate is added to `problems`."""
    for path in paths:
        try:
            yield from images_in(path, wanted.part.wells, wanted.without)
        except InvalidInputError as error:
            problems += error.violations


def _publish(
    client: Client,
    name: str,
    report: FolderReport,
    fields: Mapping[str, Any],
    on_progress: OnProgress,
) -> DatasetManifest:
    items = [(item.file, item) for item in report.items()]
    with tempfile.TemporaryDirectory(prefix="parfocal-") as scratch, uploading(client, "dataset", name) as upload:
        known: dict[str, ImageEntry | AnnotationEntry] = {}

        def write(item: Item) -> ToSend:
            path = Path(scratch) / item.file
            path.parent.mkdir(parents=True, exist_ok=True)
            known[item.file] = item.write(path)
            return ToSend(path, item.file, is_copy=True)

        files = upload.send_all(items, write, on_progress)
        manifest = report.manifest(
            files,
            [known[name] for name, _ in items],
            project=client.project,
            dataset=name,
            version=upload.version,
            **fields,
        )
        upload.publish(DATASET_MANIFEST, manifest)
    return read_manifest(client, upload.uri, DatasetManifest)
