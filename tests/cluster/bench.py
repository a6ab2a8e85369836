"""A service of a name of its own, whose controller is real and whose workers are processes: here or on a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fake import SERVICE
from support import ROOT, search_path

from cluster.server import Cluster
from parfocal import v1
from parfocal.runtime.jobs.controller import Controller
from parfocal.runtime.jobs.device.lock import Devices
from parfocal.runtime.jobs.handover import Assignment
from parfocal.runtime.jobs.kubernetes.launcher import KubernetesLauncher
from parfocal.runtime.jobs.kubernetes.manifest import job_name
from parfocal.runtime.jobs.launcher import Launcher, LocalLauncher
from parfocal.runtime.jobs.processes import WorkerProcesses
from parfocal.runtime.jobs.records import JobStore
from parfocal.runtime.methods.service import Service, values_struct
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.store import Store

# So long that a busy machine does not lose it.
LEASE_SECONDS = 15.0
LONG = {"epochs": 500, "pause_seconds": 0.3}
SUCCEEDED, FAILED, CANCELLED = v1.JOB_STATE_SUCCEEDED, v1.JOB_STATE_FAILED, v1.JOB_STATE_CANCELLED
RUNNING, QUEUED = v1.JOB_STATE_RUNNING, v1.JOB_STATE_QUEUED


@dataclass
class Bench:
    """What the scenes of tests play on; `cluster` is None where the workers are processes of this machine."""

    settings: Settings
    dataset: str
    cluster: Cluster | None
    environment: dict[str, str]
    service: Service = field(
        default_factory=lambda: Service(name=f"fake-{uuid.uuid4().hex[:8]}", methods=SERVICE.methods)
    )

    def controller(self, **settings: Any) -> Controller:
        own = self.settings.model_copy(update=settings)
        launcher: Launcher[Any]
        if self.cluster is None:
            launcher = LocalLauncher(own, WorkerProcesses(own, "fake"), Devices.of(own))
        else:
            launcher = KubernetesLauncher(own, self.service.name)
        return Controller(self.service, Store(own), launcher, own)

    @contextlib.asynccontextmanager
    async def running(self, **settings: Any) -> AsyncIterator[Controller]:
        controller = self.controller(**settings)
        await controller.start()
        try:
            yield controller
        finally:
            await controller.stop()

    def add_template(self, name: str, **environment: str) -> None:
        """Add a PodTemplate whose workers have these variables as well."""
        assert self.cluster is not None
        self.cluster.add_template(name, {**self.environment, **environment})

    def request(self, **parameters: Any) -> v1.StartJobRequest:
        name = f"job-{uuid.uuid4().hex[:10]}"
        values = values_struct(parameters or {"epochs": 2})
        spec = v1.TrainingSpec(method="fake-2d", dataset_uri=self.dataset, model=name, parameters=values)
        return v1.StartJobRequest(request_id=name, project="default", training=spec)

    def job(self, request: v1.StartJobRequest) -> v1.Job:
        return JobStore(Store(self.settings)).read("default", request.request_id).job

    def name(self, request: v1.StartJobRequest, attempt: int = 1) -> str:
        """The name of the Kubernetes Job of an attempt."""
        return job_name(self.service.name, Assignment("default", request.request_id, attempt))

    def events(self, request: v1.StartJobRequest) -> list[v1.JobEvent]:
        jobs = JobStore(Store(self.settings))
        return list(jobs.events(jobs.read("default", request.request_id), 0))

    def states(self, request: v1.StartJobRequest) -> list[int]:
        changes = [event.state_change for event in self.events(request) if event.HasField("state_change")]
        return [change.state for change in changes]

    async def until_in(
        self, request: v1.StartJobRequest, state: int, attempt: int = 1, seconds: float = 60.0
    ) -> v1.Job:
        """Wait until a job is in a state in an attempt, or a later one; return it."""

        def reached() -> v1.Job | None:
            job = self.job(request)
            return job if job.state == state and job.attempt >= attempt else None

        what = f"{v1.JobState.Name(state)} in attempt {attempt}"
        return await until(reached, what, seconds, lambda: self.job(request))

    async def until_training(self, request: v1.StartJobRequest, attempt: int = 1) -> None:
        """Wait until the worker of an attempt is at its epochs."""

        def training() -> bool:
            job = self.job(request)
            return job.attempt == attempt and job.state == RUNNING and job.progress.step > 0

        await until(training, f"the epochs of attempt {attempt}", 60.0, lambda: self.job(request))


async def until(
    condition: Callable[[], Any], what: str, seconds: float = 60.0, shown: Callable[[], Any] = lambda: ""
) -> Any:
    for _ in range(int(seconds / 0.05)):
        value = await asyncio.to_thread(condition)
        if value:
            return value
        await asyncio.sleep(0.05)
    raise AssertionError(f"{what} did not come about: {shown()}")


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scene())


@contextlib.contextmanager
def bench_on(
    cluster: Cluster | None, s3: Any, dataset: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> Iterator[Bench]:
    """A bench, with the PodTemplate of its service if it is on a cluster."""
    environment = {**s3.environment, "PARFOCAL_CHECKPOINT_SECONDS": "0", "PYTHONPATH": search_path(ROOT / "tests")}
    environment["OMP_NUM_THREADS"] = "1"
    own = {"state_dir": folder / "state", "lease_seconds": LEASE_SECONDS, "max_workers": 20, "device": "", **settings}
    on_cluster = cluster.settings if cluster is not None else {}
    bench = Bench(
        Settings.model_validate({**s3.store().settings.model_dump(), **own, **on_cluster}),
        dataset,
        cluster,
        environment,
    )
    for key, value in {**environment, "PARFOCAL_STATE_DIR": str(folder / "state")}.items():
        monkeypatch.setenv(key, value)
    if cluster is not None:
        bench.add_template(f"parfocal-{bench.service.name}-worker")
    yield bench
