"""What is published in a project: all versions of all models, or of all datasets."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from parfocal.client.transfer import for_each
from parfocal.runtime.errors import DamagedError
from parfocal.runtime.store.names import published_versions
from parfocal.runtime.store.store import Location, Store

_log = logging.getLogger(__name__)
_R = TypeVar("_R")
OnDamaged = Callable[[DamagedError], None]


def log_damaged(error: DamagedError) -> None:
    """Leave a line in the log of this program."""
    _log.warning("%s", error.message)


def published_places(store: Store, folder: Location, manifest: str) -> list[tuple[str, Location]]:
    """Return "NAME:VERSION" and place of all versions below a project's folder, by name, newest first."""
    found = []
    for name in sorted(store.folders(folder)):
        versions = published_versions(store, folder / name, manifest)
        found += [(f"{name}:{version}", folder / name / str(version)) for version in reversed(versions)]
    return found


def read_published(
    store: Store, folder: Location, manifest: str, read: Callable[[Location], _R], on_damaged: OnDamaged
) -> list[_R]:
    """Return what `read` makes of each version; one that is damaged is told and left out, so that it hides no other."""

    def attempt(place: Location) -> _R | DamagedError:
        try:
            return read(place)
        except DamagedError as error:
            return error

    found: list[_R] = []
    for each in for_each(published_places(store, folder, manifest), attempt):
        if isinstance(each, DamagedError):
            on_damaged(each)
        else:
            found.append(each)
    return found
