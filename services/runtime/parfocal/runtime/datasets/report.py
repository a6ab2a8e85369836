"""Report on a folder that can become a dataset: its files, and its manifest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from parfocal.runtime.datasets.pairs import CheckedImage
from parfocal.runtime.errors import InvalidInputError, Violation, refusal
from parfocal.runtime.images.files import write_image
from parfocal.runtime.store.manifests import AnnotationEntry, DatasetManifest, FileEntry, ImageEntry, ObjectSizes

_LONGEST_NAME: Final = 100


@dataclass(frozen=True)
class TableFile:
    """One file of a dataset that is no image; `content` makes what is published under the image's `stem`."""

    stem: str
    suffix: str
    objects: int
    content: Callable[[], bytes]


@dataclass(frozen=True)
class Item:
    """One file of the dataset that a folder becomes.

    `file` is its published name; `write` makes it at a local path and returns what the manifest says of it.
    """

    file: str
    write: Callable[[Path], ImageEntry | AnnotationEntry]


@dataclass(frozen=True)
class FolderReport:
    """A folder fit to become a dataset, and what is suspicious about it.

    Attributes
    ----------
    kind
        The kind of the dataset, a name of `KINDS`.
    told_by
        How the kind was found, as a phrase for people.
    images
        All images by split and role, in natural order of their names. Where `pixel_size` is not None it replaces that
        of the file, and `axes` replace the file's.
    tables
        All other files by split and role.
    classes, class_values, counts, class_counts, unpaired, object_sizes, field_counts
        See `DatasetManifest`.
    """

    kind: str
    told_by: str
    warnings: tuple[str, ...]
    images: Mapping[tuple[str, str], tuple[CheckedImage, ...]]
    tables: Mapping[tuple[str, str], tuple[TableFile, ...]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    class_values: tuple[int, ...] = ()
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    class_counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    unpaired: tuple[str, ...] = ()
    object_sizes: Mapping[str, ObjectSizes] = field(default_factory=dict)
    field_counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def train(self) -> tuple[CheckedImage, ...]:
        """The source images for training."""
        return self.images.get(("train", "source"), ())

    @property
    def test(self) -> tuple[CheckedImage, ...]:
        """The source images for quality control."""
        return self.images.get(("test", "source"), ())

    def named(self, names: Mapping[int, str]) -> FolderReport:
        """Return the same folder with names of the classes of class images.

        Parameters
        ----------
        names
            By grey value. A value that no image has is passed over; classes without a name are called by their value.

        Raises
        ------
        InvalidInputError
            There are no class images, or a name cannot be used.
        """
        if not names:
            return self
        if not self.class_values:
            text = "Names of classes were given, but there are no class images: leave them out."
            raise InvalidInputError(text, [Violation("classes", text)])
        problems = []
        for value, name in names.items():
            if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable() or name.isdecimal():
                rule = f"use 1 to {_LONGEST_NAME} letters, and not digits alone"
                text = f"The class {value} cannot be called {name!r}: {rule}."
                problems.append(Violation(f"classes.{value}", text))
        chosen = [names.get(value, str(value)) for value in self.class_values]
        for twice in sorted({name for name in chosen if chosen.count(name) > 1}):
            text = f"Two classes are called {twice!r}: give each a name of its own."
            problems.append(Violation("classes", text))
        if problems:
            raise refusal("The names of the classes cannot be used:", problems)
        known = dict(zip(self.classes, chosen, strict=True))
        counts = {
            split: {known[name]: number for name, number in each.items()} for split, each in self.class_counts.items()
        }
        return replace(self, classes=tuple(chosen), class_counts=counts)

    def items(self) -> list[Item]:
        """Return all files of the dataset, sorted by split and role."""
        items = []
        for (split, role), images in sorted(self.images.items()):
            items += [_image_item(split, role, image) for image in images]
        for (split, role), tables in sorted(self.tables.items()):
            items += [_table_item(split, role, table) for table in tables]
        return items

    def manifest(
        self, files: Sequence[FileEntry], entries: Sequence[ImageEntry | AnnotationEntry], **fields: Any
    ) -> DatasetManifest:
        """Return the manifest of the dataset.

        Parameters
        ----------
        files
            The published files.
        entries
            Manifest entries that `Item.write` returned.
        fields
            Further fields of `DatasetManifest`: project, dataset, version, and what is not found in files.
        """
        return DatasetManifest(
            files=tuple(files),
            images=tuple(entry for entry in entries if isinstance(entry, ImageEntry)),
            annotations=tuple(entry for entry in entries if isinstance(entry, AnnotationEntry)),
            kind=self.kind,
            warnings=self.warnings,
            classes=self.classes,
            class_values=self.class_values,
            counts={split: dict(counts) for split, counts in self.counts.items()},
            class_counts={split: dict(counts) for split, counts in self.class_counts.items()},
            unpaired=self.unpaired,
            object_sizes=dict(self.object_sizes),
            field_counts=dict(self.field_counts),
            **fields,
        )


def _image_item(split: str, role: str, checked: CheckedImage) -> Item:
    file = f"{split}/{role}/{checked.stem}.tif"

    def write(path: Path) -> ImageEntry:
        read = checked.reading.read(checked.path)
        # Of frames that a file takes for planes the check says so; the same holds for a pixel size that was given.
        image = replace(read, axes=checked.axes, pixel_size=checked.pixel_size or read.pixel_size)
        write_image(path, image)
        size = image.pixel_size
        return ImageEntry(
            split=split,
            role=role,
            stem=checked.stem,
            file=file,
            shape=image.pixels.shape,
            dtype=image.pixels.dtype.name,
            axes=image.axes,
            pixel_size_um=None if size is None else (size.x, size.y, size.z),
        )

    return Item(file, write)


def _table_item(split: str, role: str, table: TableFile) -> Item:
    file = f"{split}/{role}/{table.stem}{table.suffix}"

    def write(path: Path) -> AnnotationEntry:
        path.write_bytes(table.content())
        return AnnotationEntry(split=split, role=role, stem=table.stem, file=file, objects=table.objects)

    return Item(file, write)
