"""Admits jobs, runs each through a launcher, and keeps the store's records true whatever dies.

A controller keeps nothing that it could not read from the store again: after a restart it rebuilds its queue from
there and re-queues every job that lost its worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from parfocal import v1
from parfocal.runtime.errors import (
    DamagedError,
    NotFoundError,
    ParfocalError,
    PreconditionError,
    QueueFullError,
    UnavailableError,
)
from parfocal.runtime.jobs.admission import admit
from parfocal.runtime.jobs.launcher import Launcher, NotStarted, Worker
from parfocal.runtime.jobs.lease import Lease
from parfocal.runtime.jobs.records import (
    FINAL_STATES,
    JobStore,
    job_kind,
    set_state,
    state_name,
)
from parfocal.runtime.methods.service import Service
from parfocal.runtime.rpc_errors import code_name
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.housekeeping import tidy_machine, tidy_store
from parfocal.runtime.store.store import Store, translate_disk_error

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_POLL_SECONDS = 0.2
_TIDY_SECONDS = 3600.0
MAX_LOST_WORKERS = 3
_LESS_MEMORY = {True: "Try a smaller batch or patch. ", False: "Try a smaller tile_size or smaller images. "}


@dataclass
class _Running:
    job: v1.Job
    worker: Worker
    kill_at: float | None = None


@dataclass(frozen=True, order=True)
class _Queued:
    created_ns: int
    project: str
    job_id: str
    needs_device: bool


class Controller:
    """Runs the jobs of one service. All methods belong to one event loop; the store is asked in threads."""

    def __init__(self, service: Service, store: Store, launcher: Launcher, settings: Settings) -> None:
        self.service = service
        self.store = store
        self.jobs = JobStore(store)
        self._launcher = launcher
        self._settings = settings
        self._lease = Lease(store, service.name, settings.lease_seconds)
        self._active = False
        self._queue: deque[_Queued] = deque()
        self._running: dict[tuple[str, str], _Running] = {}
        self._admitting = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}
        self._stopped = threading.Event()

    @property
    def is_active(self) -> bool:
        """Whether this instance holds the lease and runs jobs."""
        return self._active

    async def start(self) -> None:
        """Begin to run jobs as soon as the lease is free; returns after the first attempt to take it."""
        await self._renew()
        self._tasks = [asyncio.create_task(self._keep_lease()), asyncio.create_task(self._schedule())]
        # No task: its threads would be waited for at the end, and a full trash takes minutes. It may stop anywhere.
        threading.Thread(target=self._tidy, name="housekeeping", daemon=True).start()

    async def stop(self) -> None:
        """End all workers and give the lease back; their jobs go on when a service starts again."""
        self._stopped.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for running in self._running.values():
            running.worker.kill()
        for running in self._running.values():
            while running.worker.exit_reason() is None:
                await asyncio.sleep(0.01)
        if self._active:
            for running in self._running.values():
                with contextlib.suppress(ParfocalError):
                    await self._requeue(running.job, "the service was stopped", lost=False)
            with contextlib.suppress(ParfocalError):
                await asyncio.to_thread(self._lease.release)
        self._active = False

    async def submit(self, request: v1.StartJobRequest) -> v1.Job:
        """Admit a job, or return the one that the same request started before."""
        self._require_active()
        async with self._lock(request.project, request.request_id):
            known = await asyncio.to_thread(self.jobs.repeated, request)
            if known is not None:
                return known
            occupied = len(self._queue) + len(self._running) + self._admitting
            if occupied >= self._settings.max_active_jobs:
                raise QueueFullError(
                    f"The service {self.service.name!r} has {occupied} jobs already, as many as it admits. "
                    "Try again when some have ended."
                )
            self._admitting += 1
            try:
                job = await asyncio.to_thread(admit, self.service, self.store, self.jobs, request)
                self._enqueue(job)
            finally:
                self._admitting -= 1
            return job

    async def cancel(self, project: str, job_id: str, *, keep_best: bool, why: str) -> v1.Job:
        """Ask a job to end; one without a worker ends at once, an ended one is returned as it is."""
        self._require_active()
        async with self._lock(project, job_id):
            job = (await asyncio.to_thread(self.jobs.read, project, job_id)).job
            self._require_own(job)
            if job.state in FINAL_STATES:
                return job
            if keep_best and job.WhichOneof("spec") != "training":
                raise PreconditionError(f"Job {job_id} trains no model, so there are no best weights to keep.")
            reason = f"cancelled: {why}" if why else "cancelled on request"
            running = self._running.get((project, job_id))
            if running is None:
                self._queue = deque(item for item in self._queue if (item.project, item.job_id) != (project, job_id))
                return await self._change(job, lambda job: set_state(job, v1.JOB_STATE_CANCELLED, reason))
            await asyncio.to_thread(self.jobs.mark_cancelled, running.job, keep_best=keep_best, why=why)
            if not keep_best:
                running.kill_at = time.monotonic() + self._settings.grace_seconds

            def cancelling(job: v1.Job) -> v1.JobEvent | None:
                if job.state in FINAL_STATES:
                    return None
                ending = "ending training early, keeping the best weights" if keep_best else reason
                return set_state(job, v1.JOB_STATE_CANCELLING, ending)

            return await asyncio.to_thread(self.jobs.change, project, job_id, cancelling)

    async def resume(self, project: str, job_id: str) -> v1.Job:
        """Queue a failed or cancelled training again; it continues from its last checkpoint."""
        self._require_active()
        async with self._lock(project, job_id):
            job = (await asyncio.to_thread(self.jobs.read, project, job_id)).job
            self._require_own(job)
            if job.WhichOneof("spec") != "training":
                raise PreconditionError(f"Job {job_id} is no training; start it again instead of resuming it.")
            if job.state not in {v1.JOB_STATE_FAILED, v1.JOB_STATE_CANCELLED}:
                raise PreconditionError(
                    f"Job {job_id} is {state_name(job.state)}; only a failed or cancelled training can be resumed."
                )

            def queued(job: v1.Job) -> v1.JobEvent:
                job.ClearField("error")
                job.lost_workers = 0
                return set_state(job, v1.JOB_STATE_QUEUED, "resumed: waiting for its turn")

            job = await self._change(job, queued)
            self._enqueue(job)
            return job

    async def delete(self, project: str, job_id: str) -> None:
        """Move the record of an ended job to the trash."""
        self._require_active()
        async with self._lock(project, job_id):
            record = await asyncio.to_thread(self.jobs.read, project, job_id)
            self._require_own(record.job)
            await asyncio.to_thread(self.jobs.delete, record.job)

    async def _schedule(self) -> None:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            if not self._active:
                continue
            try:
                for running in list(self._running.values()):
                    await self._look_after(running)
                await self._start_next()
            except UnavailableError as error:
                _log.warning("the store does not answer; jobs wait: %s", error)
                await asyncio.sleep(2.0)
            except Exception:
                _log.exception("scheduling failed; trying again")
                await asyncio.sleep(2.0)

    async def _start_next(self) -> None:
        if not self._queue:
            # A job may be cancelled while the device is reserved for it.
            self._launcher.release()
            return
        if len(self._running) >= self._settings.max_workers:
            return
        item = self._queue[0]
        if not self._launcher.reserve(needs_device=item.needs_device):
            return
        async with self._lock(item.project, item.job_id):
            if not self._queue or self._queue[0] != item:
                return
            try:
                job = await asyncio.to_thread(self.jobs.change, item.project, item.job_id, _running)
            except (NotFoundError, DamagedError) as error:
                _log.error("job %s is left out: %s", item.job_id, error)
                self._queue.popleft()
                return
            self._queue.popleft()
            if job.state != v1.JOB_STATE_RUNNING:
                return
            try:
                worker = self._launcher.start(job, needs_device=item.needs_device)
            except OSError as error:
                _log.error("no worker could be started: %s", error, extra={"job": job.id})
                worker = NotStarted(_start_error(error))
            if worker is None:
                await self._requeue(job, "waiting for the device", lost=False)
                return
            if not isinstance(worker, NotStarted):
                _log.info("worker started", extra={"job": job.id, "attempt": job.attempt})
            self._running[job.project, job.id] = _Running(job, worker)

    async def _look_after(self, running: _Running) -> None:
        job = running.job
        reason = running.worker.exit_reason()
        if reason is None:
            if running.kill_at is not None and time.monotonic() > running.kill_at:
                running.worker.kill()
            return
        async with self._lock(job.project, job.id):
            try:
                stored = (await asyncio.to_thread(self.jobs.read, job.project, job.id)).job
                # Not if another instance has taken over meanwhile: then a later attempt may be running there.
                if self._active and stored.state not in FINAL_STATES and stored.attempt == job.attempt:
                    if isinstance(running.worker, NotStarted):
                        await self._change(stored, partial(_fail, running.worker.error))
                    else:
                        await self._settle(stored, reason)
            except NotFoundError:
                pass  # it may be deleted between its final state and the end of its worker
            except DamagedError as error:
                _log.error("job %s is left as it is: %s", job.id, error)
            if self._running.get((job.project, job.id)) is running:
                del self._running[job.project, job.id]
            _log.info("worker ended", extra={"job": job.id, "attempt": job.attempt, "how": reason or "regularly"})

    async def _settle(self, job: v1.Job, reason: str) -> None:
        """Decide what becomes of a job whose worker is gone without a word."""
        if job.state == v1.JOB_STATE_CANCELLING:
            mark = await asyncio.to_thread(self.jobs.cancel_mark, job)
            if mark is None or not mark["keep_best"]:
                why = str(mark["why"]) if mark and mark["why"] else "on request"
                await self._change(job, lambda job: set_state(job, v1.JOB_STATE_CANCELLED, f"cancelled: {why}"))
                return
        await self._requeue(job, f"the worker {reason or 'ended without a result'}", lost=True)

    async def _requeue(self, job: v1.Job, why: str, *, lost: bool) -> None:
        attempt, resumable = job.attempt, job.WhichOneof("spec") == "training"

        def change(job: v1.Job) -> v1.JobEvent | None:
            if job.state in FINAL_STATES or job.attempt != attempt:
                return None
            job.lost_workers += lost
            if job.lost_workers >= MAX_LOST_WORKERS:
                memory = "memory" in why
                job.error.code = "RESOURCE_EXHAUSTED" if memory else "ABORTED"
                job.error.reason = "OUT_OF_MEMORY" if memory else "WORKER_LOST"
                job.error.text = (
                    f"Gave up after {MAX_LOST_WORKERS} attempts: {why}. "
                    + (_LESS_MEMORY[resumable] if memory else "")
                    + ("`parfocal jobs resume` continues from the last checkpoint." if resumable else "Start it again.")
                )
                return set_state(job, v1.JOB_STATE_FAILED, job.error.text)
            again = "it will go on from its last checkpoint, if there is one" if resumable else "it will be done again"
            return set_state(job, v1.JOB_STATE_QUEUED, f"{why}; {again}")

        job = await self._change(job, change)
        if job.state == v1.JOB_STATE_QUEUED:
            self._enqueue(job)

    def _enqueue(self, job: v1.Job) -> None:
        needs_device = self.service.method(job.method).work_of(job_kind(job)).needs_device
        item = _Queued(job.created_at.ToNanoseconds(), job.project, job.id, needs_device)
        if item not in self._queue:
            # The oldest first: a job that lost its worker does not go behind those that came after it.
            self._queue = deque(sorted([*self._queue, item]))

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_seconds / 3)
            await self._renew()

    async def _renew(self) -> None:
        try:
            held = await asyncio.to_thread(self._lease.hold)
        except UnavailableError as error:
            # Without the store nobody else can take over either; workers wait for it as well.
            _log.warning("the lease could not be renewed: %s", error)
            return
        if held and not self._active:
            try:
                await self._rebuild()
            except UnavailableError as error:
                _log.warning("the queue could not be rebuilt: %s", error)
                return
            self._active = True
            _log.info("this instance runs the jobs of %s", self.service.name)
        elif not held and self._active:
            _log.error("another instance has taken over; ending the workers of this one")
            self._active = False
            for running in self._running.values():
                running.worker.kill()
            self._running.clear()
            self._queue.clear()

    async def _rebuild(self) -> None:
        """Queue what the store says is not finished. Local workers have died with their server."""
        self.jobs.forget_all()
        for project in await asyncio.to_thread(self.jobs.projects):
            for listed in await asyncio.to_thread(self.jobs.jobs_of, self.service.name, project, remember=True):
                if listed.state in FINAL_STATES:
                    continue
                job = listed.job()
                try:
                    if job.state == v1.JOB_STATE_QUEUED:
                        self._enqueue(job)
                    else:
                        await self._settle(job, "was lost when the service stopped")
                except (NotFoundError, DamagedError) as error:
                    _log.error("job %s cannot go on: %s", job.id, error)

    def _tidy(self) -> None:
        """Clean up now and every hour. Every instance does so for its machine, the active one for the store as well."""
        while True:
            tidy_machine(self._settings)
            if self._active:
                tidy_store(self.store, self._settings)
            if self._stopped.wait(_TIDY_SECONDS):
                return

    async def _change(self, job: v1.Job, change: Callable[[v1.Job], v1.JobEvent | None]) -> v1.Job:
        return await asyncio.to_thread(self.jobs.change, job.project, job.id, change)

    def _lock(self, project: str, job_id: str) -> asyncio.Lock:
        if len(self._locks) > 1000:
            self._locks = {key: lock for key, lock in self._locks.items() if lock.locked()}
        return self._locks.setdefault((project, job_id), asyncio.Lock())

    def _require_active(self) -> None:
        if not self._active:
            raise UnavailableError(
                f"This instance of {self.service.name!r} does not run jobs at the moment: another one does, "
                "or the store does not answer. Try again."
            )

    def _require_own(self, job: v1.Job) -> None:
        if job.service != self.service.name:
            raise NotFoundError(f"Job {job.id} belongs to the service {job.service!r}, not to {self.service.name!r}.")


def _start_error(error: OSError) -> ParfocalError:
    """Return why no worker could be started. It is not tried again by itself: that would fail the same way."""
    translated = translate_disk_error(error)
    if isinstance(translated, ParfocalError):
        return translated
    return UnavailableError(f"No worker could be started on this machine: {error}.")


def _fail(error: ParfocalError, job: v1.Job) -> v1.JobEvent:
    job.error.CopyFrom(v1.JobError(code=code_name(error), reason=error.reason, text=error.message))
    return set_state(job, v1.JOB_STATE_FAILED, error.message)


def _running(job: v1.Job) -> v1.JobEvent | None:
    if job.state != v1.JOB_STATE_QUEUED:
        return None
    job.attempt += 1
    if not job.HasField("started_at"):
        job.started_at.GetCurrentTime()
    return set_state(job, v1.JOB_STATE_RUNNING, "the worker starts")
