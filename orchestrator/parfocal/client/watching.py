"""Following a job over streams that may drop."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import grpc

from parfocal import v1
from parfocal.client.services import Service
from parfocal.runtime.errors import ParfocalError, UnavailableError
from parfocal.runtime.rpc_errors import from_rpc_error

FINAL_STATES = frozenset({v1.JOB_STATE_SUCCEEDED, v1.JOB_STATE_FAILED, v1.JOB_STATE_CANCELLED})
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
# A stream is asked for anew so often. A service that hangs would otherwise hold a watcher for ever: nothing tells it
# from one whose job is silent, but that it does not answer the next time.
_STREAM_SECONDS = 30.0
_GRACE_SECONDS = 5.0
# Whoever no longer wants to know is noticed within so many.
_LOOK_SECONDS = 1.0
# What a stream ends with when its server stops or the connection is lost.
_DROPPED = {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED}


def seconds_at_work(job: v1.Job) -> float:
    """Return how long a job that has started worked, or has been working, without the pauses before it was resumed."""
    end = job.finished_at.ToNanoseconds() if job.HasField("finished_at") else time.time_ns()
    return max(0, end - job.started_at.ToNanoseconds() - job.paused.ToNanoseconds()) / 1e9


def watch(
    services: Sequence[Service],
    project: str,
    job_id: str,
    after_sequence: int,
    patience: float,
    stop: threading.Event | None = None,
) -> Iterator[v1.WatchJobResponse]:
    """Yield the reports of a job to its end, or until `stop` is set; see `parfocal.client.Client.watch`."""
    stop = stop or threading.Event()
    after, turn, pause = after_sequence, 0, _FIRST_PAUSE
    deadline = time.monotonic() + patience
    while True:
        # Any service reports any job, so the next one is tried when one is gone.
        service = services[turn % len(services)]
        request = v1.WatchJobRequest(project=project, job_id=job_id, after_sequence=after)
        stream = service.jobs.WatchJob(request, timeout=_STREAM_SECONDS)
        answered = False
        try:
            for report in _reports(stream, _STREAM_SECONDS + _GRACE_SECONDS, service.address, stop):
                deadline, pause, answered = time.monotonic() + patience, _FIRST_PAUSE, True
                if report.HasField("event"):
                    after = report.event.sequence
                yield report
                if report.job.state in FINAL_STATES and after >= report.job.last_sequence:
                    return
            problem = UnavailableError(f"The service at {service.address} ended the stream before the job's end.")
        except grpc.RpcError as error:
            problem = _dropped(error, service.address)
            if answered and error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                continue
        except _OutlastedError as error:
            problem = error
        finally:
            stream.cancel()
        if stop.is_set():
            return
        if time.monotonic() + pause > deadline:
            raise problem
        stop.wait(pause)
        turn, pause = turn + 1, min(2 * pause, _LONGEST_PAUSE)


class _OutlastedError(UnavailableError):
    """A stream neither gave anything nor ended when its time was over."""


def _reports(stream: Any, seconds: float, address: str, stop: threading.Event) -> Iterator[v1.WatchJobResponse]:
    """Yield what a stream gives, for a time at most, or until `stop` is set.

    The stream is read in a thread of its own: in long runs of kills a stream was seen to outlast its time-out, and
    whoever read it would have waited for ever.

    Raises
    ------
    grpc.RpcError
        The stream's.
    _OutlastedError
        It should have ended by itself.
    """
    received: queue.SimpleQueue[v1.WatchJobResponse | BaseException | None] = queue.SimpleQueue()

    def read() -> None:
        try:
            for report in stream:
                received.put(report)
            received.put(None)
        except BaseException as error:
            received.put(error)

    threading.Thread(target=read, name="watch", daemon=True).start()
    deadline = time.monotonic() + seconds
    while True:
        try:
            item = received.get(timeout=min(_LOOK_SECONDS, max(0.0, deadline - time.monotonic())))
        except queue.Empty:
            if stop.is_set():
                return
            if time.monotonic() < deadline:
                continue
            raise _OutlastedError(f"The service at {address} does not answer.") from None
        if item is None:
            return
        if isinstance(item, BaseException):
            raise item
        yield item


def _dropped(error: grpc.RpcError, address: str) -> UnavailableError:
    """Return the error to raise in the end if the stream cannot be resumed; raise at once what is no drop."""
    meant = from_rpc_error(error, address)
    if isinstance(meant, UnavailableError):
        return meant
    reset = error.code() == grpc.StatusCode.INTERNAL and "RST_STREAM" in (error.details() or "")
    if type(meant) is ParfocalError and (error.code() in _DROPPED or reset):
        return UnavailableError(f"The connection to the service at {address} was lost: {meant.message}")
    raise meant from error
