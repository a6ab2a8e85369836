"""Files between this computer and the store, with progress and checked by their digests."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

from parfocal.runtime.errors import AlreadyExistsError, DiskFullError, InvalidInputError, ParfocalError
from parfocal.runtime.store.manifests import FileEntry
from parfocal.runtime.store.publish import sha256_of
from parfocal.runtime.store.store import Location, Store

_T = TypeVar("_T")
_R = TypeVar("_R")
_THREADS = 4

OnProgress = Callable[[int, int, str], None]
"""Called with the number of files done, their number in all, and the name of the one just done."""


def no_progress(_done: int, _total: int, _name: str) -> None:
    """Show nothing."""


def for_each(
    items: Iterable[tuple[str, _T]], action: Callable[[_T], _R], on_progress: OnProgress = no_progress
) -> list[_R]:
    """Return `action` of each named item, in order; a few run at a time, and the first failure ends all."""
    named = list(items)
    done = 0
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        futures: dict[Future[_R], str] = {pool.submit(action, item): name for name, item in named}
        pending = set(futures)
        try:
            while pending:
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                    done += 1
                    on_progress(done, len(named), futures[future])
        except BaseException:
            # Also on Ctrl-C: what has not begun must not begin.
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        return [future.result() for future in futures]


def download_files(
    store: Store,
    place: Location,
    entries: Iterable[FileEntry],
    folder: Path,
    *,
    overwrite: bool = False,
    on_progress: OnProgress = no_progress,
) -> list[Path]:
    """Download published files below `folder` under their public names and return their paths.

    Raises
    ------
    AlreadyExistsError
        Some exist already and `overwrite` is false; nothing was written.
    InvalidInputError
        The store's copy differs from the manifest.
    """
    # Location's rules keep a hostile name inside `folder`.
    targets = [(entry, folder / (Location("", "") / entry.public_name).key) for entry in entries]
    if not overwrite:
        refuse_existing([path for _, path in targets])

    def fetch(item: tuple[FileEntry, Path]) -> Path:
        entry, path = item
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=".incoming-") as incoming:
                part = Path(incoming) / "part"
                store.download(place / entry.name, part)
                if sha256_of(part) != entry.sha256:
                    raise InvalidInputError(
                        f"{place / entry.name} differs from its manifest: the stored file is damaged."
                    )
                part.replace(path)
        except OSError as error:
            raise _local_error(error, path) from error
        return path

    return for_each([(entry.public_name, (entry, path)) for entry, path in targets], fetch, on_progress)


def refuse_existing(paths: Iterable[Path]) -> None:
    """Raise AlreadyExistsError naming those of `paths` that exist."""
    there = [path for path in paths if path.exists()]
    if there:
        names = ", ".join(path.name for path in there[:5]) + (f" and {len(there) - 5} more" if len(there) > 5 else "")
        raise AlreadyExistsError(
            f"{there[0].parent} has {names} already; nothing was written. Choose another folder, or --overwrite."
        )


def check_output(folder: Path, names: Sequence[str], *, overwrite: bool) -> None:
    """Look whether results can be written to a folder before hours are spent on them; it is not made yet.

    Raises
    ------
    AlreadyExistsError
        It has files of these names already, and `overwrite` is false.
    DiskFullError, InvalidInputError
        It cannot be made or written.
    """
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".incoming-"):
            pass
    except OSError as error:
        raise _local_error(error, there / names[0]) from error
    if not overwrite:
        refuse_existing([folder / name for name in names])


def _local_error(error: OSError, path: Path) -> ParfocalError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFullError(f"There is no room for {path}: free space on this disk, or choose another folder.")
    if isinstance(error, FileExistsError | NotADirectoryError):
        return InvalidInputError(f"{path.parent} is a file, not a folder. Choose another folder.")
    why = os.strerror(error.errno) if error.errno else str(error)
    return InvalidInputError(f"{path} cannot be written: {why}. Choose another folder.")
