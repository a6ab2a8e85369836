"""One unit under the supervisor's watch: a small state machine that `step` moves on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from parfocal.stack.ports import holder, listens
from parfocal.stack.processes import STACK_MARK, UNIT_MARK, ProcessId, end_marked
from parfocal.stack.state import UnitState, UnitStatus
from parfocal.stack.units import Unit

#: How often a unit is tried again that ends before it was ever ready: once, in case a port was taken meanwhile.
_FIRST_TRIES = 2
_PROBE_PAUSE = 0.2
_LONGEST_PAUSE = 30.0
#: After so many seconds of being ready, earlier deaths no longer count.
_STEADY_SECONDS = 300.0
_LAUNCHER = Path(__file__).with_name("_launch.py")


class Watched:
    """A unit, its process and what is known of it.

    Parameters
    ----------
    unit
        What to run.
    log
        Where its output goes.
    mark
        Mark of this run of the supervisor.
    max_restarts
        How often in a row it is started again.
    checks
        Where readiness checks run.
    """

    def __init__(self, unit: Unit, log: Path, mark: str, max_restarts: int, checks: ThreadPoolExecutor) -> None:
        self.unit = unit
        self.log = log
        self.state = UnitState.STARTING
        self._mark = mark
        self._max_restarts = max_restarts
        self._checks = checks
        self._popen: subprocess.Popen[bytes] | None = None
        self._process: ProcessId | None = None
        self._check: Future[str] | None = None
        self._detail = ""
        self._since = self._start_time = datetime.now(UTC)
        self._restarts = 0
        self._last_end = ""
        self._start_seconds: float | None = None
        self._ask_at = 0.0
        self._stop_by = 0.0
        self.reset()

    def reset(self) -> None:
        """Forget earlier failures, so that the unit is tried again."""
        self._in_a_row = 0
        self._was_ready = False
        self._start_at = 0.0
        self._started = 0.0
        self._ready_at = 0.0
        self._enter(UnitState.STARTING, "waiting")

    def status(self) -> UnitStatus:
        """Return the unit as it stands."""
        return UnitStatus(
            name=self.unit.name,
            state=self.state,
            detail=self._detail,
            process=self._process,
            address=self.unit.address,
            since=self._since,
            start_seconds=self._start_seconds,
            restarts=self._restarts,
            log=self.log,
        )

    def step(self, needs: Sequence[Watched], after: Sequence[Watched]) -> None:
        """Do what is due now: start, check, notice an end. `needs` and `after` are as in `Unit`."""
        if self._popen is not None:
            code = self._popen.poll()
            if code is not None:
                self._ended(code)
            elif self.state is UnitState.STARTING:
                self._follow_check()
        elif self.state is not UnitState.FAILED:
            self._start_if_possible(needs, after)

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the unit, if it runs; its own children are its own affair."""
        self._stop_by = time.monotonic() + self.unit.stop_grace
        if self._popen is not None and self._popen.poll() is None:
            self._popen.terminate()

    def stopped(self, at_once: bool = False) -> bool:
        """Return whether the unit has ended after `ask_to_stop`; end it by force when its time is up."""
        if self._popen is not None and self._popen.poll() is None:
            if not at_once and time.monotonic() < self._stop_by:
                return False
            self._popen.kill()
            self._popen.wait()
        self._clear()
        self._enter(UnitState.STOPPED, "")
        return True

    def _start_if_possible(self, needs: Sequence[Watched], after: Sequence[Watched]) -> None:
        failed = [other.unit.name for other in needs if other.state in (UnitState.FAILED, UnitState.STOPPED)]
        if failed and not self._was_ready:
            self._enter(UnitState.STOPPED, f"needs {' and '.join(failed)}, which did not start")
            return
        if after and all(other.state in (UnitState.FAILED, UnitState.STOPPED) for other in after):
            names = ", ".join(other.unit.name for other in after)
            self._enter(UnitState.STOPPED, f"needs one of {names}, none of which started")
            return
        waits = [other.unit.name for other in needs if other.state is not UnitState.READY]
        waits += [other.unit.name for other in after if other.state is UnitState.STARTING]
        # A unit that has been ready is started again at once: it knows how to wait for the others.
        if waits and not self._was_ready:
            self._enter(UnitState.STARTING, f"waits for {', '.join(waits)}")
        elif time.monotonic() >= self._start_at:
            self._start()

    def _start(self) -> None:
        self._start_time = datetime.now(UTC)
        self._started = time.monotonic()
        self._ask_at = 0.0
        self.unit.cwd.mkdir(parents=True, exist_ok=True)
        marks = {STACK_MARK: self._mark, UNIT_MARK: self.unit.name}
        launcher = [sys.executable, "-I", "-S", str(_LAUNCHER), "tied", str(os.getpid())]
        # For appending, so that the log can be emptied under the writer.
        with self.log.open("ab") as output:
            self._popen = subprocess.Popen(
                [*launcher, *self.unit.argv],
                env={**self.unit.env, **marks},
                cwd=self.unit.cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._process = ProcessId.of(self._popen.pid)
        self._enter(UnitState.STARTING, self._history())

    def _follow_check(self) -> None:
        now = time.monotonic()
        if self._check is None:
            if now >= self._ask_at:
                self._check = self._checks.submit(self.unit.ready, self._start_time)
        elif self._check.done():
            problem = self._check.result() or self._stranger()
            self._check = None
            self._ask_at = now + _PROBE_PAUSE
            if not problem:
                self._start_seconds = round(now - self._started, 2)
                self._was_ready = True
                self._ready_at = now
                self._enter(UnitState.READY, self._history())
                return
            if now - self._started > self.unit.ready_timeout:
                self._kill()
                self._enter(
                    UnitState.FAILED,
                    f"was not ready after {self.unit.ready_timeout:g} seconds ({problem})",
                )

    def _stranger(self) -> str:
        """Return a problem if it was another program that answered; empty if it was this unit."""
        port = self.unit.port
        if port is None or self._popen is None or listens(self._popen.pid, port):
            return ""
        return f"port {port} is answered by {holder(port)}"

    def _ended(self, code: int) -> None:
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        if self._ready_at and time.monotonic() - self._ready_at > _STEADY_SECONDS:
            self._in_a_row = 0
        self._kill()
        self._in_a_row += 1
        self._last_end = how
        limit = self._max_restarts if self._was_ready else _FIRST_TRIES - 1
        if self._in_a_row > limit:
            before = "" if self._was_ready else " before it was ready"
            repeated = f", for the {self._in_a_row}. time in a row" if self._in_a_row > 1 else ""
            self._enter(UnitState.FAILED, f"{how}{before}{repeated}")
            return
        self._restarts += 1
        pause = min(_LONGEST_PAUSE, 0.5 * 2 ** (self._in_a_row - 1))
        self._start_at = time.monotonic() + pause
        self._ready_at = 0.0
        self._enter(UnitState.STARTING, f"{how}; starts again in {pause:g} s ({self._in_a_row} of {limit})")

    def _history(self) -> str:
        if not self._restarts:
            return ""
        times = "once" if self._restarts == 1 else f"{self._restarts} times"
        return f"started again {times}; before that it {self._last_end}"

    def _kill(self) -> None:
        """End the process, if it runs, and whatever it left behind."""
        if self._popen is not None and self._popen.poll() is None:
            self._popen.kill()
            self._popen.wait()
        self._clear()
        end_marked(self._mark, self.unit.name)

    def _clear(self) -> None:
        self._popen = None
        self._process = None
        self._check = None

    def _enter(self, state: UnitState, detail: str) -> None:
        if state is not self.state:
            self._since = datetime.now(UTC)
        self.state, self._detail = state, detail


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
