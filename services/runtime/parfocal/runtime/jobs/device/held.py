"""The device as the worker that has it sees it: it says how far it is, and finds out who waits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import psutil

from parfocal.runtime.jobs.device.lock import DeviceLock, read_holder, write_holder
from parfocal.runtime.jobs.device.wishes import Wish
from parfocal.runtime.settings import Settings


class HandedOver(Exception):  # noqa: N818
    """The device is handed over to other work, and the attempt ends; its job goes on in the next one."""


class Held:
    """What a worker has to do with its device; nothing where it was given none.

    Parameters
    ----------
    files
        The files of the loan.
    settings
        Those of the service that has started the worker.
    """

    def __init__(self, files: Sequence[int], settings: Settings) -> None:
        self._file = files[0] if files else None
        self._holder = read_holder(files[0]) if files else None
        self._lock = DeviceLock(settings, self._holder.device) if self._holder and self._holder.device else None

    def tell(self, *, epoch: int = 0, epochs: int = 0, until_turn: float = 0.0, left: float = 0.0) -> None:
        """Say how far the work is: epochs done and in all, seconds to the end of the epoch and of all; 0: unknown."""
        if self._file is None or self._holder is None:
            return
        now = time.time()
        write_holder(
            self._file,
            replace(
                self._holder,
                epoch=epoch,
                epochs=epochs,
                turn_at=now + until_turn if until_turn else 0.0,
                ends_at=now + left if left else 0.0,
            ),
        )

    def wanted(self) -> Wish | None:
        """Return the wish to which a training has to hand this device over now, None if it may go on."""
        if self._lock is None or not self._lock.short_first():
            return None
        short = (wish for wish in self._lock.waiting() if wish.use.short)
        return next((wish for wish in short if self._lock.wishes.give(wish)), None)

    def count_restart(self) -> None:
        """Count the time that this process took to come to its work as lost to short work."""
        if self._lock is not None:
            self._lock.share.add(max(0.0, time.time() - psutil.Process().create_time()))
