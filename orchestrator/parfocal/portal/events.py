"""A job as it changes, as server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from parfocal import v1
from parfocal.client import Client
from parfocal.client.watching import FINAL_STATES
from parfocal.portal.sessions import ENDED
from parfocal.portal.words import duration, state
from parfocal.runtime.errors import ParfocalError

_BEAT_SECONDS: Final = 15.0
_PROGRESS_SECONDS: Final = 0.5
_MOST_STREAMS: Final = 200
_streams = threading.BoundedSemaphore(_MOST_STREAMS)


async def job_events(
    client: Client, job_id: str, after: int, allowed: Callable[[], bool] = lambda: True
) -> AsyncIterator[str]:
    """Yield the events of a job after the given number, then each as it happens, and a comment every 15 s.

    With the comment it is asked whether the person may still see the job. Nothing goes on when a browser is gone. The
    stream ends with the event `end` after the job's last one, or with `lost` and the reason if nothing is known of
    the job for too long. Streams beyond the most that are served at a time end at once; browsers ask again.
    """
    if not _streams.acquire(blocking=False):
        yield "retry: 30000\n\n"
        return
    reports: asyncio.Queue[v1.WatchJobResponse | ParfocalError | None] = asyncio.Queue()
    loop, stopped = asyncio.get_running_loop(), threading.Event()

    def put(item: v1.WatchJobResponse | ParfocalError | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(reports.put_nowait, item)

    def read() -> None:
        try:
            for report in client.watch(job_id, after, stopped):
                put(report)
            put(None)
        except ParfocalError as error:
            put(error)
        finally:
            _streams.release()

    threading.Thread(target=read, name=f"events of {job_id}", daemon=True).start()
    shown, last, asked = 0.0, "", time.monotonic()
    try:
        yield "retry: 2000\n\n"
        while True:
            silent = False
            try:
                report = await asyncio.wait_for(reports.get(), _BEAT_SECONDS)
            except TimeoutError:
                silent = True
            if time.monotonic() - asked >= _BEAT_SECONDS:
                asked = time.monotonic()
                if not allowed():
                    yield _event("lost", {"text": ENDED})
                    return
            if silent:
                yield ": still there\n\n"
                continue
            if report is None:
                yield _event("end", {})
                return
            if isinstance(report, ParfocalError):
                yield _event("lost", {"text": report.message})
                return
            if report.HasField("event") and (text := _happened(report.event)):
                yield text
            now, known = time.monotonic(), json.dumps(job_state(report.job))
            final = report.job.state in FINAL_STATES
            if known != last and (final or now - shown >= _PROGRESS_SECONDS):
                shown, last = now, known
                yield f"event: state\ndata: {known}\n\n"
    finally:
        stopped.set()


def job_state(job: v1.Job) -> dict[str, Any]:
    """Return how a job stands, for the page's script."""
    look, word = state(job)
    progress = job.progress
    return {
        "look": look,
        "word": word,
        "final": job.state in FINAL_STATES,
        "percent": round(100 * progress.fraction, 1),
        "epoch": progress.epoch,
        "epochs": progress.epochs,
        "left": duration(progress.seconds_left) if progress.seconds_left > 0 else "",
        "stage": progress.stage,
        "message": job.message,
    }


def epoch_row(event: v1.JobEvent) -> dict[str, Any]:
    """Return one epoch of a training, with the metrics that have a value."""
    epoch = event.epoch_completed
    return {
        "epoch": epoch.epoch,
        "attempt": event.attempt,
        "best": epoch.best,
        "seconds": epoch.seconds,
        "metrics": {name: value for name, value in sorted(epoch.metrics.items()) if math.isfinite(value)},
    }


def history(client: Client, job_id: str) -> list[v1.JobEvent]:
    """Return all events of a job so far."""
    events: list[v1.JobEvent] = []
    for report in client.watch(job_id):
        if report.HasField("event"):
            events.append(report.event)
        if (events[-1].sequence if events else 0) >= report.job.last_sequence:
            break
    return events


def _happened(event: v1.JobEvent) -> str:
    match event.WhichOneof("event"):
        case "epoch_completed":
            return _event("epoch", epoch_row(event), event.sequence)
        case "image_completed":
            done = event.image_completed
            return _event("image", {"name": done.name, "seconds": done.seconds}, event.sequence)
        case "warning":
            return _event("warning", {"text": event.warning.text}, event.sequence)
        case "preview":
            return _event("pictures", {"epoch": event.preview.epoch}, event.sequence)
        case "output":
            return _event("output", {"kind": event.output.kind}, event.sequence)
    return f"id: {event.sequence}\n\n"


def _event(name: str, data: dict[str, Any], sequence: int | None = None) -> str:
    number = f"id: {sequence}\n" if sequence is not None else ""
    return f"{number}event: {name}\ndata: {json.dumps(data)}\n\n"
