"""The training images of a dataset, as a method opens them: fetched once, decoded once, cancelled soon."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from parfocal.runtime.datasets.findings import Reading
from parfocal.runtime.images.files import open_image
from parfocal.runtime.images.scratch import Scratch
from parfocal.runtime.store.cache import Cache
from parfocal.runtime.store.manifests import DatasetManifest
from parfocal.runtime.store.store import Location, Store


def _nothing(*_: Any) -> None:
    """Do nothing."""


@dataclass(frozen=True, kw_only=True)
class DatasetView(ABC):
    """The training split of a dataset.

    Attributes
    ----------
    manifest
        Manifest that is published, or would be.
    axes
        Axes of one image of the method, for example "ZYX".
    minimum_images
        The fewest images that the method trains on.
    scratch
        Folder of the job; what is in it ends with the job.
    warn, progress
        Called with a sentence for people.
    check_cancelled
        Raises CancelledError when the job shall end. Call it for every image.
    """

    manifest: DatasetManifest
    axes: str
    minimum_images: int
    scratch: Path
    warn: Callable[[str], None] = _nothing
    progress: Callable[[str], None] = _nothing
    check_cancelled: Callable[[], None] = _nothing

    @property
    def reading(self) -> Reading:
        """Rules by which the images are read where they are checked: those that are large are not held in memory."""
        return Reading(scratch=Scratch(self.scratch / "arrays"))

    @abstractmethod
    def fetch(self, *roles: str) -> Path:
        """Return a folder with the training files of these roles, each role a folder of its own."""

    @abstractmethod
    def decode(self, path: Path) -> NDArray[Any]:
        """Return the pixels of a fetched image, read only.

        Raises
        ------
        InvalidInputError
            The image cannot be read.
        DiskFullError
            There is no room for the pixels.
        """


@dataclass(frozen=True, kw_only=True)
class PublishedView(DatasetView):
    """A published dataset; `store`, `place` and `cache` say where it is and where local copies are kept."""

    store: Store
    place: Location
    cache: Cache
    _digests: dict[Path, str] = field(default_factory=dict)

    def fetch(self, *roles: str) -> Path:
        """Return a folder with the training files of these roles, each role a folder of its own."""
        wanted = tuple(f"train/{role}/" for role in roles)
        entries = [entry for entry in self.manifest.files if entry.name.startswith(wanted)]
        folder = self.cache.mirror(self.store, self.place, entries, self.scratch / "dataset")
        self._digests.update({folder / entry.name: entry.sha256 for entry in entries})
        return folder / "train"

    def decode(self, path: Path) -> NDArray[Any]:
        """Return the pixels of a fetched image, memory-mapped and read only; decoded once on a machine."""
        self.check_cancelled()
        return self.cache.decode(path, self._digests[path])


@dataclass(frozen=True, kw_only=True)
class FolderView(DatasetView):
    """A dataset in a local `folder`, laid out as it would be published."""

    folder: Path

    def fetch(self, *roles: str) -> Path:  # noqa: ARG002
        """Return the folder of the training files."""
        return self.folder / "train"

    def decode(self, path: Path) -> NDArray[Any]:
        """Return the pixels of an image, in memory if it is small."""
        self.check_cancelled()
        return open_image(path, self.reading.scratch).pixels
