"""What a stack reports of itself: the states of its units, kept in stack.json by the supervisor.

No secret is ever written there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, ValidationError

from parfocal.stack.config import write_atomically
from parfocal.stack.processes import ProcessId


class UnitState(StrEnum):
    """State of one unit."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    STOPPED = "stopped"


class UnitStatus(BaseModel):
    """One unit as it stands.

    Parameters
    ----------
    name
        Name of the unit.
    state
        STARTING also while it waits for other units or for its next attempt; `detail` says which.
    detail
        Why it is in this state, in plain language; may be empty.
    process
        The running process, None if there is none.
    address
        Where it is reached; empty if nowhere.
    since
        Time of the last change of state (with time zone).
    start_seconds
        Seconds from the last start until it was ready; None before.
    restarts
        How often it was started again after it had died.
    memory_mb
        Resident memory with all child processes in MiB; only `parfocal.stack.status` fills it in.
    log
        Its log file.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    state: UnitState
    detail: str = ""
    process: ProcessId | None = None
    address: str = ""
    since: datetime
    start_seconds: float | None = None
    restarts: int = 0
    memory_mb: float | None = None
    log: Path

    @property
    def pid(self) -> int | None:
        """Number of the running process."""
        return self.process.pid if self.process else None


class StackStatus(BaseModel):
    """A stack as it stands.

    Parameters
    ----------
    folder
        The stack's folder.
    running
        Whether its supervisor runs.
    supervisor
        The supervisor's process.
    since
        When the supervisor started, or None if the stack was never started.
    revision
        Revision of the configuration that the supervisor has applied.
    units
        The units in the order in which they are listed.
    s3_endpoint, prefect_url, portal_url
        Where the store, Prefect's pages and the portal are; empty without them.
    credentials
        The file that holds the store's keys.
    """

    model_config = ConfigDict(frozen=True)

    folder: Path
    running: bool = False
    supervisor: ProcessId | None = None
    since: datetime | None = None
    revision: int = 0
    units: tuple[UnitStatus, ...] = ()
    s3_endpoint: str = ""
    prefect_url: str = ""
    portal_url: str = ""
    credentials: Path | None = None

    @property
    def ready(self) -> bool:
        """Whether the stack runs and every unit is ready."""
        return self.running and all(unit.state is UnitState.READY for unit in self.units)

    @property
    def settled(self) -> bool:
        """Whether no unit is on its way any more: each is ready, has failed or waits for one that failed."""
        return all(unit.state is not UnitState.STARTING for unit in self.units)

    def unit(self, name: str) -> UnitStatus | None:
        """Return the unit called `name`, or None."""
        return next((unit for unit in self.units if unit.name == name), None)


class StackEvent(BaseModel):
    """A change that a person waiting for the stack wants to see; `unit` is empty for the stack as a whole."""

    model_config = ConfigDict(frozen=True)

    unit: str
    state: UnitState
    detail: str = ""
    address: str = ""


def changes(before: StackStatus | None, after: StackStatus) -> tuple[StackEvent, ...]:
    """Return what changed from one status to the next, as events."""
    known = {unit.name: (unit.state, unit.detail) for unit in before.units} if before else {}
    return tuple(
        StackEvent(unit=unit.name, state=unit.state, detail=unit.detail, address=unit.address)
        for unit in after.units
        if known.get(unit.name) != (unit.state, unit.detail)
    )


def log_path(folder: Path, unit: str) -> Path:
    """Return the log file of a unit (or of ``supervisor``)."""
    return folder / "logs" / f"{unit}.log"


def write_status(status: StackStatus) -> None:
    """Write stack.json."""
    write_atomically(status.folder / "stack.json", status.model_dump_json(indent=2) + "\n")


def read_status(folder: Path) -> StackStatus | None:
    """Return what stack.json says, or None if it is missing or unreadable.

    It may be out of date: the machine may have lost power. `parfocal.stack.status` judges that.
    """
    try:
        return StackStatus.model_validate_json((folder / "stack.json").read_text("utf-8"))
    except (FileNotFoundError, ValidationError):
        return None


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the lock under which `up` and `down` decide, so that two of them at once do not mix."""
    with _open_lock(folder / "up.lock") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def take_supervisor_lock(folder: Path) -> IO[str] | None:
    """Return the open lock file of the supervisor, now held by this process, or None if another one has it.

    The system releases it when the process ends, however it ends.
    """
    stream = _open_lock(folder / "supervisor.lock")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        return None
    stream.truncate(0)
    stream.write(f"{os.getpid()}\n")
    stream.flush()
    return stream


def supervisor_runs(folder: Path) -> bool:
    """Return whether a supervisor holds the lock of `folder`."""
    try:
        stream = (folder / "supervisor.lock").open("r", encoding="utf-8")
    except FileNotFoundError:
        return False
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def supervisor_pid(folder: Path) -> int | None:
    """Return the process number of the supervisor of `folder`, or None if none runs.

    It is the holder of the lock who wrote it, so it cannot be a number that has passed to another process.
    """
    if not supervisor_runs(folder):
        return None
    text = (folder / "supervisor.lock").read_text("utf-8").strip()
    return int(text) if text.isdigit() else None


def _open_lock(path: Path) -> IO[str]:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="utf-8")
