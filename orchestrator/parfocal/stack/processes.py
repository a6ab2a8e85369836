"""Processes of a stack: recognising them again, measuring them and ending them.

Every unit is started with two marks in its environment, which its own children inherit: `STACK_MARK` names the
folder and the run of the supervisor, `UNIT_MARK` the unit. So whatever a unit leaves behind is found, also
when it moved to a session of its own (as Prefect's flow runs do) or when its parent is gone.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

STACK_MARK = "PARFOCAL_STACK"
UNIT_MARK = "PARFOCAL_STACK_UNIT"

#: Seconds by which two readings of a process's start may differ (the clock may be set meanwhile).
_SAME_START = 2.0


@dataclass(frozen=True)
class ProcessId:
    """A process that cannot be mistaken for a later one with the same number: `pid` and start in Unix seconds."""

    pid: int
    created: float

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """Return the identity of the running process `pid`, or None if there is none."""
        try:
            return cls(pid=pid, created=psutil.Process(pid).create_time())
        except psutil.Error:
            return None

    def find(self) -> psutil.Process | None:
        """Return the process if it still runs; a zombie or another process of that number does not count."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < _SAME_START
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None


def stack_mark(folder: Path, run: str = "") -> str:
    """Return the value of `STACK_MARK` for one run of the stack in `folder`; without `run` its beginning."""
    return f"{folder}::{run}"


def marked(mark: str, unit: str | None = None) -> list[psutil.Process]:
    """Return the running processes whose `STACK_MARK` begins with `mark`, of one unit if `unit` is given.

    The calling process and its ancestors are never among them. Processes of other users cannot be looked into
    and are left out.
    """
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        if process.pid in own:
            continue
        with contextlib.suppress(psutil.Error, OSError):
            environment = process.environ()
            if (
                environment.get(STACK_MARK, "").startswith(mark)
                and (unit is None or environment.get(UNIT_MARK) == unit)
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
    return found


def end(processes: Iterable[psutil.Process], grace: float) -> int:
    """End `processes`: SIGTERM, and SIGKILL to those still there after `grace` seconds. Returns how many."""
    processes = list(processes)
    if grace > 0:
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.terminate()
        _, left = psutil.wait_procs(processes, timeout=grace)
    else:
        left = processes
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=5)
    return len(processes)


def end_marked(mark: str, unit: str | None = None, grace: float = 0.0, rounds: int = 5) -> int:
    """End all marked processes, and those they started meanwhile; return how many were ended."""
    count = 0
    for _ in range(rounds):
        found = marked(mark, unit)
        if not found:
            break
        count += end(found, grace)
        time.sleep(0.02)
    return count


def memory_mb(process: psutil.Process) -> float:
    """Return the resident memory of a process and all below it, in MiB; pages they share count for each."""
    total = 0
    with contextlib.suppress(psutil.Error):
        for member in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += member.memory_info().rss
    return total / 2**20
