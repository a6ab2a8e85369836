"""The RPCs of the contract, in terms of a controller and the job records."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from parfocal import v1
from parfocal.runtime.errors import InvalidInputError, InvalidParameterError, Violation
from parfocal.runtime.jobs.controller import Controller
from parfocal.runtime.jobs.records import FINAL_STATES, JobStore
from parfocal.runtime.methods.service import Service
from parfocal.runtime.server.forwarding import Images
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.names import check_name, new_request_id

_WATCH_SECONDS = 0.3
_PAGE_SIZE = 50
_LARGEST_PAGE = 500


class JobServicer(v1.JobServiceServicer):
    """Starts, watches and ends the jobs of one service."""

    def __init__(self, controller: Controller, settings: Settings) -> None:
        self._controller = controller
        self._jobs: JobStore = controller.jobs
        self._settings = settings

    async def StartJob(self, request: v1.StartJobRequest, _context: object) -> v1.StartJobResponse:  # noqa: N802
        """Admit a job."""
        request.project = self._project(request.project)
        request.request_id = request.request_id or new_request_id(request.WhichOneof("spec") or "job")
        return v1.StartJobResponse(job=await self._controller.submit(request))

    async def GetJob(self, request: v1.GetJobRequest, _context: object) -> v1.GetJobResponse:  # noqa: N802
        """Return one job."""
        record = await asyncio.to_thread(self._jobs.read, self._project(request.project), request.job_id)
        return v1.GetJobResponse(job=record.job)

    async def ListJobs(self, request: v1.ListJobsRequest, _context: object) -> v1.ListJobsResponse:  # noqa: N802
        """Return one page of this service's jobs."""
        after = _place(request.page_token) if request.page_token else None
        jobs = await asyncio.to_thread(
            self._jobs.jobs_of,
            self._controller.service.name,
            self._project(request.project),
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
        if request.after_sequence < 0:
            text = f"must be 0, for all events, or the number of an event, not {request.after_sequence}"
            raise InvalidParameterError(f"after_sequence {text}.", [Violation("after_sequence", text)])
        project, after, etag = self._project(request.project), request.after_sequence, ""
        while True:
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
        job = await self._controller.cancel(
            self._project(request.project), request.job_id, keep_best=request.keep_best, why=request.why
        )
        return v1.CancelJobResponse(job=job)

    async def ResumeJob(self, request: v1.ResumeJobRequest, _context: object) -> v1.ResumeJobResponse:  # noqa: N802
        """Continue a failed or cancelled training."""
        job = await self._controller.resume(self._project(request.project), request.job_id)
        return v1.ResumeJobResponse(job=job)

    async def DeleteJob(self, request: v1.DeleteJobRequest, _context: object) -> v1.DeleteJobResponse:  # noqa: N802
        """Move the record of an ended job to the trash."""
        await self._controller.delete(self._project(request.project), request.job_id)
        return v1.DeleteJobResponse()

    def _project(self, name: str) -> str:
        return check_name("project", name or self._settings.project)


def _place(token: str) -> tuple[int, str]:
    """Return the place in order of time that a page ended at; its job may have ended or been deleted since."""
    created, slash, job_id = token.partition("/")
    if not created.isdecimal() or not slash:
        raise InvalidInputError("The page_token is none that this call returned; begin again without it.")
    return int(created), job_id


class MethodServicer(v1.MethodServiceServicer):
    """Says what the service offers, and predicts single images."""

    def __init__(self, service: Service, images: Images, settings: Settings) -> None:
        self._images = images
        self._answer = v1.ListMethodsResponse(
            service=service.name,
            methods=[method.to_proto() for method in sorted(service.methods, key=lambda method: method.name)],
            environment=service.environment(image=settings.image),
        )

    async def ListMethods(self, _request: v1.ListMethodsRequest, _context: object) -> v1.ListMethodsResponse:  # noqa: N802
        """List the methods of this service."""
        return self._answer

    async def PredictImage(  # noqa: N802
        self, request_iterator: AsyncIterator[v1.PredictImageRequest], _context: object
    ) -> AsyncIterator[v1.PredictImageResponse]:
        """Predict one image."""
        async with contextlib.aclosing(self._images.predict(request_iterator)) as answers:
            async for answer in answers:
                yield answer
