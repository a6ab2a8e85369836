"""The only way in which datasets, models and results come into being: claim, all files, the manifest last."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from parfocal.runtime.errors import AlreadyExistsError, ConflictError
from parfocal.runtime.store.manifests import RESULT_MANIFEST, FileEntry, Manifest, public_name
from parfocal.runtime.store.store import Location, Store

CLAIM = "claim.json"
TRASH: Final = ".trash"
"""Folder of a project that has the manifests of what was deleted."""

INPUTS: Final = "inputs"
"""Folder of a prediction's result with the images that were sent for it."""


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_entry(path: Path, name: str) -> FileEntry:
    """Return the manifest entry of the local file `path` under the published name `name`."""
    return FileEntry(name=name, size=path.stat().st_size, sha256=sha256_of(path))


def claim_version(store: Store, folder: Location, owner: str) -> Location:
    """Reserve the next version number below `folder` for `owner` and return its place. Numbers are never reused."""
    taken = [int(name) for name in store.folders(folder) if name.isdigit()]
    number = max(taken, default=0) + 1
    while True:
        place = folder / str(number)
        try:
            store.create(place / CLAIM, json.dumps({"owner": owner}).encode())
        except ConflictError:
            number += 1
        else:
            return place


def is_taken(store: Store, place: Location) -> bool:
    """Return whether there is something, or a deleted result, where a job would publish its result.

    It may be a result, or a folder that scheduled predictions write to. Images sent for the job itself do not count.
    """
    others = (item for item in store.objects(place, recursive=False) if item.location.name != INPUTS)
    return next(others, None) is not None or store.exists(place.parent / TRASH / place.name / RESULT_MANIFEST)


def upload_files(
    store: Store, place: Location, files: Iterable[tuple[Path, str]], folder: str = ""
) -> tuple[FileEntry, ...]:
    """Upload local files below `place` under their public names; return their entries in the given order.

    `folder` is that of a job's attempt, which the public names do not have.
    """

    def send(item: tuple[Path, str]) -> FileEntry:
        path, name = item
        entry = file_entry(path, f"{folder}/{name}" if folder else name)
        store.upload(path, place / entry.name)
        return entry

    with ThreadPoolExecutor(max_workers=4) as pool:
        return tuple(pool.map(send, list(files)))


def publish(store: Store, place: Location, manifest_name: str, manifest: Manifest) -> str:
    """Write the manifest that makes `place` exist and return its address; refuse to publish twice."""
    try:
        store.create(place / manifest_name, manifest.to_bytes())
    except ConflictError as error:
        raise AlreadyExistsError(f"{place} is published already; published data never change.") from error
    return str(place)


def remove_leftovers(store: Store, place: Location, kept: Iterable[str]) -> int:
    """Remove what attempts of a job have left below `place`, and return the number of objects.

    Parameters
    ----------
    store, place
        The folder reserved for what the job publishes.
    kept
        Names of the files that its manifest lists; empty where the job has published nothing.
    """
    names, removed = frozenset(kept), 0
    for item in list(store.objects(place)):
        name = item.location.key.removeprefix(f"{place.key}/")
        if name != public_name(name) and name not in names:
            store.delete(item.location)
            removed += 1
    return removed


def folder_files(folder: Path) -> list[tuple[Path, str]]:
    """Return all files below a local folder with their names relative to it, sorted."""
    return [(path, path.relative_to(folder).as_posix()) for path in sorted(folder.rglob("*")) if path.is_file()]


def empty_folder(folder: Path) -> Path:
    """Return `folder`, made anew and empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
