"""Workers on a cluster: the controller, the store and the pods are real, the cluster is one in miniature."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cluster.server import Cluster
from fake import SERVICE
from support import ROOT, publish_dataset, search_path

from parfocal import v1
from parfocal.runtime.jobs.controller import Controller
from parfocal.runtime.jobs.handover import Assignment
from parfocal.runtime.jobs.kubernetes.launcher import KubernetesLauncher
from parfocal.runtime.jobs.kubernetes.manifest import job_name
from parfocal.runtime.jobs.records import JobStore
from parfocal.runtime.methods.service import Service, values_struct
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.manifests import MODEL_MANIFEST, ModelManifest
from parfocal.runtime.store.store import Location, Store

QUICK = {"epochs": 2}
SLOW = {"epochs": 400, "pause_seconds": 0.05}


@pytest.fixture(scope="module")
def dataset(s3: Any, pairs_folder: Path) -> str:
    return publish_dataset(s3.store(), "cluster", pairs_folder)


@dataclass
class Bench:
    """A cluster, and a service of a name of its own whose workers run on it."""

    cluster: Cluster
    settings: Settings
    dataset: str
    service: Service
    controllers: list[Controller] = field(default_factory=list)

    def controller(self) -> Controller:
        launcher = KubernetesLauncher(self.settings, self.service.name)
        controller = Controller(self.service, Store(self.settings), launcher, self.settings)
        self.controllers.append(controller)
        return controller

    def request(self, **parameters: Any) -> v1.StartJobRequest:
        name = f"job-{uuid.uuid4().hex[:10]}"
        spec = v1.TrainingSpec(
            method="fake-2d", dataset_uri=self.dataset, model=name, parameters=values_struct(parameters or QUICK)
        )
        return v1.StartJobRequest(request_id=name, project="default", training=spec)

    def job(self, request: v1.StartJobRequest) -> v1.Job:
        return JobStore(Store(self.settings)).read("default", request.request_id).job

    def name(self, request: v1.StartJobRequest, attempt: int = 1) -> str:
        """The name of the Kubernetes Job of an attempt."""
        return job_name(self.service.name, Assignment("default", request.request_id, attempt))

    def state(self, request: v1.StartJobRequest) -> tuple[int, int]:
        job = self.job(request)
        return job.state, job.attempt


@pytest.fixture
def bench(store: Store, s3: Any, dataset: str, tmp_path: Path) -> Iterator[Bench]:
    with Cluster(tmp_path / "cluster") as cluster:
        service = Service(name=f"fake-{uuid.uuid4().hex[:8]}", methods=SERVICE.methods)
        own = {"state_dir": tmp_path / "state", "lease_seconds": 3.0, "max_workers": 20}
        settings = Settings.model_validate({**store.settings.model_dump(), **own, **cluster.settings})
        environment = {**s3.environment, "PARFOCAL_CHECKPOINT_SECONDS": "0", "PYTHONPATH": search_path(ROOT / "tests")}
        cluster.add_template(f"parfocal-{service.name}-worker", environment)
        yield Bench(cluster, settings, dataset, service)


@asynccontextmanager
async def running(controller: Controller) -> Any:
    await controller.start()
    try:
        yield controller
    finally:
        await controller.stop()


async def until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    for _ in range(int(seconds / 0.05)):
        value = await asyncio.to_thread(condition)
        if value:
            return value
        await asyncio.sleep(0.05)
    raise AssertionError(f"{what} did not come about")


def play(scene: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scene())  # type: ignore[arg-type]


def test_a_training_on_a_cluster_runs_to_its_end(bench: Bench) -> None:
    request = bench.request()

    async def scene() -> None:
        async with running(bench.controller()) as controller:
            await controller.submit(request)
            await until(lambda: bench.job(request).state == v1.JOB_STATE_SUCCEEDED, "the end of the training")

    play(scene)
    job = bench.job(request)
    assert (job.attempt, job.lost_workers) == (1, 0)
    manifest = ModelManifest.read(Store(bench.settings), Location.parse(job.outputs[0].uri) / MODEL_MANIFEST)
    assert manifest.job == request.request_id
    assert bench.cluster.nodes.started == [bench.name(request)]
    states = [event.state_change.state for event in _events(bench, request) if event.HasField("state_change")]
    assert states[-2:] == [v1.JOB_STATE_RUNNING, v1.JOB_STATE_SUCCEEDED]


def _events(bench: Bench, request: v1.StartJobRequest) -> list[v1.JobEvent]:
    jobs = JobStore(Store(bench.settings))
    return list(jobs.events(jobs.read("default", request.request_id), 0))
