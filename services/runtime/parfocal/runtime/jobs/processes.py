"""Processes of this machine for workers: forks of the service's fork server where that can be, else started anew."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from typing import Protocol

from parfocal.runtime.jobs.device.lock import Loan
from parfocal.runtime.jobs.fork_server import ForkServer, ForkServerGoneError, can_fork
from parfocal.runtime.jobs.handover import Assignment
from parfocal.runtime.settings import Settings

_log = logging.getLogger(__name__)


class Process(Protocol):
    """What a launcher needs of a worker's process: `subprocess.Popen` has it, and `fork_server.Fork`."""

    @property
    def pid(self) -> int:
        """Its number."""

    def poll(self) -> int | None:
        """Return its exit code, negative for a signal; None while it runs."""

    def kill(self) -> None:
        """Send SIGKILL."""


class WorkerProcesses:
    """Starts the worker processes of a service, and keeps its fork server for `fork_server_seconds` after the last one.

    The first job waits for the fork server as long as it would for a worker of its own; those that follow do not wait.
    """

    def __init__(self, settings: Settings, service_module: str) -> None:
        self._settings = settings
        self._module = service_module
        self._forks = settings.fork_server_seconds > 0 and can_fork()
        self._server: ForkServer | None = None
        # Those that were given up, until they have ended.
        self._ending: list[ForkServer] = []
        self._used = time.monotonic()

    def start(self, assignment: Assignment, output: int, loan: Loan, *, spare: bool) -> tuple[Process, socket.socket]:
        """Start `python -m parfocal.runtime.jobs.worker`, or what is like it.

        Parameters
        ----------
        assignment
            What it does first.
        output
            Open file that it writes to.
        loan
            Of its device.
        spare
            Whether it waits for another job after that.

        Returns
        -------
        process, lifeline
            The process, and this end of its socket.

        Raises
        ------
        OSError
            None can be started.
        """
        lifeline, other = socket.socketpair()
        arguments = [self._module, assignment.project, assignment.job_id, "--attempt", str(assignment.attempt)]
        if spare:
            arguments += ["--spare", str(self._settings.spare_seconds)]
        with other:
            try:
                # Which device a framework sees is settled when it is loaded.
                if self._forks and not loan.environment:
                    try:
                        return self._fork(arguments, [output, other.fileno(), *loan.files]), lifeline
                    except ForkServerGoneError:
                        _log.warning("the fork server has ended; workers load the framework themselves from now on")
                        self._forks = False
                return self._new(arguments, output, other.fileno(), loan), lifeline
            except OSError:
                lifeline.close()
                raise

    def tend(self) -> None:
        """End the fork server when it is idle; reap those that have ended."""
        if self._server is not None and self._server.asked:
            self._used = time.monotonic()
        elif self._server is not None and time.monotonic() - self._used > self._settings.fork_server_seconds:
            _log.info("fork server ends", extra={"pid": self._server.pid, "why": "it was idle"})
            self._give_up()
        self._ending = [server for server in self._ending if not server.ended()]

    def dismiss(self) -> bool:
        """End the fork server; return whether it has ended. To be called until it has."""
        self._give_up()
        self.tend()
        return not self._ending

    def _fork(self, arguments: list[str], files: list[int]) -> Process:
        if self._server is None:
            self._server = ForkServer(self._module, self._settings.state_folder / "logs" / f"fork-{self._module}.log")
            _log.info("fork server started", extra={"pid": self._server.pid})
        self._used = time.monotonic()
        try:
            return self._server.fork(arguments, files)
        except ForkServerGoneError:
            self._give_up()
            raise

    def _give_up(self) -> None:
        if self._server is not None:
            self._server.end()
            self._ending.append(self._server)
            self._server = None

    @staticmethod
    def _new(arguments: list[str], output: int, lifeline: int, loan: Loan) -> Process:
        command = [sys.executable, "-m", "parfocal.runtime.jobs.worker", *arguments, "--lifeline", str(lifeline)]
        for file in loan.files:
            command += ["--device", str(file)]
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[lifeline, *loan.files],
            env={**os.environ, **loan.environment} if loan.environment else None,
        )
