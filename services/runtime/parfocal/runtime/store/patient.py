"""A store that waits for its server: for workers, whose hours of work must survive a restart of the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from parfocal.runtime.errors import ConflictError, UnavailableError
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.store import Location, ObjectInfo, Store, patiently

_T = TypeVar("_T")


class PatientStore(Store):
    """A store that asks again while its server does not answer, for a number of seconds each time.

    `replace` does not wait: whoever changes an object that others change too has to look at it again.
    """

    def __init__(self, settings: Settings, seconds: float) -> None:
        super().__init__(settings)
        self._seconds = seconds

    def read_versioned(self, location: Location) -> tuple[bytes, str]:
        """Return the content of an object and the ETag that `replace` needs."""
        return self._patiently(partial(super().read_versioned, location))

    def exists(self, location: Location) -> bool:
        """Return whether there is an object at `location`."""
        return self._patiently(partial(super().exists, location))

    def write(self, location: Location, data: bytes) -> None:
        """Write an object, whether it exists or not."""
        self._patiently(partial(super().write, location, data))

    def create(self, location: Location, data: bytes) -> str:
        """Create an object and return its ETag; raise ConflictError if it exists with other content."""
        unanswered = False
        create, read = super().create, super().read_versioned

        def attempt() -> str:
            nonlocal unanswered
            try:
                return create(location, data)
            except UnavailableError:
                unanswered = True
                raise
            except ConflictError:
                # An attempt before may have succeeded although its answer was lost.
                if unanswered:
                    stored, etag = read(location)
                    if stored == data:
                        return etag
                raise

        return self._patiently(attempt)

    def upload(self, path: Path, location: Location) -> None:
        """Write the file at `path` to the store."""
        self._patiently(partial(super().upload, path, location))

    def download(self, location: Location, path: Path) -> None:
        """Write an object to the file `path`, complete or not at all."""
        self._patiently(partial(super().download, location, path))

    def objects(
        self, folder: Location, *, recursive: bool = True, start_after: str | None = None
    ) -> Iterator[ObjectInfo]:
        """Yield what is below `folder` in order of names; `start_after` is a name relative to it."""
        read = partial(super().objects, folder, recursive=recursive, start_after=start_after)
        yield from self._patiently(lambda: list(read()))

    def copy(self, source: Location, target: Location) -> None:
        """Copy one object within the store."""
        self._patiently(partial(super().copy, source, target))

    def delete(self, location: Location) -> None:
        """Remove one object; a missing object is ignored."""
        self._patiently(partial(super().delete, location))

    def _patiently(self, action: Callable[[], _T]) -> _T:
        return patiently(action, self._seconds)
