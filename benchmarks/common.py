"""What the benchmarks of methods share: clocks, and jobs done as a worker does them."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

from parfocal import v1
from parfocal.runtime.jobs.admission import admit
from parfocal.runtime.jobs.context import JobContext
from parfocal.runtime.jobs.records import JobStore, set_state
from parfocal.runtime.service import Service, load_object
from parfocal.runtime.store import Store


class Clock:
    """Wall and processor seconds of a block."""

    def __enter__(self) -> Clock:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu


def run_job(service: Service, store: Store, request: v1.StartJobRequest, scratch: Path) -> v1.Job:
    """Do a job as a worker does, in this process."""
    request.request_id, request.project = uuid.uuid4().hex, "default"
    jobs = JobStore(store)
    job = admit(service, store, jobs, request)

    def running(job: v1.Job) -> v1.JobEvent:
        job.attempt = 1
        return set_state(job, v1.JOB_STATE_RUNNING, "benchmark")

    job = jobs.change(job.project, job.id, running)
    context = JobContext(service, store, job, scratch / job.id)
    context.scratch.mkdir(parents=True)
    load_object(context.work.run)(context)
    context.succeed()
    return context.job


def events(store: Store, job: v1.Job) -> list[v1.JobEvent]:
    """Return all events of a job."""
    jobs = JobStore(store)
    return list(jobs.events(jobs.read(job.project, job.id), 0))
