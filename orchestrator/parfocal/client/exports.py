"""In which formats results are downloaded: images as OME-TIFF or OME-Zarr, tables as CSV or Parquet."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from parfocal.client.formats.tables import require_parquet, write_parquet
from parfocal.runtime.datasets.layers import layers_of_result
from parfocal.runtime.images.files import image_stem, open_image
from parfocal.runtime.images.scratch import Scratch
from parfocal.runtime.store.manifests import FileEntry, ResultManifest
from parfocal.runtime.store.store import Location

ImageFormat = Literal["tiff", "ome-zarr", "ome-zarr-0.4"]
TableFormat = Literal["csv", "parquet"]

_IMAGES: Final = (".tif", ".tiff")
# Read by a plug-in of Fiji, which knows no other format.
_ONLY_CSV: Final = "trackmate"


@dataclass(frozen=True)
class Formats:
    """What becomes of images and tables on the way to this computer.

    Attributes
    ----------
    images
        "tiff": as the store has them; "ome-zarr": version 0.5; "ome-zarr-0.4": for programs that do not read Zarr 3.
    tables
        "csv" or "parquet".
    """

    images: ImageFormat = "tiff"
    tables: TableFormat = "csv"

    @property
    def image_suffix(self) -> str:
        """How the names of images end."""
        return ".tif" if self.images == "tiff" else ".ome.zarr"

    def exporter(self, uri: str, result: ResultManifest) -> Exporter:
        """Return what gives the files of a result, published at an address, these formats.

        Raises
        ------
        PreconditionError
            Packages are missing that write them.
        """
        if self.tables == "parquet":
            require_parquet()
        layers = layers_of_result(Location.parse(uri), result).all()
        return Exporter(self, frozenset(layer.entry.name for layer in layers if layer.labels))


AS_STORED: Final = Formats()


@dataclass(frozen=True)
class Exporter:
    """Gives the files of one result other formats; `labels` are the names of those that are label images."""

    formats: Formats
    labels: frozenset[str]

    def name(self, entry: FileEntry) -> str:
        """Return the name that a file has on this computer, below the folder of the result."""
        public = PurePosixPath(entry.public_name)
        if self._is_image(entry):
            return str(public.with_name(f"{image_stem(Path(public.name))}{self.formats.image_suffix}"))
        return str(public.with_suffix(".parquet")) if self._is_table(entry) else entry.public_name

    def finish(self, entry: FileEntry, part: Path, path: Path) -> None:
        """Make the file `path`, or a folder, of one that was fetched to `part`."""
        if self._is_image(entry):
            from parfocal.client.formats.zarr_writer import Version, write_zarr

            with tempfile.TemporaryDirectory(dir=part.parent) as scratch:
                image = open_image(part, Scratch(Path(scratch)))
                version: Version = "0.4" if self.formats.images == "ome-zarr-0.4" else "0.5"
                stem = image_stem(Path(PurePosixPath(entry.public_name).name))
                write_zarr(path, image, name=stem, labels=entry.name in self.labels, version=version)
        elif self._is_table(entry):
            made = part.with_name("table")
            write_parquet(part, made)
            made.replace(path)
        else:
            part.replace(path)

    def _is_image(self, entry: FileEntry) -> bool:
        return self.formats.images != "tiff" and entry.name.lower().endswith(_IMAGES)

    def _is_table(self, entry: FileEntry) -> bool:
        table = self.formats.tables != "csv" and entry.name.lower().endswith(".csv")
        return table and PurePosixPath(entry.public_name).parts[0] != _ONLY_CSV
