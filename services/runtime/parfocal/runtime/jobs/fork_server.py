"""The fork server: a process that has loaded what workers load, so that a worker is a fork of it within milliseconds.

`python -m parfocal.runtime.jobs.fork_server MODULE --programs A,B --line N` imports the programs of workers, and the
methods of the service in MODULE with their framework, which takes seconds. Then it forks a worker for each request that
comes through the socket N. It computes nothing itself but one small figure, so that fonts are found and read: it has no
thread, no device and no connection that a fork could inherit. Workers become children of the service (a "subreaper"),
which therefore learns how they end, and outlive the fork server.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from parfocal.runtime.jobs.exits import SERVICE_GONE

# By library, what it loads with the first step of a training. The first worker is not kept waiting for it, but the next
# has it: optimisers of PyTorch load its compiler, more than a second's work, although nothing is compiled here.
_LATER: Final = {"torch": "torch._dynamo"}
_MOST_BYTES = 8192
_MOST_FILES = 8
_PR_SET_CHILD_SUBREAPER: Final = 36
# Of prctl(2): no such constant in Python's library.
# Those of Nvidia below /dev may come only with the first use of a GPU; the last two are those of Windows and Jetson.
_GPU_FILES = ("/dev/nvidiactl", "/proc/driver/nvidia/version", "/dev/kfd", "/dev/dxg", "/dev/nvmap")
# What a worker's command line may take; longer ones are cut. It is written over that of the fork server.
_ROOM = 1024


def can_fork() -> bool:
    """Return whether workers may be forks on this machine.

    Only on Linux, where a service can adopt them, and only where there is no GPU: libraries of GPUs may not be forked
    once they were used, and whether importing a framework uses them differs between their versions.
    """
    return sys.platform == "linux" and not any(Path(file).exists() for file in _GPU_FILES)


@dataclass(frozen=True)
class Program:
    """What a worker runs.

    Attributes
    ----------
    module
        Of Python, with a function `run` that takes the arguments and ends the process.
    arguments
        "{0}" stands for the number of the first of `files` in the worker, and so on.
    standard
        Open files that become its standard input, output and error.
    files
        Further open files that it gets.
    """

    module: str
    arguments: Sequence[str]
    standard: tuple[int, int, int]
    files: Sequence[int] = ()


class ForkServerGoneError(OSError):
    """The fork server has ended, could not load the methods, or there can be none here."""


class Fork:
    """A worker that a fork server was asked for. It answers as `subprocess.Popen` does, as far as workers need it."""

    def __init__(self, server: ForkServer) -> None:
        self._server = server
        self._pid: int | None = None
        self._code: int | None = None
        self._killed = False

    @property
    def pid(self) -> int:
        """Number of the process; 0 before there is one."""
        return self._pid or 0

    def begun(self, pid: int) -> None:
        """Take note of the process."""
        self._pid = pid
        if self._killed:
            self.kill()

    def kill(self) -> None:
        """Send SIGKILL, as soon as there is a process."""
        self._killed = True
        # Not reaped yet, so the number is nobody else's.
        if self._pid is not None and self._code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)

    def poll(self) -> int | None:
        """Return None while the process runs or is still to come, else its exit code; of a signal, the negative."""
        if self._pid is None:
            self._server.look()
        if self._pid is None and self._server.gone:
            return SERVICE_GONE
        if self._pid is not None and self._code is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code


class ForkServer:
    """The service's end of its fork server.

    Parameters
    ----------
    module
        Of the service.
    programs
        Modules that are loaded besides its methods.
    log
        File that its output is appended to.

    Raises
    ------
    ForkServerGoneError
        This process cannot adopt workers.
    OSError
        No process can be started.
    """

    def __init__(self, module: str, programs: Sequence[str], log: Path) -> None:
        _adopt_orphans()
        self._line, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "parfocal.runtime.jobs.fork_server", module]
        command += ["--programs", ",".join(programs), "--line", str(other.fileno()), "--room", " " * _ROOM]
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with other, log.open("ab") as output:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=[other.fileno()]
                )
        except OSError:
            self._line.close()
            raise
        self._line.setblocking(False)
        self._asked: list[Fork] = []
        self.gone = False
        self.served = False

    @property
    def pid(self) -> int:
        """Number of its process."""
        return self._process.pid

    @property
    def asked(self) -> bool:
        """Whether a worker that was asked for is still to come."""
        self.look()
        return bool(self._asked) and not self.gone

    def fork(self, program: Program) -> Fork:
        """Ask for a worker.

        Raises
        ------
        ForkServerGoneError
            There will be none.
        """
        self.look()
        if self.gone:
            raise ForkServerGoneError
        request = json.dumps([program.module, *program.arguments]).encode()
        try:
            socket.send_fds(self._line, [request], [*program.standard, *program.files])
        except OSError as error:
            self._lose()
            raise ForkServerGoneError from error
        fork = Fork(self)
        self._asked.append(fork)
        return fork

    def look(self) -> None:
        """Take note of the workers that have begun, and of the fork server's end."""
        with contextlib.suppress(BlockingIOError):
            while not self.gone:
                try:
                    said = self._line.recv(_MOST_BYTES)
                except ConnectionError:
                    said = b""
                if not said:
                    self._lose()
                    return
                self._asked.pop(0).begun(int(said))
                self.served = True

    def end(self) -> None:
        """End it at once, also while it loads the methods; its workers go on."""
        self.look()
        self._lose()
        self._process.kill()

    def ended(self) -> bool:
        """Return whether the process has ended."""
        return self._process.poll() is not None

    def _lose(self) -> None:
        self.gone = True
        self._line.close()


