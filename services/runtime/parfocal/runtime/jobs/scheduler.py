"""Runs the jobs that the store has marked as open, each through a launcher, and keeps their records true.

A scheduler keeps nothing that it could not read from the store again. Its queue follows from the store: every second
it compares what it holds with the jobs that are marked there as open (`JobStore.open_jobs`), and takes up what nobody
holds. So it does not matter how a job came to be queued, or lost its worker: by a request whose client went away, by a
write whose answer was lost, or by an instance that ran the jobs before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from parfocal import v1
from parfocal.runtime.errors import (
    DamagedError,
    InvalidInputError,
    NotFoundError,
    ParfocalError,
    PreconditionError,
    UnavailableError,
)
from parfocal.runtime.jobs.accounts import Accounts
from parfocal.runtime.jobs.device.use import Use
from parfocal.runtime.jobs.exits import Exit, ExitKind, Waiting
from parfocal.runtime.jobs.launcher import Launcher
from parfocal.runtime.jobs.lease import Lease
from parfocal.runtime.jobs.measures import note_begin, note_end, note_exit, note_work
from parfocal.runtime.jobs.queue import Key, Queue, Queued, waits_for
from parfocal.runtime.jobs.records import FINAL_STATES, WORKING_STATES, JobStore, job_kind, set_state
from parfocal.runtime.jobs.requeue import begin, cancelled, fail, queue_again, requeue
from parfocal.runtime.methods.capacity import needed_memory
from parfocal.runtime.methods.service import Resources, Service, struct_values
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.manifests import Manifest
from parfocal.runtime.store.promises import check_promises
from parfocal.runtime.store.publish import remove_leftovers
from parfocal.runtime.store.store import Location, Store, translate_disk_error

_log = logging.getLogger(__name__)
_QUEUED = v1.JOB_STATE_QUEUED
_POLL_SECONDS = 0.2
_RECONCILE_SECONDS = 1.0
# How often jobs in the queue say what they wait for, and how many of them do; those behind them say what they said.
_TELL_SECONDS = 5.0
_TOLD_JOBS = 20
# Far longer than a worker that was replaced needs to notice it.
_LEFTOVER_SECONDS = 600.0
# Far longer than the admission of a job takes.
_ABANDONED_SECONDS = 3600.0
# How often workers are looked for that belong to no job any more, and the time after a job's end in which its own may
# still be about to go.
_STRAY_SECONDS = 10.0
# Most that a job rests after many attempts on a cluster.
_LONGEST_REST_SECONDS = 60.0
_LOST = Exit(ExitKind.INTERRUPTED, "was lost when its service stopped or was replaced")


@dataclass
class _Running:
    """A job with a worker (of the kind that the launcher starts), or with the error that kept one from starting."""

    job: v1.Job
    worker: Any
    error: ParfocalError | None = None
    kill_at: float | None = None
    told: str = ""
    waits: bool = False


class Scheduler:
    """Runs the jobs of one service as long as it holds the lease; `Controller` adds its start, stop and requests.

    All methods belong to one event loop; the store is asked in threads.

    Attributes
    ----------
    refused
        Why the store is not used at all; None as long as nothing speaks against it.
    """

    def __init__(self, service: Service, store: Store, launcher: Launcher[Any], settings: Settings) -> None:
        self.service = service
        self.store = store
        self.jobs = JobStore(store)
        self.accounts = Accounts(self.jobs)
        self._launcher = launcher
        self._settings = settings
        self._lease = Lease(store, service.name, settings.lease_seconds)
        self._active = False
        self.refused: PreconditionError | None = None
        self._tried = False
        self._renewing = asyncio.Lock()
        self._queue = Queue()
        self._tell_at = 0.0
        # What jobs in the queue have said last.
        self._told: dict[Key, str] = {}
        self._running: dict[Key, _Running] = {}
        # Workers of jobs that another instance has taken over: killed, and only to be reaped.
        self._replaced: list[Any] = []
        # Jobs with an open mark that need nothing before a time (of time.monotonic).
        self._not_before: dict[Key, float] = {}
        self._reconcile_at = 0.0
        self._strays_at = 0.0
        self._locks: dict[Key, asyncio.Lock] = {}

    @property
    def is_active(self) -> bool:
        """Whether this instance holds the lease and runs jobs."""
        return self._active and self._lease.is_valid()

    async def _schedule(self) -> None:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            try:
                self._replaced = [worker for worker in self._replaced if await self._launcher.poll(worker) is None]
                await self._launcher.tend()
                if not self._active:
                    continue
                if not self._lease.is_valid():
                    await self._renew()
                    if not self.is_active:
                        await asyncio.sleep(1.0)
                        continue
                for running in list(self._running.values()):
                    await self._look_after(running)
                waiting = sum(running.waits for running in self._running.values())
                note_work(len(self._queue), len(self._running) - waiting, waiting)
                if time.monotonic() >= self._reconcile_at:
                    await self._reconcile()
                if self._launcher.detached and time.monotonic() >= self._strays_at:
                    await self._end_strays()
                await self._start_next()
                if time.monotonic() >= self._tell_at:
                    await self._tell_queue()
            except UnavailableError as error:
                _log.warning("jobs wait: %s", error)
                await asyncio.sleep(2.0)
            except Exception:
                _log.exception("scheduling failed; trying again")
                await asyncio.sleep(2.0)

    async def _start_next(self) -> None:
        if not self._queue:
            # A job may be cancelled while the device is reserved for it.
            await self._launcher.release()
            return
        if any(item.resources.gpu and not item.use.short for item in self._queue):
            await self._launcher.count_wait()
        short_first = await self._launcher.short_first()
        item = self._queue.in_order(short_first=short_first)[0]
        if len(self._running) >= self._settings.worker_count:
            if item.use.short and any(self._use(running.job).gives_way for running in self._running.values()):
                await self._launcher.want(item.use, item.resources)
            return
        if not await self._launcher.reserve(item.use, item.resources):
            return
        async with self._lock(*item.key):
            if item.key not in self._queue:
                return
            started = False

            def next_attempt(job: v1.Job) -> v1.JobEvent | None:
                nonlocal started
                started = job.state == _QUEUED and job.attempt == item.attempt
                return begin(job, waits=self._launcher.detached) if started else None

            try:
                job = await asyncio.to_thread(self.jobs.change, item.project, item.job_id, next_attempt)
            except (NotFoundError, DamagedError) as error:
                self._set_aside(item.key, error)
                return
            self._queue.take(item)
            # Only who has begun the attempt may start a worker; what another instance holds is left to `_reconcile`.
            if not started or not self._active:
                return
            try:
                worker = await self._launcher.start(job, item.resources)
            except OSError as error:
                _log.error("no worker could be started: %s", error, extra={"job": job.id})
                self._running[item.key] = _Running(job, None, _start_error(error))
                return
            if worker is None:
                await self._queue_again(job, "waiting for the device")
                return
            _log.info("worker started", extra={"job": job.id, "attempt": job.attempt})
            note_begin(job, item.since_ns if item.attempt else item.created_ns)
            self._running[item.key] = _Running(job, worker)

    async def _tell_queue(self) -> None:
        """Let jobs in the queue say what they wait for and about how long."""
        self._tell_at = time.monotonic() + _TELL_SECONDS
        if not self._queue or self._launcher.detached:
            return
        holders, short_first = await self._launcher.holders(), await self._launcher.short_first()
        running = [self._use(running.job) for running in self._running.values()]
        for number, item in enumerate(self._queue.in_order(short_first=short_first)[:_TOLD_JOBS]):
            text = waits_for(item, number, holders, running, short_first=short_first)

            def change(job: v1.Job, item: Queued = item, text: str = text) -> None:
                if job.state == _QUEUED and job.attempt == item.attempt:
                    job.message = text

            if self._told.get(item.key) != text:
                with contextlib.suppress(NotFoundError, DamagedError):
                    await asyncio.to_thread(self.jobs.change, item.project, item.job_id, change)
                    self._told[item.key] = text
        self._told = {key: text for key, text in self._told.items() if key in self._queue}

    async def _look_after(self, running: _Running) -> None:
        job = running.job
        if running.error is not None:
            ended: Exit | Waiting | None = Exit(ExitKind.NOT_STARTED, "could not be started")
        else:
            ended = await self._launcher.poll(running.worker)
        if not isinstance(ended, Exit):
            if running.kill_at is not None and time.monotonic() > running.kill_at:
                await self._launcher.stop(running.worker)
            running.waits = ended is not None
            if ended is not None and str(ended) != running.told:
                await self._tell(running, ended)
            return
        note_exit(ended.kind)
        async with self._lock(job.project, job.id):
            try:
                stored = (await asyncio.to_thread(self.jobs.read, job.project, job.id)).job
                # Not if another instance has taken over meanwhile: then a later attempt may be running there.
                begun = stored.state in WORKING_STATES or (self._launcher.detached and stored.state == _QUEUED)
                if self._active and begun and stored.attempt == job.attempt:
                    if running.error is not None:
                        stored = await self._change(stored, partial(fail, running.error))
                    else:
                        stored = await self._settle(stored, ended)
                self._note_end(stored)
            except NotFoundError:
                pass  # it may be deleted between its final state and the end of its worker
            except DamagedError as error:
                _log.error("job %s is left as it is: %s", job.id, error)
            if self._running.get((job.project, job.id)) is running:
                del self._running[job.project, job.id]
            _log.info("worker ended", extra={"job": job.id, "attempt": job.attempt, "how": ended.detail})

    async def _tell(self, running: _Running, waiting: Waiting) -> None:
        """Let a job say what its worker waits for: by an event, unless only the details have changed."""
        known, running.told = running.told, str(waiting)
        attempt, news = running.job.attempt, not known.startswith(waiting.what)

        def change(job: v1.Job) -> v1.JobEvent | None:
            if job.state != _QUEUED or job.attempt != attempt:
                return None
            if news:
                return set_state(job, _QUEUED, str(waiting))
            job.message = str(waiting)
            return None

        with contextlib.suppress(NotFoundError, DamagedError):
            await self._change(running.job, change)

    async def _settle(self, job: v1.Job, ended: Exit) -> v1.Job:
        """Decide what becomes of a job whose worker is gone without a word; return it as it is then."""
        mark = await asyncio.to_thread(self.jobs.cancel_mark, job)
        # What has decided to publish goes on, cancelled or not: others may have seen its output already.
        if mark is not None and not job.HasField("publication"):
            why = str(mark["why"] or "")
            if not mark["keep_best"]:
                return await self._change(
                    job, partial(cancelled, f"cancelled: {why}" if why else "cancelled on request")
                )
            await asyncio.to_thread(self.jobs.mark_cancelled, job, job.attempt + 1, keep_best=True, why=why)
        killed = mark is not None and not mark["keep_best"]
        job = await self._change(job, requeue(job.attempt, ended, counts=not killed))
        if not self._launcher.detached:
            self._take_up(job)
            return job
        # A node that refuses every worker must not be sent one each second; `_reconcile` takes the job up later.
        pause = min(_LONGEST_REST_SECONDS, 2.0 ** min(job.attempt - 3, 10))  # one of 1100 attempts is no float any more
        self._not_before[job.project, job.id] = time.monotonic() + pause
        return job

    async def _reconcile(self) -> None:
        """Take up every job that the store has marked as open and nobody here holds."""
        now = time.monotonic()
        keys = await asyncio.to_thread(self.jobs.open_jobs, self.service.name)
        self._not_before = {key: self._not_before[key] for key in keys if key in self._not_before}
        for key in keys:
            busy = key in self._queue or key in self._running or self._lock(*key).locked()
            if busy or self._not_before.get(key, 0.0) > now:
                continue
            async with self._lock(*key):
                if self.is_active and key not in self._queue and key not in self._running:
                    try:
                        await self._reconcile_one(*key)
                    except (NotFoundError, DamagedError, InvalidInputError) as error:
                        # Its record is damaged or names no place of the store, or its method is one that this version
                        # of the service does not have.
                        self._set_aside(key, error)
        self._reconcile_at = time.monotonic() + _RECONCILE_SECONDS

    async def _reconcile_one(self, project: str, job_id: str) -> None:
        key = project, job_id
        try:
            record = await asyncio.to_thread(self.jobs.read, project, job_id, deleting=True)
        except NotFoundError:
            # It is being admitted, or never came to that.
            if key in self._not_before:
                await asyncio.to_thread(self.jobs.abandon, self.service.name, project, job_id)
            self._not_before[key] = time.monotonic() + _ABANDONED_SECONDS
            return
        job = record.job
        if job.service != self.service.name:
            await asyncio.to_thread(self.jobs.close, self.service.name, project, job_id)
        elif record.deleting:
            await asyncio.to_thread(self.jobs.delete, project, job_id)
        elif job.state in FINAL_STATES:
            await asyncio.to_thread(self.accounts.settle, job)
            left = job.finished_at.ToNanoseconds() / 1e9 + _LEFTOVER_SECONDS - time.time()
            if left > 0:
                self._not_before[key] = time.monotonic() + left
                return
            await asyncio.to_thread(self._remove_leftovers, job)
            await asyncio.to_thread(self.jobs.close, job.service, project, job_id)
        elif (worker := await self._launcher.adopt(job)) is not None:
            await self._adopt(job, worker)
        elif job.state == _QUEUED:
            self._take_up(job)
        else:
            self._note_end(await self._settle(job, _LOST))

    async def _adopt(self, job: v1.Job, worker: Any) -> None:
        """Look after a worker that an instance before has started."""
        running = self._running[job.project, job.id] = _Running(job, worker)
        if job.state == v1.JOB_STATE_CANCELLING:
            mark = await asyncio.to_thread(self.jobs.cancel_mark, job)
            if mark is not None and not mark["keep_best"]:
                running.kill_at = time.monotonic() + self._settings.grace_seconds
        _log.info("worker adopted", extra={"job": job.id, "attempt": job.attempt})

    async def _end_strays(self) -> None:
        """End the workers that belong to no job any more: of attempts that were given up, or of jobs that are gone."""
        for assignment, worker in await self._launcher.found():
            key = assignment.project, assignment.job_id
            running = self._running.get(key)
            if running is not None and running.job.attempt == assignment.attempt:
                continue
            async with self._lock(*key):
                try:
                    job = (await asyncio.to_thread(self.jobs.read, *key)).job
                except NotFoundError:
                    job = v1.Job()
                except DamagedError:
                    continue
                ended = job.finished_at.ToNanoseconds() / 1e9 if job.state in FINAL_STATES else math.inf
                # One of an unfinished job is adopted by `_reconcile`.
                if job.attempt == assignment.attempt and time.time() - ended < _STRAY_SECONDS:
                    continue
                if self.is_active:
                    _log.warning("stray worker ended", extra={"job": key[1], "attempt": assignment.attempt})
                    await self._launcher.stop(worker)
        self._strays_at = time.monotonic() + _STRAY_SECONDS

    def _remove_leftovers(self, job: v1.Job) -> None:
        """Remove what attempts of an ended job have left beside what it published."""
        place = Location.parse(job.reserved_uri)
        kept = []
        if job.HasField("publication"):
            try:
                kept = [entry.name for entry in Manifest.read(self.store, place / job.publication.manifest).files]
            except (NotFoundError, DamagedError) as error:
                _log.warning("files of other attempts stay: %s", error, extra={"job": job.id})
                return
        removed = remove_leftovers(self.store, place, kept)
        if removed:
            _log.info("files of other attempts removed", extra={"job": job.id, "files": removed})

    def _set_aside(self, key: Key, error: ParfocalError) -> None:
        """Leave a job alone whose record cannot be used; it is looked at again some time."""
        _log.error("job %s is left out: %s", key[1], error)
        self._queue.drop(key)
        self._not_before[key] = time.monotonic() + _LEFTOVER_SECONDS

    async def _queue_again(self, job: v1.Job, why: str) -> None:
        """Queue a job again that has lost its worker for a reason of ours."""
        attempt = job.attempt

        def change(job: v1.Job) -> v1.JobEvent | None:
            return None if job.state in FINAL_STATES or job.attempt != attempt else queue_again(job, why)

        self._take_up(await self._change(job, change))

    def _take_up(self, job: v1.Job) -> None:
        """Put a job into the queue if it waits for its turn; no worker of this instance has it."""
        if self._active and job.state == _QUEUED and job.service == self.service.name:
            self._queue.put(Queued.of(job, self._use(job), self._resources(job)))
            self._tell_at = 0.0

    def _note_end(self, job: v1.Job) -> None:
        """Count a job that has just come to its end, if it has."""
        if job.state in FINAL_STATES:
            note_end(job, has_device=self._resources(job).gpu > 0)

    def _resources(self, job: v1.Job) -> Resources:
        method = self.service.method(job.method)
        resources = method.work_of(job_kind(job)).resources
        if job.prediction.part_uris:
            # What networks have computed is put together: no device is needed for that.
            return replace(resources, gpu=0)
        if self._settings.capacity_dir is None or not job.HasField("training"):
            return resources
        try:
            memory = needed_memory(self._settings.capacity_dir, method, struct_values(job.training.parameters))
        except ParfocalError as error:
            _log.warning("the memory of job %s stays the usual one: %s", job.id, error.message)
            return resources
        return resources if memory is None else replace(resources, memory_gib=memory)

    def _use(self, job: v1.Job) -> Use:
        return Use.of(job, self._settings.short_prediction_images)

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_seconds / 3)
            await self._renew()

    async def _renew(self) -> None:
        async with self._renewing:
            try:
                if not self._tried:
                    await asyncio.to_thread(check_promises, self.store)
                    self._tried = True
                held = await asyncio.to_thread(self._lease.hold)
            except PreconditionError as error:
                _log.error("%s", error)
                self.refused = error
                return
            except UnavailableError as error:
                # Without the store nobody else can take over either; workers wait for it as well.
                _log.warning("the lease could not be renewed: %s", error)
                return
            if held and not self._active:
                self.jobs.forget_all()
                self._not_before.clear()
                self._reconcile_at = 0.0
                self._active = True
                _log.info("this instance runs the jobs of %s", self.service.name)
            elif not held and self._active:
                _log.error("another instance has taken over; it has the workers of this one, or they are ended")
                self._active = False
                if not self._launcher.detached:
                    for running in self._running.values():
                        if running.error is None:
                            await self._launcher.stop(running.worker)
                            self._replaced.append(running.worker)
                    await self._launcher.dismiss()
                self._running.clear()
                self._queue.clear()

    async def _change(self, job: v1.Job, change: Callable[[v1.Job], v1.JobEvent | None]) -> v1.Job:
        return await asyncio.to_thread(self.jobs.change, job.project, job.id, change)

    def _lock(self, project: str, job_id: str) -> asyncio.Lock:
        if len(self._locks) > 1000:
            self._locks = {key: lock for key, lock in self._locks.items() if lock.locked()}
        return self._locks.setdefault((project, job_id), asyncio.Lock())


def _start_error(error: OSError) -> ParfocalError:
    """Return why no worker could be started. It is not tried again by itself: that would fail the same way."""
    translated = translate_disk_error(error)
    if isinstance(translated, ParfocalError):
        return translated
    return UnavailableError(f"No worker could be started on this machine: {error}.")
