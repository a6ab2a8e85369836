"""The machine's devices, each lent to one worker at a time across all services of the machine.

```
<state folder>/<device>.lock     locked by whoever has the device, and says who that is (`Holder`)
               wishes/           who waits for a device (`Wishes`)
               <device>.share    how much short work has taken from trainings lately (`Share`)
```

Short work, which is single images and small predictions, goes before all other, in the order in which it came, as long
as it does not take more than its share of the time from others; then these go first. A training that has the device
hands it over between two epochs (`parfocal.runtime.jobs.device.held`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from parfocal.runtime.jobs.device.share import Share
from parfocal.runtime.jobs.device.use import Holder, Kind, Use
from parfocal.runtime.jobs.device.wishes import Wish, Wishes
from parfocal.runtime.settings import Settings

# What is written is as long every time: whoever reads it while it is changed must not find half of it.
_HOLDER_BYTES = 1024
_UNKNOWN = Holder(Use(Kind.OTHER))


@dataclass
class Loan:
    """A device in this process's hands. Give `files` to a worker: the loan then lasts as long as the worker.

    `environment` are the variables by which the worker's framework sees this device and no other.
    """

    files: tuple[int, ...]
    lock: DeviceLock | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def describe(self, use: Use) -> None:
        """Write down, for those who wait, who has the device."""
        for file in self.files:
            write_holder(file, Holder(use, self.lock.name if self.lock is not None else ""))

    def close(self) -> None:
        """Let go of the device; a worker that was given `files` keeps it."""
        for file in self.files:
            os.close(file)
        self.files = ()


def write_holder(file: int, holder: Holder) -> None:
    """Write down in the file of a loan who has the device, and how far they are."""
    os.pwrite(file, holder.to_bytes().ljust(_HOLDER_BYTES)[:_HOLDER_BYTES], 0)


def read_holder(file: int) -> Holder | None:
    """Return what the file of a loan says; None if it says nothing."""
    return Holder.read(os.pread(file, _HOLDER_BYTES, 0))


class DeviceLock:
    """One device, locked by an open file, so that a lock never outlives the processes that hold it.

    Parameters
    ----------
    settings
        Where the machine's state is, and the share of short work.
    name
        Name of the device; empty where there is none to share: every loan is then granted.
    number
        Which GPU of the machine it is, as CUDA counts them; empty where frameworks choose by themselves.
    """

    def __init__(self, settings: Settings, name: str, number: str = "") -> None:
        folder = settings.state_folder
        self.name = name
        self.share = Share(folder / f"{name}.share", settings.short_work_share, settings.share_window_seconds)
        self.wishes = Wishes(folder / "wishes")
        self._environment = {"CUDA_VISIBLE_DEVICES": number} if number else {}
        self._path = folder / f"{name}.lock"

    def take(self, use: Use) -> Loan | None:
        """Return the device if it is free and nobody goes before this use, else None, and make the wish known."""
        return Devices([self]).take(use)

    def try_take(self, use: Use) -> Loan | None:
        """Return the device if it is free and nobody goes before this use, else None."""
        if not self.name:
            return Loan(())
        self._path.parent.mkdir(parents=True, exist_ok=True)
        own = self.wishes.own(use)
        present = self._order(use, own.since if own is not None else time.time())
        if all(present <= self._order(wish.use, wish.since) for wish in self.wishes.others(use, self.name)):
            lock = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return Loan((lock,), self, self._environment)
            os.close(lock)
        return None

    def short_first(self) -> bool:
        """Return whether short work goes before trainings now."""
        return not self.name or not self.share.used_up()

    def waiting(self) -> list[Wish]:
        """Return all wishes for the device, the one whose turn is next first."""
        wishes = self.wishes.all(self.name) if self.name else []
        return sorted(wishes, key=lambda wish: self._order(wish.use, wish.since))

    def holder(self) -> Holder | None:
        """Return who has the device, None if nobody has it or has had it since a moment ago."""
        try:
            file = os.open(self._path, os.O_RDONLY)
        except OSError:
            return None
        try:
            return read_holder(file) or _UNKNOWN
        finally:
            os.close(file)

    def _order(self, use: Use, since: float) -> tuple[bool, bool, float]:
        return use.short is not self.short_first(), not use.begun, since


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
        numbers = settings.device_numbers
        if not numbers:
            return cls([DeviceLock(settings, settings.device)])
        return cls([DeviceLock(settings, f"device-{number}", number) for number in numbers])

    def take(self, use: Use) -> Loan | None:
        """Return a device that is free and that nobody goes before, else None, and make the wish known."""
        for lock in self._locks:
            if (loan := lock.try_take(use)) is not None:
                if lock.name:
                    lock.wishes.withdraw(use)
                return loan
        self.want(use)
        return None

    def want(self, use: Use) -> None:
        """Make known that a device is wanted."""
        self._locks[0].wishes.make(use, [lock.name for lock in self._locks])

    def withdraw(self, use: Use) -> None:
        """Take a wish back."""
        self._locks[0].wishes.withdraw(use)

    def count_wait(self) -> None:
        """Count the time that other work loses by waiting for short work; to be called as long as any waits."""
        for lock in self._locks:
            holder = lock.holder() if lock.name else None
            if holder is not None and holder.use.short:
                lock.share.wait()

    def short_first(self) -> bool:
        """Return whether short work goes before trainings now."""
        return any(lock.short_first() for lock in self._locks)

    def waiting(self) -> list[Wish]:
        """Return the wishes of all who wait, whoever is next first."""
        return [wish for lock in self._locks[:1] for wish in lock.waiting()]

    def holders(self) -> list[Holder]:
        """Return who has the devices, whoever is done soonest first, as far as is known."""
        found = [holder for lock in self._locks if lock.name and (holder := lock.holder()) is not None]
        return sorted(found, key=lambda holder: holder.turn_at or holder.ends_at or time.time() + 86400)
