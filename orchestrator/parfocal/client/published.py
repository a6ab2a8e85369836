"""What is published in a project, and its manifests."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, TypeVar

from parfocal import v1
from parfocal.client.client import Client
from parfocal.client.transfer import for_each
from parfocal.runtime.errors import DamagedError
from parfocal.runtime.store.manifests import Manifest

_log = logging.getLogger(__name__)
# As they are stored; read, manifests of models take four times as much memory, those of datasets seven times.
_MOST_BYTES: Final = 2**24
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


class _Manifests:
    """Manifests that clients of this process have read, the newest last; what is published never changes.

    All clients share them, because a portal has one for each person and project. Whoever asks for one has been listed
    its entry by the catalogue, and may read it.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._known: OrderedDict[tuple[str, str, int], tuple[Manifest, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: tuple[str, str, int]) -> Manifest | None:
        with self._lock:
            if key not in self._known:
                return None
            self._known.move_to_end(key)
            return self._known[key][0]

    def keep(self, key: tuple[str, str, int], manifest: Manifest, size: int) -> None:
        """Keep a manifest of so many bytes, unless it alone would take the place of very many others."""
        if size > self._most // 4:
            return
        with self._lock:
            self._bytes += size - self._known.pop(key, (manifest, 0))[1]
            self._known[key] = manifest, size
            while self._bytes > self._most:
                self._bytes -= self._known.popitem(last=False)[1][1]


_manifests = _Manifests(_MOST_BYTES)


def manifest_of(client: Client, entry: v1.Entry, model: type[_M]) -> _M:
    """Return the manifest of an entry that the catalogue has just listed; most are read once by a process.

    Raises
    ------
    NotFoundError, DamagedError
        As by `read_manifest`.
    """
    key = client.catalog.address, entry.uri, entry.created_at.ToNanoseconds()
    found = _manifests.get(key)
    if not isinstance(found, model):
        data = client.catalog.read(entry.uri)
        found = model.parse(data, entry.uri)
        _manifests.keep(key, found, len(data))
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
