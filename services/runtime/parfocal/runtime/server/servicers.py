"""The RPCs of the contract, in terms of a controller and the job records."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from parfocal import v1
from parfocal.runtime.access.calls import current
from parfocal.runtime.access.gate import authorise, authorise_anywhere
from parfocal.runtime.errors import (
    DamagedError,
    InvalidInputError,
    InvalidParameterError,
    NotFoundError,
    Violation,
)
from parfocal.runtime.jobs.controller import Controller
from parfocal.runtime.jobs.previews import read_preview
from parfocal.runtime.jobs.records import FINAL_STATES, JobStore
from parfocal.runtime.methods.capacity import read_capacity
from parfocal.runtime.methods.service import Service
from parfocal.runtime.server.forwarding import Images
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.confinement import authorise_reading
from parfocal.runtime.store.names import check_name, is_name, new_request_id
from parfocal.runtime.store.store import Location, Store

_log = logging.getLogger(__name__)
_WATCH_SECONDS = 0.3
_PAGE_SIZE = 50
_LARGEST_PAGE = 500
_LONGEST_TIME = 20  # digits of nanoseconds since 1970


class JobServicer(v1.JobServiceServicer):
    """Starts, watches and ends the jobs of one service."""

    def __init__(self, controller: Controller, settings: Settings) -> None:
        self._controller = controller
        self._jobs: JobStore = controller.jobs
        self._settings = settings

    async def StartJob(self, request: v1.StartJobRequest, _context: object) -> v1.StartJobResponse:  # noqa: N802
        """Admit a job."""
        request.request_id = request.request_id or new_request_id(request.WhichOneof("spec") or "job")
        request.project = await self._authorised(request.project, request.request_id)
        call = current()
        job = await self._controller.submit(
            request,
            created_by=call.author,
            requested_by=call.identity.name if call.acts_for else "",
            limits=call.gate.limits(request.project),
        )
        return v1.StartJobResponse(job=job)

    async def GetJob(self, request: v1.GetJobRequest, _context: object) -> v1.GetJobResponse:  # noqa: N802
        """Return one job."""
        project = await self._authorised(request.project, request.job_id)
        record = await asyncio.to_thread(self._jobs.read, project, request.job_id)
        return v1.GetJobResponse(job=record.job)

    async def ListJobs(self, request: v1.ListJobsRequest, _context: object) -> v1.ListJobsResponse:  # noqa: N802
        """Return one page of this service's jobs."""
        project = await self._authorised(request.project)
        if request.page_size < 0:
            raise InvalidInputError("page_size must not be negative.", [Violation("page_size", "must not be negative")])
        after = _place(request.page_token) if request.page_token else None
        jobs = await asyncio.to_thread(
            self._jobs.jobs_of,
            self._controller.service.name,
            project,
            remember=self._controller.is_active,
            further=after is not None,
        )
        if request.states:
            jobs = [listed for listed in jobs if listed.state in request.states]
        if after is not None:
            jobs = [listed for listed in jobs if listed.place < after]
        size = min(request.page_size or _PAGE_SIZE, _LARGEST_PAGE)
        token = f"{jobs[size - 1].created_ns}/{jobs[size - 1].job_id}" if len(jobs) > size else ""
        return v1.ListJobsResponse(jobs=[listed.job() for listed in jobs[:size]], next_page_token=token)

    async def WatchJob(  # noqa: N802
        self, request: v1.WatchJobRequest, _context: object
    ) -> AsyncIterator[v1.WatchJobResponse]:
        """Report a job until it ends. Everything comes from the store, so any instance can be asked."""
        project = await self._authorised(request.project, request.job_id)
        if request.after_sequence < 0:
            text = f"must be 0, for all events, or the number of an event, not {request.after_sequence}"
            raise InvalidParameterError(f"after_sequence {text}.", [Violation("after_sequence", text)])
        after, etag, call = request.after_sequence, "", current()
        while True:
            call.require_current()
            # The caller's role may have been withdrawn meanwhile.
            await authorise(project, request.job_id)
            record = await asyncio.to_thread(self._jobs.read, project, request.job_id)
            if record.etag != etag:
                etag = record.etag
                events = await asyncio.to_thread(lambda: list(self._jobs.events(record, after)))  # noqa: B023
                for event in events:
                    after = event.sequence
                    yield v1.WatchJobResponse(job=record.job, event=event)
                if not events:
                    yield v1.WatchJobResponse(job=record.job)
            if record.job.state in FINAL_STATES:
                return
            await asyncio.sleep(_WATCH_SECONDS)

    async def CancelJob(self, request: v1.CancelJobRequest, _context: object) -> v1.CancelJobResponse:  # noqa: N802
        """Ask a job to end."""
        project = await self._changeable(request.project, request.job_id)
        job = await self._controller.cancel(project, request.job_id, keep_best=request.keep_best, why=request.why)
        return v1.CancelJobResponse(job=job)

    async def ResumeJob(self, request: v1.ResumeJobRequest, _context: object) -> v1.ResumeJobResponse:  # noqa: N802
        """Continue a failed or cancelled training."""
        project = await self._changeable(request.project, request.job_id)
        job = await self._controller.resume(project, request.job_id, current().gate.limits(project))
        return v1.ResumeJobResponse(job=job)

    async def DeleteJob(self, request: v1.DeleteJobRequest, _context: object) -> v1.DeleteJobResponse:  # noqa: N802
        """Move the record of an ended job to the trash."""
        project = await self._changeable(request.project, request.job_id)
        await self._controller.delete(project, request.job_id)
        return v1.DeleteJobResponse()

    async def ReadPreview(self, request: v1.ReadPreviewRequest, _context: object) -> v1.ReadPreviewResponse:  # noqa: N802
        """Return one picture of a preview of a training."""
        project = await self._authorised(request.project, request.job_id)
        record = await asyncio.to_thread(self._jobs.read, project, request.job_id)
        png = await asyncio.to_thread(read_preview, self._jobs, record.job, request.epoch, request.picture)
        return v1.ReadPreviewResponse(png=png)

    async def ListUsage(self, request: v1.ListUsageRequest, _context: object) -> v1.ListUsageResponse:  # noqa: N802
        """Return what a project has used, of all services."""
        project = await self._authorised(request.project)
        account = await asyncio.to_thread(self._controller.accounts.read, project)
        return v1.ListUsageResponse(
            usage=[
                v1.DeviceUsage(
                    month=month, user=user, service=service, jobs=use.jobs, device_seconds=use.device_seconds
                )
                for month, users in sorted(account.months.items())
                if not request.month or month == request.month
                for user, services in sorted(users.items())
                for service, use in sorted(services.items())
            ],
            active_jobs=len(account.active),
        )

    async def _authorised(self, name: str, target: str = "") -> str:
        """Return the project that a call is about, which its caller may make."""
        project = check_name("project", name or self._settings.project)
        await authorise(project, target)
        return project

    async def _changeable(self, name: str, job_id: str) -> str:
        """Return the project of a job that the caller may change."""
        project = check_name("project", name or self._settings.project)

        async def owner() -> str:
            # A job whose deletion has begun is there for whoever goes on with it.
            return (await asyncio.to_thread(self._jobs.read, project, job_id, deleting=True)).job.created_by

        await authorise(project, job_id, owner)
        return project


