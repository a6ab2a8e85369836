"""Starts workers. The controller knows only the `Launcher` protocol; a facility's launcher makes Kubernetes Jobs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from parfocal import v1
from parfocal.runtime.settings import Settings


class Worker(Protocol):
    """A running worker."""

    def exit_reason(self) -> str | None:
        """Return None while it runs, else how it ended in plain words ("" for a regular end)."""

    def kill(self) -> None:
        """End it by force, at once."""


class Launcher(Protocol):
    """Starts workers where there is room for them."""

    def start(self, job: v1.Job, *, needs_device: bool) -> Worker | None:
        """Start a worker for the present attempt of `job`; None while the device is taken."""

    def reserve(self, *, needs_device: bool) -> bool:
        """Return whether `start` would find the device free now, and keep it for the next `start`."""


@dataclass
class LocalWorker:
    """A worker as a child process. It ends by itself when the server dies: its lifeline then closes."""

    process: subprocess.Popen[bytes]
    lifeline: int
    log: Path

    def exit_reason(self) -> str | None:
        """Return None while the process runs, else how it ended."""
        code = self.process.poll()
        if code is None:
            return None
        if self.lifeline >= 0:
            os.close(self.lifeline)
            self.lifeline = -1
        if code == 0:
            return ""
        if code == -signal.SIGKILL:
            return "was killed, most likely because the machine ran out of memory"
        if code < 0:
            return f"was ended by signal {signal.Signals(-code).name}"
        return f"ended with exit code {code}; its log is {self.log}"

    def kill(self) -> None:
        """Send SIGKILL: a Python SIGTERM handler would have to wait for the running network operation."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()


class LocalLauncher:
    """Starts workers as processes of this machine and keeps the device to one worker at a time.

    The lock is an open file handed to the worker, so it lasts exactly as long as the worker, whatever becomes of
    the server, and it holds between all services of the machine.
    """

    def __init__(self, settings: Settings, service_module: str) -> None:
        self._settings = settings
        self._module = service_module
        self._lock: int | None = None

    def reserve(self, *, needs_device: bool) -> bool:
        """Take the device lock for the next worker; return False while another worker has it."""
        if not needs_device or not self._settings.device or self._lock is not None:
            return True
        folder = self._settings.state_folder
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / f"{self._settings.device}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        self._lock = lock
        return True

    def release(self) -> None:
        """Give back a reserved device that no worker took."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def start(self, job: v1.Job, *, needs_device: bool) -> LocalWorker | None:
        """Start `python -m parfocal.runtime.jobs.worker` for this attempt of `job`."""
        if not self.reserve(needs_device=needs_device):
            return None
        lock = self._lock if needs_device else None
        read_end, write_end = os.pipe()
        log = self._settings.state_folder / "logs" / job.project / f"{job.id}-{job.attempt}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "parfocal.runtime.jobs.worker", self._module, job.project, job.id]
        command += ["--attempt", str(job.attempt), "--lifeline", str(read_end)]
        try:
            with log.open("ab") as output:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=[read_end] + ([lock] if lock is not None else []),
                )
        except OSError:
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
            if lock is not None:
                self.release()
        return LocalWorker(process, write_end, log)
