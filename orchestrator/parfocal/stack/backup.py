"""Back-up and restore of the Parfocal of one computer: the store, and Prefect's database with the schedules."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from parfocal.runtime.errors import PreconditionError
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.backup.restoring import restore
from parfocal.runtime.store.backup.saving import Saved, save
from parfocal.runtime.store.backup.snapshot import OnFile, Snapshot, read_snapshot
from parfocal.runtime.store.store import Store
from parfocal.stack.config import StackConfig, load_config, resolve_folder
from parfocal.stack.connection import connection
from parfocal.stack.control import down, up
from parfocal.stack.state import supervisor_runs

# Below the folder of a snapshot; no bucket can have this name.
_STACK: Final = "_stack"
_DATABASE: Final = "prefect.db"


def save_stack(folder: Path | None, target: Path, on_file: OnFile = lambda _done, _all: None) -> Saved:
    """Make a snapshot below `target` of the stack in `folder` (the default one when None), which runs and goes on.

    Raises
    ------
    PreconditionError
        The stack does not run, or another back-up to `target` is under way.
    """
    folder = resolve_folder(folder)
    store = _store(folder)
    target = target.expanduser().resolve()
    if target.is_relative_to(folder):
        raise PreconditionError(
            f"{target} lies in {folder}, which is what is backed up. Name a folder on another disk or machine."
        )
    saved = save(store, target, on_file)
    database = folder / "prefect" / _DATABASE
    if database.exists():
        (saved.folder / _STACK).mkdir(mode=0o700)
        # SQLite's own way of copying a database that is in use.
        with (
            closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(saved.folder / _STACK / _DATABASE)) as copy,
        ):
            source.backup(copy)
    return saved


def restore_stack(snapshot: Path, folder: Path | None, on_file: OnFile = lambda _done, _all: None) -> Snapshot:
    """Make a stack in `folder`, which has none yet, from a snapshot; it is not running afterwards.

    Keys, ports and settings are made anew by the next start.

    Raises
    ------
    PreconditionError
        There is a stack already.
    DamagedError
        The snapshot is damaged.
    """
    folder, snapshot = resolve_folder(folder), snapshot.expanduser().resolve()
    read_snapshot(snapshot)
    if supervisor_runs(folder):
        raise PreconditionError(f"The stack in {folder} runs. Restore into a new folder: --home FOLDER.")
    if (folder / "s3").is_dir() and any((folder / "s3").iterdir()) and load_config(folder) is not None:
        raise PreconditionError(f"There is a Parfocal in {folder} already. Restore into a new one: --home FOLDER.")
    # The store alone: no service takes up a job before all is there.
    up(StackConfig(folder=folder, services=(), prefect=False, portal=False))
    try:
        restored = restore(_store(folder), snapshot, on_file)
    finally:
        down(folder)
    database = snapshot / _STACK / _DATABASE
    if database.exists():
        with (
            closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(folder / "prefect" / _DATABASE)) as copy,
        ):
            source.backup(copy)
    return restored


def _store(folder: Path) -> Store:
    """Return the store of a running stack, with the key that may do everything."""
    link = connection(folder)
    buckets = {f"bucket_{name}": value for name, value in link.buckets.model_dump().items()}
    return Store(
        Settings(
            s3_endpoint=link.s3_endpoint,
            s3_access_key=link.s3_access_key,  # type: ignore[arg-type]
            s3_secret_key=link.s3_secret_key,  # type: ignore[arg-type]
            **buckets,
        )
    )
