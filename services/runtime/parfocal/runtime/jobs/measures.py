"""What a controller counts of its jobs and workers, and what it adds to their traces."""

from __future__ import annotations

from typing import Final

from parfocal import v1
from parfocal.runtime import traces
from parfocal.runtime.jobs.exits import ExitKind
from parfocal.runtime.jobs.records import described, state_name
from parfocal.runtime.metrics import Counter, Gauge, Histogram

MEGAPIXELS: Final = "megapixels"
MEGAPIXELS_PER_SECOND: Final = "megapixels_per_second"
"""Among the metrics of a prediction job: how many pixels its images had, and how many it did in a second of work."""

_QUEUED = Gauge("parfocal_jobs_queued", "Jobs that no worker has been started for.")
_WORKERS = Gauge("parfocal_workers", "Workers, running or waiting for their place on the cluster.", ["state"])
_ENDED = Counter("parfocal_jobs_ended_total", "Jobs that have ended, by their final state.", ["state"])
_FAILURES = Counter("parfocal_job_failures_total", "Failed jobs by the reason of their error.", ["reason"])
_EXITS = Counter("parfocal_worker_exits_total", "Workers that have ended, by how.", ["how"])
_WAIT = Histogram("parfocal_job_wait_seconds", "Time from the admission of a job to its first worker.")
_DEVICE = Counter("parfocal_device_seconds_total", "Time from the first worker of a job with a device to its end.")
_PIXELS = Counter("parfocal_predicted_pixels_total", "Pixels of the images of predictions that have ended.", ["method"])
_PREDICTING = Counter("parfocal_prediction_seconds_total", "Time of their workers, without the start.", ["method"])


def note_work(queued: int, running: int, waiting: int) -> None:
    """Note how many jobs are in the queue, how many workers run and how many wait."""
    _QUEUED.set(queued)
    _WORKERS.set(running, "running")
    _WORKERS.set(waiting, "waiting")


def note_begin(job: v1.Job, queued_ns: int) -> None:
    """Note that a job gets a worker, for which it has waited since a time (in nanoseconds since 1970)."""
    traces.record("queued", described(job), queued_ns, parent=job.traceparent)


def note_exit(how: ExitKind) -> None:
    """Count a worker that has ended."""
    _EXITS.add(how.value)


def note_end(job: v1.Job, *, has_device: bool) -> None:
    """Count a job that has come to its final state."""
    _ENDED.add(state_name(job.state))
    if job.error.reason:
        _FAILURES.add(job.error.reason)
    if job.metrics.get(MEGAPIXELS_PER_SECOND):
        _PIXELS.add(job.method, amount=1e6 * job.metrics[MEGAPIXELS])
        _PREDICTING.add(job.method, amount=job.metrics[MEGAPIXELS] / job.metrics[MEGAPIXELS_PER_SECOND])
    traces.record(
        "job",
        {**described(job), "state": state_name(job.state)},
        job.created_at.ToNanoseconds(),
        job.finished_at.ToNanoseconds(),
        parent=job.traceparent,
        failed=job.error.reason,
    )
    if job.HasField("started_at"):
        started = job.started_at.ToNanoseconds() / 1e9
        _WAIT.observe(max(0.0, started - job.created_at.ToNanoseconds() / 1e9))
        if has_device:
            _DEVICE.add(amount=max(0.0, job.finished_at.ToNanoseconds() / 1e9 - started))
