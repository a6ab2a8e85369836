"""Starts workers. The controller knows only the `Launcher` protocol; a facility's launcher makes Kubernetes Jobs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from parfocal import v1
from parfocal.runtime.errors import ParfocalError
from parfocal.runtime.jobs.device import Device, Loan
from parfocal.runtime.jobs.exits import SERVICE_GONE, STORE_AWAY, Exit, ExitKind
from parfocal.runtime.settings import Settings


class Worker(Protocol):
    """A running worker."""

    def exit(self) -> Exit | None:
        """Return None while it runs, else how it ended."""

    def kill(self) -> None:
        """End it by force, at once."""


@dataclass(frozen=True)
class NotStarted:
    """Stands for a worker that could not be started, so that its job ends as those do whose worker ended."""

    error: ParfocalError

    def exit(self) -> Exit:
        """Return that it never ran."""
        return Exit(ExitKind.NOT_STARTED, "could not be started")

    def kill(self) -> None:
        """Do nothing."""


class Launcher(Protocol):
    """Starts workers where there is room for them."""

    def start(self, job: v1.Job, *, needs_device: bool) -> Worker | None:
        """Start a worker for the present attempt of `job`; None while the device is taken.

        Raises
        ------
        OSError
            No worker can be started, for example because the disk is full. The device is free again.
        """

    def reserve(self, *, needs_device: bool) -> bool:
        """Return whether `start` would find the device free now, and keep it for the next `start`."""

    def release(self) -> None:
        """Give back what was reserved for a job that will not start after all."""


@dataclass
class LocalWorker:
    """A worker as a child process. It ends by itself when the server dies: its lifeline then closes."""

    process: subprocess.Popen[bytes]
    lifeline: int
    log: Path

    def exit(self) -> Exit | None:
        """Return None while the process runs, else how it ended."""
        code = self.process.poll()
        if code is None:
            return None
        if self.lifeline >= 0:
            os.close(self.lifeline)
            self.lifeline = -1
        if code == 0:
            return Exit(ExitKind.FINISHED)
        if code == SERVICE_GONE:
            return Exit(ExitKind.INTERRUPTED, "lost its service")
        if code == STORE_AWAY:
            return Exit(ExitKind.INTERRUPTED, "waited for the store in vain")
        if code == -signal.SIGTERM:
            return Exit(ExitKind.INTERRUPTED, "was asked to end by the machine")
        if code == -signal.SIGKILL:
            return Exit(ExitKind.DIED, "was killed, most likely because the machine ran out of memory")
        if code < 0:
            return Exit(ExitKind.DIED, f"was ended by signal {signal.Signals(-code).name}")
        return Exit(ExitKind.DIED, f"ended with exit code {code}; its log is {self.log}")

    def kill(self) -> None:
        """Send SIGKILL: a Python SIGTERM handler would have to wait for the running network operation."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()


class LocalLauncher:
    """Starts workers as processes of this machine and keeps the device to one worker at a time.

    A worker is given the device's loan, so that it has the device exactly as long as it lives, whatever becomes of
    the server.
    """

    def __init__(self, settings: Settings, service_module: str, device: Device) -> None:
        self._settings = settings
        self._module = service_module
        self._device = device
        self._loan: Loan | None = None

    def reserve(self, *, needs_device: bool) -> bool:
        """Take the device for the next worker; return False while something else has it."""
        if needs_device and self._loan is None:
            self._loan = self._device.take(for_job=True)
            if self._loan is not None:
                self._loan.describe("the next job")
        return not needs_device or self._loan is not None

    def release(self) -> None:
        """Give back a reserved device that no worker took."""
        if self._loan is not None:
            self._loan.close()
            self._loan = None

    def start(self, job: v1.Job, *, needs_device: bool) -> LocalWorker | None:
        """Start `python -m parfocal.runtime.jobs.worker` for this attempt of `job`; raise OSError if that fails."""
        if not self.reserve(needs_device=needs_device):
            return None
        loan = self._loan if needs_device else None
        if loan is not None:
            loan.describe(f"the job {job.id} of the service {job.service}")
        log = self._settings.state_folder / "logs" / job.project / f"{job.id}-{job.attempt}.log"
        command = [sys.executable, "-m", "parfocal.runtime.jobs.worker", self._module, job.project, job.id]
        read_end, write_end = os.pipe()
        command += ["--attempt", str(job.attempt), "--lifeline", str(read_end)]
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as output:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=[read_end, *(loan.files if loan is not None else ())],
                )
        except OSError:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
            if loan is not None:
                self.release()
        return LocalWorker(process, write_end, log)
