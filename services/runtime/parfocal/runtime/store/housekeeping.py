"""What keeps disk and store from filling up over the years: cache, scratch, logs of workers, trash.

Two facts on disk say what is in use, and both end with the process they belong to, however it ends:

- a scratch folder is locked by its owner (`own_folder`, `scratch_folder`);
- a cached file that a job uses has a second name in the job's scratch folder (`parfocal.runtime.store.cache`). To
  remove it from the cache would do no harm and free nothing, so it stays.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from parfocal.runtime.settings import Settings
from parfocal.runtime.store.store import Store

_log = logging.getLogger(__name__)
_DAY = 86400.0
# Far longer than from the making of a scratch folder to its lock.
_LOCK_SECONDS = 60.0
_LEFTOVER_SECONDS = _DAY
_CACHE_PART = 0.25
_FREE_PART = 0.05
_FREE_AT_MOST = 20 * 2**30


def tidy_machine(settings: Settings) -> None:
    """Clean up the state folder; what goes wrong is logged and does not keep the rest from being done."""
    state = settings.state_folder
    cache = state / "cache"
    _attempt("scratch folders", lambda: remove_abandoned(state / "scratch"))
    _attempt("the cache", lambda: trim(cache, cache_limit(cache, settings.cache_gib), comfortable(cache)))
    if settings.log_days:
        _attempt("logs of workers", lambda: remove_old_files(state / "logs", settings.log_days))


def tidy_store(store: Store, settings: Settings) -> None:
    """Empty the trash of what is too old; what goes wrong is logged. Only for an instance that runs jobs."""
    if settings.trash_days:
        _attempt("the trash", lambda: empty_trash(store, settings.trash_days))


def own_folder(parent: Path, prefix: str) -> Path:
    """Make a folder that counts as in use until this process has ended or removed it."""
    return _locked_folder(parent, prefix)[0]  # never closed: the lock ends with the process


@contextlib.contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a folder that counts as in use until the end of the block, and remove it then."""
    folder, lock = _locked_folder(parent, prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@contextlib.contextmanager
def temporary_files_in(folder: Path) -> Iterator[None]:
    """Have libraries put their temporary files into a folder that somebody removes, until the end of the block.

    A worker ends without taking its framework apart, so what that would remove then stays behind: TensorFlow writes a
    file for each function that it compiles.
    """
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def remove_abandoned(parent: Path, prefix: str = "", *, older_than: float = _LOCK_SECONDS) -> int:
    """Remove the folders below `parent` whose processes are gone, and return their number.

    Parameters
    ----------
    parent
        Folder in which `own_folder` creates them; may be missing.
    prefix
        Only folders whose names begin like this.
    older_than
        Leave folders that were changed within so many seconds: one that has just been made is not locked yet.
    """
    removed = 0
    for folder in parent.glob(f"{prefix}*"):
        try:
            if time.time() - folder.stat().st_mtime < older_than:
                continue
            handle = _lock(folder)
        except OSError:
            continue  # in use, no folder, or gone meanwhile
        try:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)
        removed += not folder.exists()
    return removed


def cache_limit(cache: Path, gib: float | None) -> int:
    """Return how many bytes the cache may keep: `gib`, or a quarter of its disk where that is None."""
    return int(shutil.disk_usage(_existing(cache)).total * _CACHE_PART if gib is None else gib * 2**30)


def comfortable(folder: Path) -> int:
    """Return how many bytes of its disk the cache leaves free: the store and everybody else need room, too."""
    return min(int(shutil.disk_usage(_existing(folder)).total * _FREE_PART), _FREE_AT_MOST)


def free_space(folder: Path, state: Path, wanted: int) -> int:
    """Return the bytes free where `folder` is; where fewer than `wanted`, what is not in use goes first.

    Parameters
    ----------
    folder
        Folder to write to.
    state
        The state folder, with cache and scratch.
    wanted
        Bytes.
    """
    free = shutil.disk_usage(_existing(folder)).free
    if free < wanted:
        # A killed worker's folder holds on to what it took from the cache.
        _attempt("scratch folders", lambda: remove_abandoned(state / "scratch"))
        # More than is wanted now: the next file shall not have to look through the whole cache again.
        _attempt("the cache", lambda: trim(state / "cache", None, max(wanted, comfortable(state))))
        free = shutil.disk_usage(_existing(folder)).free
    return free