def _place(token: str) -> tuple[int, str]:
    """Return the place in order of time that a page ended at; its job may have ended or been deleted since."""
    created, slash, job_id = token.partition("/")
    if not created.isdecimal() or len(created) > _LONGEST_TIME or not slash:
        raise InvalidInputError("The page_token is none that this call returned; begin again without it.")
    return int(created), job_id


class MethodServicer(v1.MethodServiceServicer):
    """Says what the service offers, and predicts single images."""

    def __init__(self, service: Service, store: Store, images: Images, settings: Settings) -> None:
        self._store = store
        self._images = images
        self._settings = settings
        self._answer = v1.ListMethodsResponse(
            service=service.name,
            methods=[method.to_proto() for method in sorted(service.methods, key=lambda method: method.name)],
            environment=service.environment(image=settings.image),
            devices=max(1, len(settings.device_numbers)) if settings.launcher == "local" else 0,
        )

    async def ListMethods(self, _request: v1.ListMethodsRequest, _context: object) -> v1.ListMethodsResponse:  # noqa: N802
        """List the methods of this service."""
        authorise_anywhere()
        folder = self._settings.capacity_dir
        return self._answer if folder is None else await asyncio.to_thread(self._with_capacities, folder)

    def _with_capacities(self, folder: Path) -> v1.ListMethodsResponse:
        """Return the answer with what was measured of the methods until now."""
        answer = v1.ListMethodsResponse()
        answer.CopyFrom(self._answer)
        for method in answer.methods:
            try:
                method.capacity.CopyFrom(read_capacity(folder, method.name).message())
            except NotFoundError:
                continue
            except DamagedError as error:
                _log.warning("what was measured of %s is left out: %s", method.name, error.message)
        return answer

    async def PredictImage(  # noqa: N802
        self, request_iterator: AsyncIterator[v1.PredictImageRequest], _context: object
    ) -> AsyncIterator[v1.PredictImageResponse]:
        """Predict one image."""
        first = await anext(aiter(request_iterator), None)
        if first is None or not first.HasField("header"):
            authorise_anywhere()
            raise InvalidInputError("The first message of PredictImage must be the header; pixels follow it.")
        await self._authorise_model(first.header.model_uri)
        async with contextlib.aclosing(self._images.predict(_from(first, request_iterator))) as answers:
            async for answer in answers:
                yield answer

    async def _authorise_model(self, uri: str) -> None:
        """Authorise the use of a model; where there are identities, it must be one of a project."""
        if current().gate.is_open:
            authorise_anywhere()
            return
        place = Location.parse(uri)
        project = place.key.partition("/")[0]
        if place.bucket != self._settings.bucket_models or not is_name(project):
            authorise_anywhere()
            raise NotFoundError(f"There is no published model at {uri}.")
        await authorise_reading(self._store, place, project, uri)


async def _from(
    first: v1.PredictImageRequest, others: AsyncIterator[v1.PredictImageRequest]
) -> AsyncIterator[v1.PredictImageRequest]:
    """Yield a message that was read already, then the others."""
    yield first
    async for message in others:
        yield message
