"""Writing a snapshot into an empty store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from parfocal.runtime.errors import PreconditionError
from parfocal.runtime.store.backup.snapshot import (
    JOB,
    NOT_KEPT,
    PATIENCE_SECONDS,
    OnFile,
    Snapshot,
    buckets,
    check,
    each,
    names_others,
    read_snapshot,
)
from parfocal.runtime.store.store import Location, Store, patiently


def restore(store: Store, folder: Path, on_file: OnFile = lambda _done, _all: None) -> Snapshot:
    """Write a snapshot into a store whose buckets are empty, after every file of it was checked.

    Raises
    ------
    PreconditionError
        There is something in a bucket, or the buckets have other names than those of the snapshot.
    DamagedError
        The snapshot is damaged; nothing was written.
    """
    snapshot = read_snapshot(folder)
    _check_buckets(store, snapshot)
    check(folder)
    done, count = 0, len(snapshot.objects)

    def write(name: str) -> None:
        bucket, _, key = name.partition("/")
        patiently(lambda: store.upload(folder / name, Location(bucket, key)), PATIENCE_SECONDS)

    for names in _stages(store, snapshot):
        each(write, names, len(names), partial(_told, on_file, done, count))
        done += len(names)
    return snapshot


def _told(on_file: OnFile, before: int, count: int, done: int, _stage: int) -> None:
    on_file(before + done, count)


def _stages(store: Store, snapshot: Snapshot) -> Iterator[list[str]]:
    """Yield the names of a snapshot in the order in which they are written: what names others after those."""
    left = dict.fromkeys(snapshot.objects)

    def take(condition: Callable[[Location], bool]) -> list[str]:
        chosen = [name for name in left if condition(Location(*name.split("/", 1)))]
        for name in chosen:
            del left[name]
        return chosen

    jobs = store.jobs.bucket
    yield take(lambda place: place.bucket != jobs and not names_others(place))
    for root in (store.datasets, store.models, store.results):
        yield take(lambda place, root=root: place.bucket == root.bucket)  # type: ignore[misc]
    yield take(lambda place: place.name != JOB and not place.key.startswith("."))
    yield take(lambda place: not place.key.startswith("."))
    # The marks by which services find what there is to do.
    yield take(lambda _place: True)


def _check_buckets(store: Store, snapshot: Snapshot) -> None:
    here = buckets(store)
    if snapshot.buckets != here:
        raise PreconditionError(
            f"The snapshot is of the buckets {', '.join(snapshot.buckets.values())}, and this installation has "
            f"{', '.join(here.values())}. Records name their buckets: set PARFOCAL_BUCKET_… to those of the snapshot."
        )
    for root in (store.datasets, store.models, store.results, store.jobs):
        for item in store.objects(root):
            if item.location.key.split("/")[0] not in NOT_KEPT:
                raise PreconditionError(
                    f"The store is not empty: there is {item.location}. Snapshots are restored into empty buckets, "
                    "so that nothing is mixed or overwritten."
                )
