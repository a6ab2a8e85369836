"""Log files of the units: reading, following and keeping them small."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from parfocal.runtime.errors import NotFoundError
from parfocal.stack.config import resolve_folder
from parfocal.stack.state import log_path, read_status

_BLOCK = 64 * 1024


def logs(folder: Path | None = None, unit: str | None = None, lines: int = 50, follow: bool = False) -> Iterator[str]:
    """Return the last lines of a unit's log, oldest first and without line ends.

    Parameters
    ----------
    folder
        The stack's folder; the default one when None.
    unit
        Name of a unit, or ``supervisor``; None means all, each line beginning with the name of its unit.
    lines
        How many lines of each log.
    follow
        Go on with new lines as they are written, until the caller stops iterating.

    Raises
    ------
    NotFoundError
        The stack has no such unit, or never ran.
    """
    folder = resolve_folder(folder)
    status = read_status(folder)
    if status is None:
        raise NotFoundError(f"No stack was ever started in {folder}: there are no logs.")
    names = ["supervisor", *(known.name for known in status.units)]
    if unit is not None and unit not in names:
        raise NotFoundError(f"The stack in {folder} has no unit {unit!r}. It has {', '.join(names)}.")
    chosen = names if unit is None else [unit]
    return _read(folder, chosen, lines, follow, label=unit is None)


def last_lines(path: Path, lines: int) -> list[str]:
    """Return the last `lines` lines of a file, or none if it does not exist."""
    return _tail(path, lines)[0]


def cap_size(path: Path, limit: int) -> bool:
    """Move the contents of a log of more than `limit` bytes to ``NAME.1`` and empty it; return whether it did.

    The writer keeps its open file: it must have opened it for appending. What it writes between the copy
    and the emptying is lost, which a log can bear.
    """
    try:
        if path.stat().st_size <= limit:
            return False
    except FileNotFoundError:
        return False
    older = path.with_name(f"{path.name}.1")
    with path.open("rb") as source, older.open("wb") as target:
        source.seek(-limit, os.SEEK_END)
        while block := source.read(_BLOCK):
            target.write(block)
    os.truncate(path, 0)
    return True


def _read(folder: Path, units: list[str], lines: int, follow: bool, label: bool) -> Iterator[str]:
    width = max(len(unit) for unit in units)
    position: dict[str, int] = {}
    for unit in units:
        found, position[unit] = _tail(log_path(folder, unit), lines)
        yield from (f"{unit:<{width}} | {line}" if label else line for line in found)
    while follow:
        quiet = True
        for unit in units:
            found, position[unit] = _news(log_path(folder, unit), position[unit])
            quiet = quiet and not found
            yield from (f"{unit:<{width}} | {line}" if label else line for line in found)
        if quiet:
            time.sleep(0.2)


def _tail(path: Path, lines: int) -> tuple[list[str], int]:
    """Return the last complete lines and the position behind them."""
    if lines <= 0:
        return [], path.stat().st_size if path.exists() else 0
    kept: deque[str] = deque(maxlen=lines)
    end = 0
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            # Far back enough for lines of 400 bytes; a log is never read whole.
            start = max(0, size - max(_BLOCK, 400 * lines))
            stream.seek(start)
            data = stream.read(size - start)
    except FileNotFoundError:
        return [], 0
    end = start + len(data)
    if start:
        data = data.partition(b"\n")[2]
    kept.extend(data.decode("utf-8", "replace").splitlines())
    return list(kept), end


def _news(path: Path, position: int) -> tuple[list[str], int]:
    """Return the lines written since `position` and the position behind them."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            if size < position:  # emptied by cap_size
                position = 0
            stream.seek(position)
            data = stream.read(_BLOCK)
    except FileNotFoundError:
        return [], 0
    complete = data.rfind(b"\n") + 1
    if not complete and len(data) == _BLOCK:
        complete = len(data)
    return data[:complete].decode("utf-8", "replace").splitlines(), position + complete