def _adopt_orphans() -> None:
    """Have the workers that a fork server leaves behind become children of this process."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise ForkServerGoneError(ctypes.get_errno(), "this process cannot adopt workers")


def main() -> None:
    """Load the methods, then fork whenever that is asked for, until the service closes its end."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("module")
    parser.add_argument("--programs", default="", help="further modules to load, separated by commas")
    parser.add_argument("--line", type=int, required=True, help="socket that requests come from")
    parser.add_argument("--room", help="place for the command lines of workers, which say what job they are at")
    options = parser.parse_args()
    line = socket.socket(fileno=options.line)
    _load(options.module, [name for name in options.programs.split(",") if name])
    later = [name for library, name in _LATER.items() if library in sys.modules]
    # What was printed meanwhile is not for the log of each worker.
    sys.stdout.flush()
    sys.stderr.flush()
    # What is loaded stays. So the collector does not touch it, and its memory stays shared with the workers.
    gc.collect()
    gc.freeze()
    while True:
        if later and not select.select([line], [], [], 0)[0]:
            with contextlib.suppress(ImportError):
                importlib.import_module(later.pop())
            gc.freeze()
        request, files, _, _ = socket.recv_fds(line, _MOST_BYTES, _MOST_FILES)
        if not request:
            return
        pid = _fork(line, json.loads(request), files)
        for file in files:
            os.close(file)
        try:
            line.send(str(pid).encode())
        except ConnectionError:
            return


def _load(module: str, programs: Sequence[str]) -> None:
    """Import what the workers of a service import, and prepare drawing if they draw."""
    # Whoever opens the store imports it.
    for program in (*programs, "minio"):
        importlib.import_module(program)
    from parfocal.runtime.methods.service import load_object, load_service, load_with_framework

    service = load_service(module)
    for method in service.methods:
        for work in method.work.values():
            load_object(work.run)
        if method.implementation:
            load_with_framework(method.implementation)
            # Every training imports it at its end, and with it a library for figures.
            importlib.import_module("parfocal.runtime.training.report")
    if "parfocal.runtime.report.pdf" in sys.modules:
        load_object("parfocal.runtime.report.preload:preload")()


def _fork(line: socket.socket, command: list[str], files: list[int]) -> int:
    """Start a worker that is no child of this process; return its number."""
    reading, writing = os.pipe()
    between = os.fork()
    if between == 0:
        pid = os.fork()
        if pid:
            # Only once this process has ended is the worker the service's child, and only then is its number told.
            os.write(writing, str(pid).encode())
            os._exit(0)
        os.close(reading)
        os.close(writing)
        line.close()
        _become_worker(command, files)
    os.close(writing)
    os.waitpid(between, 0)
    with os.fdopen(reading, "rb") as told:
        return int(told.read())


def _become_worker(command: list[str], files: list[int]) -> NoReturn:
    for standard, file in enumerate(files[:3]):
        os.dup2(file, standard)
    for file in set(files[:3]):
        os.close(file)
    module, *arguments = command
    arguments = [word.format(*files[3:]) for word in arguments]
    _show_command([sys.executable, "-m", module, *arguments])
    # Python does the same for its own; without it all workers would draw the same numbers.
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    importlib.import_module(module).run(arguments)
    os._exit(0)


def _show_command(command: Sequence[str]) -> None:
    """Show a command line in the lists of processes, so that people and programs see what job this worker is at."""
    content = b"\0".join(word.encode() for word in command)
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    # Fields 48 and 49 of proc(5); the first one here is number 3.
    begin, end = int(fields[45]), int(fields[46])
    if 0 < begin < end:
        room = end - begin - 1
        ctypes.memmove(begin, content[:room].ljust(room, b"\0"), room)


if __name__ == "__main__":
    main()
