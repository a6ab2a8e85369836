"""What is published in a project, and its manifests."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

from parfocal import v1
from parfocal.client.client import Client
from parfocal.client.transfer import for_each
from parfocal.runtime.errors import DamagedError
from parfocal.runtime.store.manifests import Manifest

_log = logging.getLogger(__name__)
_MOST_KEPT: Final = 2000
_M = TypeVar("_M", bound=Manifest)
_R = TypeVar("_R")
OnDamaged = Callable[[DamagedError], None]
_manifests: WeakKeyDictionary[Client, _Manifests] = WeakKeyDictionary()


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


class _Manifests:
    """The manifests that a client has read, the newest last; what is published never changes."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, int], Manifest] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, int]) -> Manifest | None:
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
            return self._known.get(key)

    def keep(self, key: tuple[str, int], manifest: Manifest) -> None:
        with self._lock:
            self._known[key] = manifest
            while len(self._known) > _MOST_KEPT:
                self._known.popitem(last=False)


def manifest_of(client: Client, entry: v1.Entry, model: type[_M]) -> _M:
    """Return the manifest of an entry that the catalogue has just listed; each is read once by a client.

    Raises
    ------
    NotFoundError, DamagedError
        As by `read_manifest`.
    """
    known = _manifests.setdefault(client, _Manifests())
    key = entry.uri, entry.created_at.ToNanoseconds()
    found = known.get(key)
    if not isinstance(found, model):
        found = read_manifest(client, entry.uri, model)
        known.keep(key, found)
    return found


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
