"""The machine's devices, each lent to one worker at a time across all services of the machine."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from parfocal.runtime.settings import Settings

# Whoever waits asks again every 0.2 s, a busy controller a little later: an older mark is one of someone gone.
_MARK_SECONDS = 2.0


@dataclass
class Loan:
    """A device in this process's hands. Give `files` to a worker: the loan then lasts as long as the worker.

    `environment` are the variables by which the worker's framework sees this device and no other.
    """

    files: tuple[int, ...]
    lock: DeviceLock | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def describe(self, holder: str) -> None:
        """Write down, for those who wait, who has the device."""
        for file in self.files:
            os.ftruncate(file, 0)
            os.pwrite(file, holder.encode(), 0)

    def close(self) -> None:
        """Let go of the device; a worker that was given `files` keeps it."""
        for file in self.files:
            os.close(file)
        self.files = ()


class DeviceLock:
    """One device, locked by an open file, so that a lock never outlives the processes that hold it.

    Who does not get it leaves a mark, so that a warm worker that only waits for images gives way. Jobs go before
    single images: these do not take a device that a job waits for.

    Parameters
    ----------
    folder
        State folder of the machine; made when missing.
    name
        Name of the device; empty where there is none to share: every loan is then granted.
    number
        Which GPU of the machine it is, as CUDA counts them; empty where frameworks choose by themselves.
    """

    def __init__(self, folder: Path, name: str, number: str = "") -> None:
        self._name = name
        self._environment = {"CUDA_VISIBLE_DEVICES": number} if number else {}
        self._folder = folder
        self._lock = folder / f"{name}.lock"
        self._marks = {job: folder / f"{name}.wanted-by-{'job' if job else 'image'}" for job in (True, False)}

    def take(self, *, for_job: bool) -> Loan | None:
        """Return the device if it is free, else None, and then make known that it is wanted."""
        loan = self.try_take(for_job=for_job)
        if loan is None:
            self.want(for_job=for_job)
        return loan

    def try_take(self, *, for_job: bool) -> Loan | None:
        """Return the device if it is free, else None."""
        if not self._name:
            return Loan(())
        self._folder.mkdir(parents=True, exist_ok=True)
        if for_job or not self.job_waits():
            lock = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._marks[for_job].unlink(missing_ok=True)
                return Loan((lock,), self, self._environment)
            os.close(lock)
        return None

    def want(self, *, for_job: bool) -> None:
        """Make known that the device is wanted."""
        self._marks[for_job].touch()

    def job_waits(self) -> bool:
        """Return whether a job of any service of this machine waits for the device now."""
        return self._is_fresh(self._marks[True])

    def image_waits(self) -> bool:
        """Return whether a single image waits for the device now."""
        return self._is_fresh(self._marks[False])

    def holder(self) -> str:
        """Return in words who has the device, as far as is known."""
        with contextlib.suppress(OSError):
            return self._lock.read_text(encoding="utf-8") or "other work"
        return "other work"

    def _is_fresh(self, mark: Path) -> bool:
        if not self._name:
            return False
        with contextlib.suppress(OSError):
            return time.time() - mark.stat().st_mtime < _MARK_SECONDS
        return False


class Devices:
    """All devices that the workers of this machine may have. Whoever waits takes the one that is free first.

    Parameters
    ----------
    locks
        Locks of the devices, the first one preferred.
    """

    def __init__(self, locks: Sequence[DeviceLock]) -> None:
        self._locks = tuple(locks)

    @classmethod
    def of(cls, settings: Settings) -> Devices:
        """Return the devices that the settings name."""
        folder = settings.state_folder
        numbers = settings.device_numbers
        if not numbers:
            return cls([DeviceLock(folder, settings.device)])
        return cls([DeviceLock(folder, f"device-{number}", number) for number in numbers])

    def take(self, *, for_job: bool) -> Loan | None:
        """Return a device that is free, else None, and then make known that one is wanted."""
        for lock in self._locks:
            if (loan := lock.try_take(for_job=for_job)) is not None:
                return loan
        for lock in self._locks:
            lock.want(for_job=for_job)
        return None

    def job_waits(self) -> bool:
        """Return whether a job of any service of this machine waits for a device now."""
        return any(lock.job_waits() for lock in self._locks)

    def image_waits(self) -> bool:
        """Return whether a single image waits for a device now."""
        return any(lock.image_waits() for lock in self._locks)

    def holder(self) -> str:
        """Return in words who has the devices, as far as is known."""
        return " and ".join(lock.holder() for lock in self._locks)
