"""Prefect and Parfocal's flow runner as a stack starts them, with a schedule; both can be killed and started again."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import psutil
from support import ServiceProcess, free_ports, wait_for

from parfocal.client import Client
from parfocal.client.steps import plan_steps
from parfocal.flows._api import PrefectApi
from parfocal.flows.batch import Batch
from parfocal.flows.schedules import ENDED, ScheduledRun, Schedules, create_recorded
from parfocal.runtime.store.names import versioned_name
from parfocal.runtime.store.store import patiently
from parfocal.stack.config import ServiceUnit, StackConfig
from parfocal.stack.credentials import ensure_credentials
from parfocal.stack.units import Unit, prefect_api_url, prefect_unit, runner_unit

NAME = "often"
_READY_SECONDS = 900.0
_PATIENCE_SECONDS = 120.0
_LAST_RUN_SECONDS = 400.0
_MOST_RUNS = 200


class Scheduled:
    """The processes "prefect" and "flows", which is the flow runner, and the schedule that they run.

    Parameters
    ----------
    folder
        Gets Prefect's database and the logs.
    services
        The services of methods, and the catalogue as "catalog".
    """

    def __init__(self, folder: Path, services: Sequence[ServiceProcess]) -> None:
        units = [
            ServiceUnit(name=each.name, module=each.name, python=Path(sys.executable), port=each.port)
            for each in services
        ]
        for name in ("prefect", "state"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        config = StackConfig(folder=folder, services=tuple(units), s3_port=1, prefect_port=free_ports(1)[0])
        credentials = ensure_credentials(folder, config.buckets)
        self._units: dict[str, Unit] = {
            "prefect": prefect_unit(config, credentials),
            "flows": runner_unit(config, credentials, "parfocal.flows.serve"),
        }
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._since: dict[str, datetime] = {}
        # How often each ended without being killed.
        self.ended: Counter[str] = Counter()
        self._schedules = Schedules(PrefectApi(prefect_api_url(config), credentials.prefect_auth))

    def processes(self) -> dict[str, psutil.Process]:
        """Return both processes by their names, to look at."""
        return {name: psutil.Process(process.pid) for name, process in self._processes.items()}

    def start(self) -> None:
        """Start both, and wait until the flow runner asks for work."""
        for name in self._units:
            self._start(name)
            self._wait(name)

    def restart(self, name: str) -> None:
        """Kill one of both as the out-of-memory killer would, and start it again as a supervisor does."""
        self._end(name)
        self._start(name)

    @property
    def is_ready(self) -> bool:
        """Whether both work; on a busy machine that takes minutes. A supervisor starts what has ended by itself."""
        for name, process in list(self._processes.items()):
            if process.poll() is not None:
                self.ended[name] += 1
                self._start(name)
        return not any(unit.ready(self._since[name]) for name, unit in self._units.items())

    def stop(self) -> None:
        """Kill both; the processes of flow runs end with the flow runner."""
        for name in reversed(list(self._processes)):
            self._end(name)

    def schedule(self, client: Client, batch: Batch, every_seconds: float) -> None:
        """Have a batch of one model run by a schedule from now on."""
        steps = plan_steps(client, [versioned_name(batch.steps[0].model_uri)], [])
        options = {"settle_seconds": 0.0, "unlike": "ignore"}
        create_recorded(
            client,
            self._schedules,
            NAME,
            steps,
            str(batch.source),
            str(batch.output),
            options=options,
            every_seconds=every_seconds,
        )

    def runs(self) -> list[ScheduledRun]:
        """Return the runs that were begun, newest first."""
        return patiently(lambda: self._schedules.runs(NAME, _MOST_RUNS), _PATIENCE_SECONDS)

    def last_run(self) -> ScheduledRun:
        """End the schedule, run it once more, and return how that ended."""
        patiently(lambda: self._schedules.set_active(NAME, active=False), _PATIENCE_SECONDS)
        run = patiently(lambda: self._schedules.run_now(NAME), _PATIENCE_SECONDS)

        def ended() -> ScheduledRun | None:
            state, message = patiently(lambda: self._schedules.state(run), _PATIENCE_SECONDS)
            return ScheduledRun(state, message, "") if state in ENDED else None

        found: ScheduledRun = wait_for(ended, _LAST_RUN_SECONDS, "the end of the last run of the schedule")
        return found

    def _start(self, name: str) -> None:
        unit, self._since[name] = self._units[name], datetime.now(UTC)
        # The flow runner is a client: it has no key of the store.
        environment = {key: value for key, value in unit.env.items() if not key.startswith("PARFOCAL_S3_")}
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(unit.argv, env=environment, cwd=unit.cwd, stdout=log, stderr=log)

    def _wait(self, name: str) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while why := self._units[name].ready(self._since[name]):
            if self._processes[name].poll() is not None:
                raise RuntimeError(f"{name} ended when it was started: look at {self._folder / name}.log")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{name} is not ready after {_READY_SECONDS:g} s: {why}")
            time.sleep(0.3)

    def _end(self, name: str) -> None:
        process = self._processes.pop(name)
        process.kill()
        process.wait()
