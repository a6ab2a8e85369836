"""Starting, asking and stopping a stack; what the command line calls."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from parfocal.runtime.errors import PreconditionError, UnavailableError
from parfocal.stack.claims import PortClaims
from parfocal.stack.config import SavedConfig, StackConfig, load_config, resolve_folder, save_config
from parfocal.stack.credentials import ensure_credentials
from parfocal.stack.logs import last_lines
from parfocal.stack.ports import assign_ports
from parfocal.stack.processes import STACK_MARK, UNIT_MARK, end_marked, memory_mb, stack_mark
from parfocal.stack.state import (
    StackEvent,
    StackStatus,
    UnitState,
    UnitStatus,
    changes,
    folder_lock,
    log_path,
    read_status,
    supervisor_pid,
    supervisor_runs,
    write_status,
)
from parfocal.stack.units import build_units

OnEvent = Callable[[StackEvent], None]

_POLL_SECONDS = 0.1
_HANDSHAKE_SECONDS = 20.0
_DOWN_SECONDS = 75.0
_LAUNCHER = Path(__file__).with_name("_launch.py")
_LOG_LINES = 12


def up(config: StackConfig, *, foreground: bool = False, on_event: OnEvent | None = None) -> StackStatus:
    """Start the stack and return when all its units are ready; what already runs is left alone.

    On a stack that runs, services of `config` that it lacks are added and units that failed are tried again.

    Parameters
    ----------
    config
        What to start. Ports left out are chosen and remembered in the folder.
    foreground
        Run the supervisor in this process, until it is stopped by SIGTERM or Ctrl-C, and return the last status.
        Only from the main thread.
    on_event
        Called with every change of a unit.

    Raises
    ------
    UnavailableError
        A port is taken, or a unit did not become ready; the message ends with the last lines of its log. The other
        units go on running: `down` stops them, another `up` tries again.
    PreconditionError
        It already runs, and with other ports; or in the foreground: it already runs.
    NotFoundError
        The S3 server's program is missing.
    """
    if os.name != "posix":
        raise PreconditionError("The one-machine stack needs Linux or macOS (on Windows: use WSL).")
    folder = config.folder
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for part in ("logs", "s3", "prefect", "state"):
        (folder / part).mkdir(mode=0o700, exist_ok=True)
    with folder_lock(folder), PortClaims() as claims:
        saved = load_config(folder)
        if not supervisor_runs(folder):
            saved = _prepare(config, saved, claims)
            if not foreground:
                _start_supervisor(folder)
        elif foreground:
            raise _already_running(folder)
        else:
            saved = _extend(config, saved, claims)
        if not foreground:
            _wait_for_revision(folder, saved.revision)
    if foreground:
        from parfocal.stack.supervisor import Supervisor

        return Supervisor(folder, on_event).run()
    return _wait_until_settled(folder, on_event)


def status(folder: Path | None = None) -> StackStatus:
    """Return how the stack in `folder` (the default one when None) stands, with the memory of each unit.

    A stack whose supervisor is gone counts as stopped, whatever its stack.json says.
    """
    folder = resolve_folder(folder)
    known = read_status(folder)
    if known is None:
        return StackStatus(folder=folder, running=supervisor_runs(folder))
    if not supervisor_runs(folder):
        return _as_stopped(known)
    return known.model_copy(update={"units": tuple(_measured(unit) for unit in known.units)})


def down(folder: Path | None = None, on_event: OnEvent | None = None) -> StackStatus:
    """Stop the stack in `folder` (the default one when None) and return when nothing of it runs any more.

    Harmless when it does not run. Processes left over from a killed supervisor are ended as well.

    Raises
    ------
    UnavailableError
        The supervisor could not be stopped.
    """
    folder = resolve_folder(folder)
    if not folder.is_dir():
        return StackStatus(folder=folder)
    with folder_lock(folder):
        known = read_status(folder)
        if supervisor_runs(folder):
            known = _stop_supervisor(folder, known, on_event)
        end_marked(stack_mark(folder), grace=5.0)
        if known is None:
            return StackStatus(folder=folder)
        stopped = _as_stopped(known)
        write_status(stopped)
    return stopped


def _prepare(config: StackConfig, saved: SavedConfig | None, claims: PortClaims) -> SavedConfig:
    """Write everything a supervisor needs to start the stack."""
    folder = config.folder
    # What a killed supervisor left behind would hold the ports.
    end_marked(stack_mark(folder), grace=5.0)
    decided = assign_ports(config, saved.config if saved else None, claims)
    revision = saved.revision + 1 if saved else 1
    # Fails here, with a clear message, if a program is missing.
    build_units(decided, ensure_credentials(folder, decided.buckets))
    saved = SavedConfig(revision=revision, config=decided)
    save_config(saved)
    return saved


def _extend(config: StackConfig, saved: SavedConfig | None, claims: PortClaims) -> SavedConfig:
    """Add to a running stack what it lacks and have failed units tried again."""
    folder = config.folder
    known, pid = read_status(folder), supervisor_pid(folder)
    if saved is None or known is None or pid is None:
        raise _already_running(folder)
    running = saved.config
    for field in ("s3_port", "store_port", "prefect_port", "portal_port"):
        wanted, present = getattr(config, field), getattr(running, field)
        if wanted not in (None, present):
            raise PreconditionError(
                f"The stack in {folder} is already running with {field} {present}, not {wanted}. "
                "Stop it first with `parfocal down`, or leave the port out."
            )
    present = {service.name: service for service in running.services}
    for service in config.services:
        if service.name in present and service.port not in (None, present[service.name].port):
            raise PreconditionError(
                f"The service {service.name} is already running on port {present[service.name].port}, "
                f"not {service.port}. Stop the stack first with `parfocal down`."
            )
    added = [service for service in config.services if service.name not in present]
    failed = any(unit.state in (UnitState.FAILED, UnitState.STOPPED) for unit in known.units)
    more_prefect = config.prefect and not running.prefect
    more_portal = config.portal and not (running.portal and running.portal_port)
    if not added and not failed and not more_prefect and not more_portal:
        return saved
    # The ports of what runs are in use by itself: only those of the new services are decided.
    only_new = {
        "services": tuple(added),
        "s3_port": None,
        "store_port": None,
        "prefect_port": None,
        "portal_port": None,
    }
    reserved = [service.port for service in running.services if service.port]
    decided = assign_ports(config.model_copy(update=only_new), None, claims, reserved)
    extended = SavedConfig(
        revision=saved.revision + 1,
        config=running.model_copy(
            update={
                "services": (*running.services, *decided.services),
                "prefect": running.prefect or more_prefect,
                "portal": running.portal or more_portal,
                "portal_port": running.portal_port or decided.portal_port,
            }
        ),
    )
    save_config(extended)
    os.kill(pid, signal.SIGUSR1)
    return extended


def _already_running(folder: Path) -> PreconditionError:
    pid = supervisor_pid(folder)
    who = f" (process {pid})" if pid else ""
    return PreconditionError(
        f"The stack in {folder} is already running{who}. See `parfocal status`; stop it with `parfocal down`."
    )


def _start_supervisor(folder: Path) -> None:
    env = {key: value for key, value in os.environ.items() if key not in (STACK_MARK, UNIT_MARK)}
    launcher = [sys.executable, "-I", "-S", str(_LAUNCHER), "detached"]
    with log_path(folder, "supervisor").open("ab") as output:
        subprocess.run(
            [*launcher, sys.executable, "-P", "-m", "parfocal.stack.supervisor", str(folder)],
            env=env,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=True,
        )


def _wait_for_revision(folder: Path, revision: int) -> None:
    """Wait until a supervisor runs and has applied `revision`."""
    deadline = time.monotonic() + _HANDSHAKE_SECONDS
    while time.monotonic() < deadline:
        known = read_status(folder)
        if known and known.running and known.revision >= revision and supervisor_runs(folder):
            return
        time.sleep(_POLL_SECONDS)
    raise UnavailableError(
        f"The supervisor of the stack in {folder} did not start. " + _log_end(log_path(folder, "supervisor"))
    )


def _wait_until_settled(folder: Path, on_event: OnEvent | None) -> StackStatus:
    before: StackStatus | None = None
    while True:
        runs = supervisor_runs(folder)
        known = read_status(folder)
        if not runs or known is None or not known.running:
            raise UnavailableError(
                f"The supervisor of the stack in {folder} ended. " + _log_end(log_path(folder, "supervisor"))
            )
        if on_event is not None:
            for event in changes(before, known):
                on_event(event)
        before = known
        if known.settled:
            break
        time.sleep(_POLL_SECONDS)
    failed = [unit for unit in known.units if unit.state is UnitState.FAILED]
    if failed:
        raise UnavailableError("\n".join(_failure(unit) for unit in failed) + "\n" + _HOW_TO_GO_ON)
    return status(folder)


_HOW_TO_GO_ON = (
    "What did start goes on running: `parfocal status` shows it, `parfocal up` tries again, `parfocal down` stops it."
)


def _failure(unit: UnitStatus) -> str:
    return f"{unit.name} did not start: it {unit.detail}. {_log_end(unit.log)}"


def _log_end(path: Path) -> str:
    lines = last_lines(path, _LOG_LINES)
    if not lines:
        return f"Its log {path} is empty."
    return "\n  ".join([f"The end of {path}:", *lines])


def _stop_supervisor(folder: Path, known: StackStatus | None, on_event: OnEvent | None) -> StackStatus | None:
    pid = supervisor_pid(folder)
    if pid is None:
        return known
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _DOWN_SECONDS
    forced = False
    while supervisor_runs(folder):
        latest = read_status(folder)
        if latest is not None and on_event is not None:
            for event in changes(known, latest):
                on_event(event)
        known = latest or known
        if time.monotonic() > deadline:
            if forced:
                raise UnavailableError(f"The supervisor (process {pid}) does not end.")
            # The guard and the sweep below end the units.
            os.kill(pid, signal.SIGKILL)
            forced, deadline = True, time.monotonic() + 10
        time.sleep(_POLL_SECONDS)
    return read_status(folder) or known


def _as_stopped(known: StackStatus) -> StackStatus:
    """Return `known` as it must be when no supervisor runs."""
    units = tuple(
        unit
        if unit.state is UnitState.STOPPED and unit.process is None
        else unit.model_copy(
            update={
                "state": UnitState.STOPPED,
                "process": None,
                "detail": "the supervisor ended without stopping it" if known.running else unit.detail,
            }
        )
        for unit in known.units
    )
    return known.model_copy(update={"running": False, "supervisor": None, "units": units})


def _measured(unit: UnitStatus) -> UnitStatus:
    process = unit.process.find() if unit.process else None
    if process is None:
        return unit
    return unit.model_copy(update={"memory_mb": round(memory_mb(process), 1)})