class _Cached(NamedTuple):
    used: float
    size: int
    path: Path


def trim(cache: Path, limit: int | None, free: int) -> int:
    """Remove what was not used for longest from the cache, and return the bytes that this freed.

    Files that a job uses stay, and so does everything else once both bounds are met. Several processes may do this at
    the same time, while others fetch.

    Parameters
    ----------
    cache
        The cache's folder; may be missing.
    limit
        Bytes that the cache may keep; None: any number.
    free
        Bytes that shall be free on its disk.
    """
    files = list(_cached_files(cache))
    excess = free - shutil.disk_usage(_existing(cache)).free
    if limit is not None:
        excess = max(excess, sum(file.size for file in files) - limit)
    freed = 0
    for file in sorted(files):
        if freed >= excess:
            break
        try:
            now = file.path.stat()
            if now.st_nlink > 1 or now.st_mtime != file.used:
                continue  # a job uses it, or has done so meanwhile
            file.path.unlink()
        except FileNotFoundError:
            pass  # another process makes room, too: the space is free all the same
        except OSError as error:
            _log.warning("%s cannot be removed from the cache: %s", file.path, error)
            continue
        freed += file.size
    if freed:
        _log.info("files left the cache", extra={"mebibytes": freed // 2**20, "folder": str(cache)})
    return freed


def _cached_files(cache: Path) -> Iterator[_Cached]:
    """Yield the files of the cache, and remove what a killed process left half-written."""
    for folder, subfolders, names in os.walk(cache):
        for name in [*subfolders, *names]:
            path = Path(folder) / name
            try:
                status = path.stat()
                if name.startswith("."):
                    if time.time() - status.st_mtime > _LEFTOVER_SECONDS:
                        shutil.rmtree(path) if name in subfolders else path.unlink()
                elif name in names:
                    yield _Cached(status.st_mtime, status.st_size, path)
            except FileNotFoundError:
                continue
            except OSError as error:
                _log.warning("%s cannot be cleaned up: %s", path, error)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]


def remove_old_files(folder: Path, days: float) -> int:
    """Remove the files below `folder` that were not written to for `days`; return their number."""
    removed = 0
    for path in folder.rglob("*"):
        try:
            if path.is_file() and time.time() - path.stat().st_mtime > days * _DAY:
                path.unlink()
                removed += 1
        except FileNotFoundError:
            continue
        except OSError as error:
            _log.warning("%s cannot be cleaned up: %s", path, error)
    return removed


def empty_trash(store: Store, days: float, *, now: float | None = None) -> int:
    """Remove the records of jobs that were deleted more than `days` before `now`; return their number.

    Any instance may do so at any time, several at once, too: objects that are gone already are ignored.
    """
    now = time.time() if now is None else now
    trash = store.jobs / ".trash"
    removed = 0
    for project in store.folders(trash):
        for name in store.folders(trash / project):
            deleted = name.rpartition("-")[2]
            # What has no time in its name was put there by somebody else.
            if deleted.isdigit() and now - int(deleted) > days * _DAY:
                for item in list(store.objects(trash / project / name)):
                    store.delete(item.location)
                removed += 1
    return removed


def count_trash(store: Store) -> int:
    """Return how many records the trash holds."""
    trash = store.jobs / ".trash"
    return sum(len(store.folders(trash / project)) for project in store.folders(trash))


def _attempt(what: str, action: Callable[[], int]) -> None:
    try:
        done = action()
    except Exception as error:
        _log.warning("%s could not be cleaned up: %s", what, error, exc_info=not isinstance(error, OSError))
    else:
        _log.debug("%s cleaned up: %d", what, done)


def _locked_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
    return folder, _lock(folder)


def _lock(folder: Path) -> int:
    """Lock a folder as long as the returned file is open; raise OSError if another process has it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
