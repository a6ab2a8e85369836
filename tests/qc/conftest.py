"""What the tests of quality control as jobs share: a real QC service, and predictions made by changing the targets."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from support import ROOT, publish_dataset, publish_images

from parfocal import v1
from parfocal.qc import SERVICE
from parfocal.runtime.images.files import Image, read_image, write_image
from parfocal.runtime.jobs.admission import admit
from parfocal.runtime.jobs.attempt import run as run_attempt
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.jobs.records import JobStore, set_state
from parfocal.runtime.methods.service import values_struct
from parfocal.runtime.store.store import Store

# Some tests score the simulated images of the demo, which is not installed in the environment of a service.
sys.path.append(str(ROOT / "orchestrator"))

RunJob = Callable[[v1.StartJobRequest], v1.Job]
# A name of its own: a running service would take up the jobs that are done here.
OWN = replace(SERVICE, name="qc-by-hand")


@pytest.fixture(scope="module")
def jobs(share_service: Any) -> Iterator[v1.JobServiceStub]:
    """The jobs of a running QC service."""
    with grpc.insecure_channel(share_service("qc").address) as channel:
        yield v1.JobServiceStub(channel)


@pytest.fixture(scope="module")
def run_job(jobs: v1.JobServiceStub) -> RunJob:
    """Start a job at the QC service and return it when it has ended, however it ended."""

    def run(request: v1.StartJobRequest) -> v1.Job:
        job = jobs.StartJob(request).job
        for _ in jobs.WatchJob(v1.WatchJobRequest(job_id=job.id), timeout=120):
            pass
        return jobs.GetJob(v1.GetJobRequest(job_id=job.id)).job

    return run


class Worker:
    """Runs jobs as a worker does, but in this process, where starting costs nothing and what it finds can be set."""

    def __init__(self, s3: Any, folder: Path) -> None:
        self.store = Store(s3.store().settings.model_copy(update={"state_dir": folder / "state"}))
        self.jobs = JobStore(self.store)
        self.folder = folder

    def run(self, request: v1.StartJobRequest, before: Callable[[JobContext], None] | None = None) -> v1.Job:
        """Run a job to its end, however it ends; `before` is called when it is running."""
        request.project, request.request_id = "default", uuid.uuid4().hex
        job = admit(OWN, self.store, self.jobs, request)

        def begin(job: v1.Job) -> v1.JobEvent:
            job.attempt = 1
            return set_state(job, v1.JOB_STATE_RUNNING, "running")

        scratch = self.folder / job.id
        scratch.mkdir()
        context = JobContext(OWN, self.store, self.jobs.change("default", job.id, begin), scratch)
        if before is not None:
            before(context)
        run_attempt(context)
        return self.jobs.read("default", job.id).job


@pytest.fixture(scope="module")
def worker(s3: Any, tmp_path_factory: pytest.TempPathFactory) -> Worker:
    """Run jobs in this process."""
    return Worker(s3, tmp_path_factory.mktemp("worker"))


@pytest.fixture(scope="module")
def evaluate_changed(
    run_job: RunJob, s3: Any, nuclei_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., v1.Job]:
    """Evaluate the label images of the test nuclei, changed by a function, as if a model had predicted them."""
    store = s3.store()
    dataset = publish_dataset(store, "nuclei", nuclei_folder)

    def evaluate(method: str, change: Callable[[Any], Any], **parameters: Any) -> v1.Job:
        folder = tmp_path_factory.mktemp("predicted")
        for path in sorted((nuclei_folder / "test" / "target").iterdir()):
            write_image(folder / path.name, Image(change(read_image(path).pixels), "YX", None))
        spec = v1.EvaluationSpec(
            method=method,
            dataset_uri=dataset,
            prediction_uri=publish_images(store, folder),
            split="test",
            parameters=values_struct(parameters),
        )
        return run_job(v1.StartJobRequest(evaluation=spec))

    return evaluate
