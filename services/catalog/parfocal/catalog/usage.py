"""What a project keeps in the store."""

from __future__ import annotations

from collections import Counter

from parfocal import v1
from parfocal.catalog.places import Kind
from parfocal.runtime.store.publish import TRASH
from parfocal.runtime.store.store import Store


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
