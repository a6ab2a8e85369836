"""What is published in a project, and its manifests."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from parfocal import v1
from parfocal.client.client import Client
from parfocal.client.transfer import for_each
from parfocal.runtime.errors import DamagedError
from parfocal.runtime.store.manifests import Manifest

_log = logging.getLogger(__name__)
_M = TypeVar("_M", bound=Manifest)
_R = TypeVar("_R")
OnDamaged = Callable[[DamagedError], None]


def log_damaged(error: DamagedError) -> None:
    """Leave a line in the log of this program."""
    _log.warning("%s", error.message)


def read_manifest(client: Client, uri: str, model: type[_M]) -> _M:
    """Return the manifest of the dataset version, model version or result at an address.

    Raises
    ------
    NotFoundError
        There is none.
    DamagedError
        It cannot be read.
    """
    return model.parse(client.catalog.read(uri), uri)


def read_published(
    client: Client,
    kind: str,
    read: Callable[[v1.Entry], _R],
    on_damaged: OnDamaged = log_damaged,
    *,
    shared: bool = False,
) -> list[_R]:
    """Return what `read` makes of each version of all models, or of all datasets, by name, newest first.

    One that is damaged is told and left out, so that it hides no other. With `shared` those that other projects share
    with this one follow.
    """

    def attempt(entry: v1.Entry) -> _R | DamagedError:
        try:
            return read(entry)
        except DamagedError as error:
            return error

    entries = list(client.catalog.entries(kind, on_damaged=lambda text: on_damaged(DamagedError(text))))
    if shared:
        entries += client.catalog.shared_entries(kind)
    found: list[_R] = []
    for each in for_each([(f"{entry.name}:{entry.version}", entry) for entry in entries], attempt):
        if isinstance(each, DamagedError):
            on_damaged(each)
        else:
            found.append(each)
    return found
