"""Processes of this machine for workers: forks of the service's fork server where that can be, else started anew."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from parfocal.runtime.jobs.fork_server import ForkServer, ForkServerGoneError, Program, can_fork
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

    Parameters
    ----------
    settings
        Of the service.
    service_module
        Its module, for example "parfocal.care".
    programs
        Modules that workers run, besides that of jobs: they are loaded as well.
    """

    def __init__(self, settings: Settings, service_module: str, programs: Sequence[str] = ()) -> None:
        self._settings = settings
        self.module = service_module
        self._programs = ("parfocal.runtime.jobs.attempt", *programs)
        self._forks = settings.fork_server_seconds > 0 and can_fork()
        self._server: ForkServer | None = None
        # Those that were given up, until they have ended.
        self._ending: list[ForkServer] = []
        self._killed: list[Process] = []
        self._used = time.monotonic()

    def start(self, program: Program, environment: Mapping[str, str]) -> Process:
        """Start a worker; raise OSError if none can be started.

        Parameters
        ----------
        program
            What it runs, its first argument being the module of the service.
        environment
            Variables that it has besides those of this process.
        """
        # Which device a framework sees is settled when it is loaded.
        if self._forks and not environment:
            try:
                return self._fork(program)
            except ForkServerGoneError:
                _log.warning("the fork server has ended; this worker loads the framework itself")
        stdin, stdout, stderr = program.standard
        arguments = [word.format(*program.files) for word in program.arguments]
        return subprocess.Popen(
            [sys.executable, "-m", program.module, *arguments],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=program.files,
            env={**os.environ, **environment} if environment else None,
        )

    def end(self, process: Process) -> None:
        """Send SIGKILL to a worker of which nobody wants to know how it ends."""
        process.kill()
        self._killed.append(process)

    def tend(self) -> None:
        """End the fork server when it is idle; reap what has ended. To be called several times a second."""
        if self._server is not None and self._server.asked:
            self._used = time.monotonic()
        elif self._server is not None and time.monotonic() - self._used > self._settings.fork_server_seconds:
            _log.info("fork server ends", extra={"pid": self._server.pid, "why": "it was idle"})
            self._give_up()
        self._ending = [server for server in self._ending if not server.ended()]
        self._killed = [process for process in self._killed if process.poll() is None]

    def dismiss(self) -> bool:
        """End the fork server; return whether all is gone that was ended. To be called until it is."""
        self._give_up()
        self.tend()
        return not self._ending and not self._killed

    def _fork(self, program: Program) -> Process:
        if self._server is None:
            log = self._settings.state_folder / "logs" / f"fork-{self.module}.log"
            self._server = ForkServer(self.module, self._programs, log)
            _log.info("fork server started", extra={"pid": self._server.pid})
        self._used = time.monotonic()
        try:
            return self._server.fork(program)
        except ForkServerGoneError:
            # One that has never served would fail again; another one was killed, as by a machine without memory.
            self._forks = self._server.served
            self._give_up()
            raise

    def _give_up(self) -> None:
        if self._server is not None:
            self._server.end()
            self._ending.append(self._server)
            self._server = None
