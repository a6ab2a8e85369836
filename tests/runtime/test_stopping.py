"""What becomes of jobs whose service is stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from image_service import Service
from support import ServiceProcess, publish_dataset, wait_for

from parfocal import v1
from parfocal.runtime.jobs.records import FINAL_STATES


def test_a_job_cancelled_just_before_its_service_stops_stays_cancelled(
    start_service: Callable[..., ServiceProcess], s3: Any, pairs_folder: Path
) -> None:
    with grpc.insecure_channel((process := start_service("fake")).address) as channel:
        service = Service(process, channel, publish_dataset(s3.store(), "stopped", pairs_folder))
        job = service.start_training(epochs=1000, pause_seconds=0.05)
        wait_for(lambda: service.state_of(job) == v1.JOB_STATE_RUNNING, 30, "the job")
        service.jobs.CancelJob(v1.CancelJobRequest(job_id=job.id))
        process.stop()
    with grpc.insecure_channel((process := start_service("fake")).address) as channel:
        service = Service(process, channel, "")
        wait_for(lambda: service.state_of(job) in FINAL_STATES, 60, "the end of the job")
        done = service.jobs.GetJob(v1.GetJobRequest(job_id=job.id)).job
        process.stop()
    assert (done.state, done.attempt) == (v1.JOB_STATE_CANCELLED, 1)
