"""What a project keeps in the store."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from threading import Lock
from typing import Final

from parfocal import v1
from parfocal.catalog.places import Kind
from parfocal.runtime.store.names import DERIVED_FOR
from parfocal.runtime.store.publish import TRASH
from parfocal.runtime.store.store import Store

_MEASURED_SECONDS: Final = 60.0


def usage_of(store: Store, kind: Kind, project: str) -> v1.Usage:
    """Return number and size of all that a project keeps of one kind, also in the trash and of unfinished uploads."""
    usage = v1.Usage(kind=kind.number)
    folder = kind.root(store) / project
    depth = 3 if kind.versioned else 2
    sizes: Counter[tuple[str, ...]] = Counter()
    deleted: set[tuple[str, ...]] = set()
    for item in store.objects(folder):
        usage.objects += 1
        usage.bytes += item.size
        parts = tuple(item.location.key.removeprefix(f"{folder.key}/").split("/"))
        sizes[parts[: depth - 1]] += item.size
        if parts[-1] == kind.manifest:
            usage.entries += len(parts) == depth and parts[0] != TRASH
            if len(parts) == depth + 1 and parts[0] == TRASH:
                usage.deleted_entries += 1
                deleted.add(parts[1:-1])
    # The files of what is in the trash stay where they were.
    usage.deleted_bytes = sum(sizes[entry] for entry in deleted)
    usage.unfinished_bytes = sum(size for _, size in store.unfinished(folder))
    usage.bytes += usage.unfinished_bytes
    return usage


def jobs_usage(store: Store, project: str) -> v1.OtherUsage:
    """Return number and size of all that is kept of a project's jobs, also of deleted ones."""
    usage = v1.OtherUsage(kind=v1.OTHER_USAGE_KIND_JOBS)
    for folder in (store.jobs / project, store.jobs / TRASH / project):
        for item in store.objects(folder):
            usage.objects += 1
            usage.bytes += item.size
    return usage


class DerivedUsage:
    """Number and size of what was derived from the images of each project; safe to use from several threads.

    All of it is listed, whichever project is asked for, so that the sizes are remembered for a minute.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._lock = Lock()
        self._measured_at = float("-inf")
        self._usages: dict[str, v1.OtherUsage] = {}

    def of(self, project: str) -> v1.OtherUsage:
        """Return the usage of a project."""
        with self._lock:
            if self._clock() - self._measured_at > _MEASURED_SECONDS:
                self._usages = self._measure()
                self._measured_at = self._clock()
            return self._usages.get(project) or v1.OtherUsage(kind=v1.OTHER_USAGE_KIND_DERIVED)

    def _measure(self) -> dict[str, v1.OtherUsage]:
        sizes: Counter[str] = Counter()
        objects: Counter[str] = Counter()
        marked: defaultdict[str, list[str]] = defaultdict(list)
        for item in self._store.objects(self._store.derived):
            digest, _, name = item.location.key.partition("/")
            if name.startswith(f"{DERIVED_FOR}/"):
                marked[digest].append(item.location.name)
            sizes[digest] += item.size
            objects[digest] += 1
        usages: dict[str, v1.OtherUsage] = {}
        for digest, projects in marked.items():
            for project in projects:
                usage = usages.setdefault(project, v1.OtherUsage(kind=v1.OTHER_USAGE_KIND_DERIVED))
                usage.objects += objects[digest]
                usage.bytes += sizes[digest]
        return usages
