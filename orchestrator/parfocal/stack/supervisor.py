"""The supervisor: one process that starts the units of a stack, watches them and stops them.

It is a loop over small state machines, one per unit, in the main thread; only readiness checks, which wait for
servers, run in threads. Units start as soon as what they need is ready, so the store, Prefect and the services come
up side by side. Run as ``python -m parfocal.stack.supervisor FOLDER`` or, in the foreground, by `up`.

Signals: SIGTERM and SIGINT stop the stack (a second one without grace), SIGUSR1 applies a changed config.json.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from parfocal.runtime.errors import ParfocalError, PreconditionError
from parfocal.stack.claims import PortClaims
from parfocal.stack.config import SavedConfig, load_config
from parfocal.stack.credentials import credentials_path, ensure_credentials
from parfocal.stack.logs import cap_size
from parfocal.stack.ports import stack_ports
from parfocal.stack.processes import ProcessId, end_marked, stack_mark
from parfocal.stack.state import (
    StackEvent,
    StackStatus,
    UnitState,
    changes,
    log_path,
    take_supervisor_lock,
    write_status,
)
from parfocal.stack.units import build_units, portal_url, prefect_api_url, store_endpoint
from parfocal.stack.watched import Watched

_log = logging.getLogger("parfocal.stack")

_BUSY_SECONDS, _IDLE_SECONDS = 0.1, 0.25
_LOG_CHECK_SECONDS = 5.0


class Supervisor:
    """Runs the stack of one folder until it is told to stop.

    Parameters
    ----------
    folder
        The stack's folder, with a config.json.
    on_event
        Called in the main thread with each change of a unit.
    """

    def __init__(self, folder: Path, on_event: Callable[[StackEvent], None] | None = None) -> None:
        self.folder = folder
        self.mark = stack_mark(folder, secrets.token_hex(6))
        self._on_event = on_event
        self._since = datetime.now(UTC)
        self._process = ProcessId.of(os.getpid())
        self._units: dict[str, Watched] = {}
        self._saved: SavedConfig | None = None
        self._published: StackStatus | None = None
        self._claims = PortClaims()
        self._guard: subprocess.Popen[bytes] | None = None
        self._stop_requests = 0
        self._reload_requested = False
        self._next_log_check = 0.0

    def run(self) -> StackStatus:
        """Run the stack; return its last status after everything has stopped.

        Raises
        ------
        PreconditionError
            Another supervisor runs the stack of this folder, or config.json cannot be used.
        """
        lock = take_supervisor_lock(self.folder)
        if lock is None:
            raise PreconditionError(f"The stack in {self.folder} is already running; see `parfocal status`.")
        with lock, self._claims, _Handlers(self._on_signal), ThreadPoolExecutor(8, "readiness") as checks:
            try:
                self._load(checks)
                while not self._stop_requests:
                    self._step(checks)
                    busy = any(watched.state is UnitState.STARTING for watched in self._units.values())
                    time.sleep(_BUSY_SECONDS if busy else _IDLE_SECONDS)
            finally:
                status = self._shut_down()
        return status

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        # Only notes: the loop does the work.
        if number == signal.SIGUSR1:
            self._reload_requested = True
        else:
            self._stop_requests += 1

    def _load(self, checks: ThreadPoolExecutor) -> None:
        """Take over config.json: start what is new, replace what changed, try again what failed."""
        saved = load_config(self.folder)
        if saved is None:
            raise PreconditionError(f"{self.folder} has no config.json: start the stack with `parfocal up`.")
        self._saved = saved
        config = saved.config
        self._claims.join(stack_ports(config))
        units = build_units(config, ensure_credentials(self.folder, config.buckets))
        obsolete = [name for name, watched in self._units.items() if watched.unit not in units]
        self._stop(obsolete)
        kept = {name: watched for name, watched in self._units.items() if name not in obsolete}
        self._units = {
            unit.name: kept.get(unit.name)
            or Watched(unit, log_path(self.folder, unit.name), self.mark, config.max_restarts, checks)
            for unit in units
        }
        for watched in self._units.values():
            if watched.state is UnitState.FAILED:
                watched.reset()
        self._publish()

    def _step(self, checks: ThreadPoolExecutor) -> None:
        if self._reload_requested:
            self._reload_requested = False
            try:
                self._load(checks)
            except ParfocalError as error:
                _log.error("%s", error)
        self._keep_guard()
        for watched in self._units.values():
            needs = [self._units[name] for name in watched.unit.needs]
            after = [self._units[name] for name in watched.unit.after if name in self._units]
            watched.step(needs, after)
        if self._saved and time.monotonic() >= self._next_log_check:
            self._next_log_check = time.monotonic() + _LOG_CHECK_SECONDS
            for watched in self._units.values():
                cap_size(watched.log, int(self._saved.config.log_megabytes * 2**20))
        self._publish()

    def _keep_guard(self) -> None:
        if self._guard is not None and self._guard.poll() is None:
            return
        if self._guard is not None:
            _log.warning("the guard ended; starting another one")
            self._end_guard()
        self._guard = subprocess.Popen(
            [sys.executable, "-P", "-m", "parfocal.stack.guard", self.mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _end_guard(self) -> None:
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            self._guard.wait(15)
            self._guard = None

    def _stop(self, names: Iterable[str]) -> None:
        """Stop units in falling order of stage, those of one stage together."""
        chosen = [self._units[name] for name in names]
        for stage in sorted({watched.unit.stage for watched in chosen}, reverse=True):
            together = [watched for watched in chosen if watched.unit.stage == stage]
            for watched in together:
                watched.ask_to_stop()
            waiting = together
            while waiting:
                # A second signal means: now.
                waiting = [watched for watched in waiting if not watched.stopped(self._stop_requests > 1)]
                if waiting:
                    time.sleep(0.03)
            self._publish()

    def _shut_down(self) -> StackStatus:
        self._stop(list(self._units))
        left = end_marked(self.mark, grace=2.0)
        if left:
            _log.warning("ended %d processes that units had left behind", left)
        self._end_guard()
        return self._publish(running=False)

    def _publish(self, running: bool = True) -> StackStatus:
        """Write stack.json if anything changed, and tell of it."""
        config = self._saved.config if self._saved else None
        status = StackStatus(
            folder=self.folder,
            running=running,
            supervisor=self._process if running else None,
            since=self._since,
            revision=self._saved.revision if self._saved else 0,
            units=tuple(watched.status() for watched in self._units.values()),
            s3_endpoint=store_endpoint(config) if config else "",
            prefect_url=prefect_api_url(config).removesuffix("/api") if config and config.prefect else "",
            portal_url=portal_url(config) if config and config.portal and config.portal_port else "",
            credentials=credentials_path(self.folder),
        )
        if status == self._published:
            return status
        for event in changes(self._published, status):
            _log.info("%s: %s %s", event.unit, event.state.value, event.detail)
            if self._on_event is not None:
                self._on_event(event)
        self._published = status
        write_status(status)
        return status


class _Handlers:
    """Signal handlers for the time of a `with` block."""

    _NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)

    def __init__(self, handler: Callable[[int, FrameType | None], None]) -> None:
        self._handler = handler
        self._before: list[object] = []

    def __enter__(self) -> None:
        self._before = [signal.signal(number, self._handler) for number in self._NUMBERS]

    def __exit__(self, *_exception: object) -> None:
        for number, before in zip(self._NUMBERS, self._before, strict=True):
            signal.signal(number, before)  # type: ignore[arg-type]


def main(folder: Path) -> int:
    """Run the supervisor of `folder` in the background; the return value is the exit code."""
    path = log_path(folder, "supervisor")
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=2**20, backupCount=1, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    try:
        Supervisor(folder).run()
    except ParfocalError as error:
        _log.error("%s", error)
        return 1
    except Exception:
        _log.exception("the supervisor failed")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
