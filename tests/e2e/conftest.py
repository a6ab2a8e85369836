"""The whole system for the tests of this folder: one stack, as `parfocal up` starts it, for the session."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from support import ROOT, fake_command, free_ports, publish_dataset, wait_for

from parfocal import v1
from parfocal.client import Client
from parfocal.runtime.settings import Settings
from parfocal.stack.config import ServiceUnit, StackConfig
from parfocal.stack.connection import connection
from parfocal.stack.control import down, up
from parfocal.stack.processes import UNIT_MARK, marked, stack_mark

# Name, module and environment of each service by its name.
SERVICES = {
    "fake": ("fake", "fake", "qc"),
    "stardist": ("stardist", "parfocal.stardist", "stardist"),
    "qc": ("qc", "parfocal.qc", "qc"),
    "catalog": ("catalog", "parfocal.catalog", "catalog"),
}
FINAL = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}


class AskingAgain(httpx.HTTPTransport):
    """Sends a request again where Prefect answers 503: SQLite was locked, and it asks its clients to try again."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = super().handle_request(request)
        for _ in range(5):
            if answer.status_code != 503:
                break
            answer.close()
            time.sleep(1.0)
            answer = super().handle_request(request)
        return answer


@dataclass(frozen=True)
class Stack:
    """A running stack: its client and Prefect's API."""

    folder: Path
    client: Client
    api: httpx.Client

    def post(self, path: str, **body: Any) -> Any:
        answer = self.api.post(path, json=body)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def deployment(self, name: str) -> dict[str, Any]:
        answer = self.api.get(f"/deployments/name/{name}")
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def start(self, deployment: str, parameters: Mapping[str, Any]) -> str:
        """Press "Run" in the browser: return the id of the flow run."""
        identifier = self.deployment(deployment)["id"]
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return str(self.post(f"/deployments/{identifier}/create_flow_run", **body)["id"])

    def run(self, flow_run: str) -> dict[str, Any]:
        answer = self.api.get(f"/flow_runs/{flow_run}")
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def wait(self, flow_run: str, states: set[str] | None = None, seconds: float = 240.0) -> dict[str, Any]:
        """Return the flow run as soon as it is in one of `states`, by default those in which it has ended."""
        wanted = states or FINAL

        def arrived() -> dict[str, Any] | None:
            found = self.run(flow_run)
            return found if found["state_type"] in wanted else None

        try:
            found: dict[str, Any] = wait_for(arrived, seconds, f"{wanted} of the flow run")
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {self.run(flow_run)['state']}\n{self.log_text(flow_run)}") from error
        return found

    def artifacts(self, flow_run: str) -> dict[str, dict[str, Any]]:
        """Return the artifacts of a flow run by type."""
        found = self.post("/artifacts/filter", flow_runs={"id": {"any_": [flow_run]}})
        return {artifact["type"]: artifact for artifact in found}

    def log_text(self, flow_run: str) -> str:
        """Return the log of a flow run as its page shows it."""
        rows = self.post("/logs/filter", logs={"flow_run_id": {"any_": [flow_run]}}, sort="TIMESTAMP_ASC", limit=200)
        return "\n".join(row["message"] for row in rows)

    def job(self, flow_run: str, step: str, condition: Callable[[v1.Job], bool]) -> v1.Job:
        """Return the job of a step as soon as it fulfils a condition."""
        found: list[v1.Job] = []

        def look() -> bool:
            found[:] = [job for job in self.client.jobs() if job.id == f"{flow_run}-{step}" and condition(job)]
            return bool(found)

        wait_for(look, 120, f"the job {flow_run}-{step}")
        return found[0]

    def wait_for_choice(self, deployment: str, field: str, value: str) -> None:
        """Wait until a drop-down offers a value."""

        def offered() -> bool:
            choice = self.deployment(deployment)["parameter_openapi_schema"]["properties"][field]
            return value in choice.get("items", choice).get("enum", ())

        wait_for(offered, 90, f"{value} in the form of {deployment}")

    def wait_for_attempt(self, flow_run: str, attempt: int) -> None:
        """Wait until the process of a flow run was started for the given time and follows its job."""
        wait_for(lambda: self.run(flow_run)["run_count"] >= attempt, 120, f"attempt {attempt} of the flow run")
        wait_for(
            lambda: self.log_text(flow_run).count("goes on (") >= attempt - 1,
            60,
            f"attempt {attempt} of the flow run to find its job",
        )

    def processes(self, *words: str) -> list[int]:
        """Return the processes of the runner unit whose command line has all `words`."""
        found = []
        for process in marked(stack_mark(self.folder), "runner"):
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended since
                line = process.cmdline()
                if process.environ().get(UNIT_MARK) == "runner" and all(word in line for word in words):
                    found.append(process.pid)
        return found


StartStack = Callable[..., contextlib.AbstractContextManager[Stack]]


@contextlib.contextmanager
def started(folder: Path, services: Sequence[str], environment: Mapping[str, str], token: str = "") -> Iterator[Stack]:
    """Run a stack; `environment` is that of whoever starts it, `token` that of the client's user."""
    s3_port, prefect_port, *ports = free_ports(2 + len(services))
    units = tuple(
        ServiceUnit(
            name=name,
            module=module,
            python=(python := ROOT / ".venvs" / venv / "bin" / "python"),
            port=port,
            command=fake_command(python) if name == "fake" else (),
        )
        for (name, module, venv), port in zip((SERVICES[name] for name in services), ports, strict=True)
    )
    config = StackConfig(
        folder=folder,
        services=units,
        s3_port=s3_port,
        prefect_port=prefect_port,
        portal=False,
        start_timeout=900,
    )
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            up(config)
        link = connection(folder)
        settings = Settings(
            services=link.environment["PARFOCAL_SERVICES"],
            catalog=link.environment["PARFOCAL_CATALOG"],
            token=token,
            # The tests publish into the store themselves, too.
            s3_endpoint=link.s3_endpoint,
            s3_access_key=link.s3_access_key,
            s3_secret_key=link.s3_secret_key,
        )
        user, _, password = link.prefect_auth.partition(":")
        prefect = httpx.Client(
            base_url=str(link.prefect_api_url), auth=(user, password), timeout=60, transport=AskingAgain()
        )
        with Client(settings) as client, prefect as api:
            yield Stack(folder, client, api)
    finally:
        down(folder)


@pytest.fixture(scope="session")
def start_stack() -> StartStack:
    """A function that runs a stack of its own: folder, names of services, environment, token."""
    return started


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running stack with the services fake, stardist and qc, and the catalogue."""
    # Restored trainings go on from a checkpoint, and there is one within the seconds of a test.
    environment = {"PARFOCAL_CHECKPOINT_SECONDS": "1"}
    with started(tmp_path_factory.mktemp("stack"), tuple(SERVICES), environment) as stack:
        yield stack


@pytest.fixture(scope="session")
def dataset(stack: Stack, pairs_folder: Path) -> str:
    """A published dataset that the forms offer already."""
    uri = publish_dataset(stack.client.store, "filaments", pairs_folder)
    name = f"filaments:{uri.rsplit('/', 1)[-1]}"
    stack.wait_for_choice("train/fake-2d", "dataset", name)
    return name
