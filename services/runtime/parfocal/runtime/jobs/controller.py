"""Carries out what clients ask for about jobs: admits, cancels, resumes and deletes them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

from parfocal import v1
from parfocal.runtime.access.identity import UNVERIFIED
from parfocal.runtime.access.policy import Limits
from parfocal.runtime.errors import NotFoundError, ParfocalError, PreconditionError, QueueFullError, UnavailableError
from parfocal.runtime.jobs.accounts import UNLIMITED, device_seconds
from parfocal.runtime.jobs.admission import admit
from parfocal.runtime.jobs.exits import Exit, ExitKind
from parfocal.runtime.jobs.launcher import Launcher
from parfocal.runtime.jobs.records import FINAL_STATES, WORKING_STATES, set_state
from parfocal.runtime.jobs.requeue import cancelled, require_resumable
from parfocal.runtime.jobs.scheduler import Scheduler
from parfocal.runtime.methods.service import Service
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.housekeeping import tidy_machine, tidy_store
from parfocal.runtime.store.names import check_request_id
from parfocal.runtime.store.store import Store

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_QUEUED = v1.JOB_STATE_QUEUED
_TIDY_SECONDS = 3600.0
# Waited at the end for requests that are being carried out.
_STOP_SECONDS = 10.0
_STOPPED = Exit(ExitKind.INTERRUPTED, "was ended with its service")


class Controller(Scheduler):
    """Runs the jobs of one service, and does with them what clients ask for.

    All methods belong to one event loop; the store is asked in threads.
    """

    def __init__(self, service: Service, store: Store, launcher: Launcher[Any], settings: Settings) -> None:
        super().__init__(service, store, launcher, settings)
        self._admitting = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._requests: set[asyncio.Task[Any]] = set()
        self._stopped = threading.Event()

    async def start(self) -> None:
        """Begin to run jobs as soon as the lease is free; returns after the first attempt to take it."""
        await self._renew()
        self._tasks = [asyncio.create_task(self._keep_lease()), asyncio.create_task(self._schedule())]
        # No task: its threads would be waited for at the end, and a full trash takes minutes. It may stop anywhere.
        threading.Thread(target=self._tidy, name="housekeeping", daemon=True).start()

    async def stop(self) -> None:
        """End the workers that do not outlive this, and give the lease back; jobs go on when a service starts again."""
        self._stopped.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._requests:
            await asyncio.wait(self._requests, timeout=_STOP_SECONDS)
        # Those of a launcher whose workers outlive it are left to the next instance.
        held = [] if self._launcher.detached else list(self._running.values())
        ending = [running for running in held if running.error is None]
        for running in ending:
            await self._launcher.stop(running.worker)
        # Before they are waited for: a worker that is still to be forked would be waited for as long as that takes.
        if ending:
            await self._launcher.dismiss()
        for running in ending:
            while await self._launcher.poll(running.worker) is None:
                await asyncio.sleep(0.01)
        while not await self._launcher.dismiss():
            await asyncio.sleep(0.01)
        if self.is_active:
            for running in held:
                with contextlib.suppress(ParfocalError):
                    await self._settle_stopped(running.job)
            with contextlib.suppress(ParfocalError):
                await asyncio.to_thread(self._lease.release)
        self._active = False

    async def _settle_stopped(self, job: v1.Job) -> None:
        """Queue a job again whose worker was ended with the service, or cancel it if that was asked for before."""
        stored = (await asyncio.to_thread(self.jobs.read, job.project, job.id)).job
        if stored.state in WORKING_STATES and stored.attempt == job.attempt:
            await self._settle(stored, _STOPPED)

    async def submit(
        self,
        request: v1.StartJobRequest,
        created_by: str = UNVERIFIED.name,
        requested_by: str = "",
        limits: Limits = UNLIMITED,
    ) -> v1.Job:
        """Admit a job, or return the one that the same request started before.

        Parameters
        ----------
        created_by
            Who starts it.
        requested_by
            Who asks on their behalf; empty: they themselves.
        limits
            What the project may use.
        """
        return await self._carry_out(self._submit(request, created_by, requested_by, limits))

    async def cancel(self, project: str, job_id: str, *, keep_best: bool, why: str) -> v1.Job:
        """Ask a job to end; one without a worker ends at once, an ended one is returned as it is.

        A job that is already publishing is returned as it is, too: it will have succeeded in a moment.
        """
        return await self._carry_out(self._cancel(project, job_id, keep_best=keep_best, why=why))

    async def resume(self, project: str, job_id: str, limits: Limits = UNLIMITED) -> v1.Job:
        """Queue a failed or cancelled training again, within the limits; it continues from its last checkpoint."""
        return await self._carry_out(self._resume(project, job_id, limits))

    async def delete(self, project: str, job_id: str) -> None:
        """Move the record of an ended job to the trash."""
        await self._carry_out(self._delete(project, job_id))

    async def _carry_out(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Do what was asked for to its end, whatever becomes of the client who asked."""
        task = asyncio.create_task(work)
        self._requests.add(task)

        def forget(task: asyncio.Task[Any]) -> None:
            self._requests.discard(task)
            if not task.cancelled():
                task.exception()  # nobody else asks for it once the client is gone

        task.add_done_callback(forget)
        return await asyncio.shield(task)

    async def _submit(self, request: v1.StartJobRequest, created_by: str, requested_by: str, limits: Limits) -> v1.Job:
        await self._require_active()
        async with self._lock(request.project, request.request_id):
            known = await asyncio.to_thread(self.jobs.repeated, request)
            if known is not None:
                self._take_up(known)
                return known
            occupied = len(self._queue) + len(self._running) + self._admitting
            if occupied >= self._settings.max_active_jobs:
                raise QueueFullError(
                    f"The service {self.service.name!r} has {occupied} jobs already, as many as it admits. "
                    "Try again when some have ended."
                )
            self._admitting += 1
            try:
                job = await asyncio.to_thread(self._admit, request, created_by, requested_by, limits)
            finally:
                self._admitting -= 1
            self._take_up(job)
            return job

    def _admit(self, request: v1.StartJobRequest, created_by: str, requested_by: str, limits: Limits) -> v1.Job:
        project, job_id = request.project, request.request_id
        check_request_id(job_id)
        self.accounts.reserve(project, job_id, user=created_by, service=self.service.name, limits=limits)
        try:
            return admit(self.service, self.store, self.jobs, request, created_by=created_by, requested_by=requested_by)
        except UnavailableError:
            # It may have been stored; if not, its place is given back when the limit is reached.
            raise
        except Exception:
            self.accounts.release(project, job_id)
            raise

    async def _cancel(self, project: str, job_id: str, *, keep_best: bool, why: str) -> v1.Job:
        await self._require_active()
        async with self._lock(project, job_id):
            job = (await asyncio.to_thread(self.jobs.read, project, job_id)).job
            self._require_own(job)
            if job.state in FINAL_STATES or job.HasField("publication"):
                return job
            if keep_best and job.WhichOneof("spec") != "training":
                raise PreconditionError(f"Job {job_id} trains no model, so there are no best weights to keep.")
            reason = f"cancelled: {why}" if why else "cancelled on request"
            running = self._running.get((project, job_id))
            if keep_best and running is None and job.state == _QUEUED and job.checkpoints:
                return await self._keep_best_later(job, why)
            if running is None or job.state == _QUEUED:
                job = await self._change(job, partial(cancelled, reason))
                if running is not None:
                    await self._launcher.stop(running.worker)
                else:
                    self._note_end(job)
                return job
            await asyncio.to_thread(
                self.jobs.mark_cancelled, running.job, running.job.attempt, keep_best=keep_best, why=why
            )

            def cancelling(job: v1.Job) -> v1.JobEvent | None:
                if job.state in FINAL_STATES or job.HasField("publication"):
                    return None
                ending = "ending training early, keeping the best weights" if keep_best else reason
                return set_state(job, v1.JOB_STATE_CANCELLING, ending)

            job = await self._change(job, cancelling)
            if job.state == v1.JOB_STATE_CANCELLING and not keep_best:
                running.kill_at = time.monotonic() + self._settings.grace_seconds
            return job

    async def _keep_best_later(self, job: v1.Job, why: str) -> v1.Job:
        """Let a training that waits for its device publish its best weights as soon as it has it again."""
        await asyncio.to_thread(self.jobs.mark_cancelled, job, job.attempt + 1, keep_best=True, why=why)

        def noted(job: v1.Job) -> None:
            job.message = "keeps its best weights as soon as it has the device again"

        return await self._change(job, noted)

    async def _resume(self, project: str, job_id: str, limits: Limits) -> v1.Job:
        await self._require_active()
        async with self._lock(project, job_id):
            job = (await asyncio.to_thread(self.jobs.read, project, job_id)).job
            self._require_own(job)
            if job.WhichOneof("spec") != "training":
                raise PreconditionError(f"Job {job_id} is no training; start it again instead of resuming it.")
            require_resumable(job)

            def queued(job: v1.Job) -> v1.JobEvent:
                require_resumable(job)
                job.ClearField("error")
                job.lost_workers = 0
                return set_state(job, _QUEUED, "resumed: waiting for its turn")

            await asyncio.to_thread(
                self.accounts.reserve,
                project,
                job_id,
                user=job.created_by,
                service=job.service,
                limits=limits,
                billed=device_seconds(job),
            )
            await asyncio.to_thread(self.jobs.mark_open, job)
            await asyncio.to_thread(self.jobs.unmark_cancelled, job, job.attempt + 1)
            self._not_before.pop((project, job_id), None)
            job = await self._change(job, queued)
            self._take_up(job)
            return job

    async def _delete(self, project: str, job_id: str) -> None:
        await self._require_active()
        async with self._lock(project, job_id):
            job = (await asyncio.to_thread(self.jobs.read, project, job_id, deleting=True)).job
            self._require_own(job)
            if job.state in FINAL_STATES:
                await asyncio.to_thread(self.accounts.settle, job)
            await asyncio.to_thread(self.jobs.delete, project, job_id)
            await asyncio.to_thread(self._remove_leftovers, job)

    def _tidy(self) -> None:
        """Clean up now and every hour. Every instance does so for its machine, the active one for the store as well."""
        while True:
            tidy_machine(self._settings)
            if self.is_active:
                tidy_store(self.store, self._settings)
                try:
                    self.jobs.mark_forgotten(self.service.name)
                except ParfocalError as error:
                    _log.warning("jobs without a mark could not be looked for: %s", error)
            if self._stopped.wait(_TIDY_SECONDS):
                return

    async def _require_active(self) -> None:
        if self.refused is not None:
            raise self.refused
        if self._active and not self._lease.is_valid():
            # The process was paused, or the store was away: somebody else may have taken over.
            await self._renew()
        if not self.is_active:
            raise UnavailableError(
                f"This instance of {self.service.name!r} does not run jobs at the moment: another one does, "
                "or the store does not answer. Try again."
            )

    def _require_own(self, job: v1.Job) -> None:
        if job.service != self.service.name:
            raise NotFoundError(f"Job {job.id} belongs to the service {job.service!r}, not to {self.service.name!r}.")
