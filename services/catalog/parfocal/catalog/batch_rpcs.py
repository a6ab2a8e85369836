"""The RPCs of the catalogue for batches and schedules."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from parfocal import v1
from parfocal.catalog.batches import Batches, Ledger
from parfocal.catalog.rpcs import Rpcs
from parfocal.catalog.schedules import Schedules, refusal
from parfocal.catalog.threads import in_thread
from parfocal.runtime.access.calls import current
from parfocal.runtime.errors import InvalidInputError, Violation
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.names import check_name
from parfocal.runtime.store.store import Store


class BatchRpcs(Rpcs):
    """Answers what concerns batches and schedules; a part of `CatalogServicer`."""

    def __init__(self, store: Store, settings: Settings) -> None:
        super().__init__(store, settings)
        self._batches = Batches(store)
        self._schedules = Schedules(store)

    async def OpenBatch(self, request: v1.OpenBatchRequest, _context: object) -> v1.OpenBatchResponse:  # noqa: N802
        """Open the ledger of a batch."""
        project, person = await self._admit(request.project, request.batch)
        ledger = await asyncio.to_thread(
            self._batches.open, project, request.batch, request.source_uri, request.output_uri, person
        )
        return v1.OpenBatchResponse(seconds_per_image=await asyncio.to_thread(ledger.pace), caller=person)

    async def ListBatchInputs(  # noqa: N802
        self, request: v1.ListBatchInputsRequest, _context: object
    ) -> AsyncIterator[v1.ListBatchInputsResponse]:
        """List the images of a batch, and how far each has come."""
        ledger, _ = await self._ledger(request)
        async for inputs in in_thread(ledger.inputs(brief=request.brief)):
            yield v1.ListBatchInputsResponse(inputs=inputs)

    async def TakeBatchInputs(  # noqa: N802
        self, request: v1.TakeBatchInputsRequest, _context: object
    ) -> v1.TakeBatchInputsResponse:
        """Take images for a job."""
        ledger, _ = await self._ledger(request)
        return v1.TakeBatchInputsResponse(names=await asyncio.to_thread(ledger.take, request.job, request.inputs))

    async def EndBatchInputs(  # noqa: N802
        self, request: v1.EndBatchInputsRequest, _context: object
    ) -> v1.EndBatchInputsResponse:
        """Deliver what was made of images, and record how they came to their end."""
        ledger, project = await self._ledger(request)
        limit = current().gate.limits(project).stored_gib
        if limit is not None:
            sizes = await asyncio.to_thread(ledger.sizes, request.outcomes)
            await asyncio.to_thread(self._room.reserve, project, sizes, limit)
        names, missing = await asyncio.to_thread(ledger.end, request.table, request.outcomes)
        if request.seconds_per_image > 0:
            await asyncio.to_thread(ledger.note_pace, request.seconds_per_image)
        return v1.EndBatchInputsResponse(names=names, missing=missing)

    async def CreateSchedule(  # noqa: N802
        self, request: v1.CreateScheduleRequest, _context: object
    ) -> v1.CreateScheduleResponse:
        """Record what a schedule may do, and that the caller made it."""
        project, _ = await self._admit(request.project, request.schedule.name)
        record = await asyncio.to_thread(self._schedules.create, project, request.schedule, current())
        return v1.CreateScheduleResponse(schedule=record.message())

    async def CheckSchedule(  # noqa: N802
        self, request: v1.CheckScheduleRequest, _context: object
    ) -> v1.CheckScheduleResponse:
        """Return what a schedule may do, and whether it still may."""
        project, _ = await self._admit(request.project, request.name)
        record = await asyncio.to_thread(self._schedules.read, project, request.name)
        return v1.CheckScheduleResponse(schedule=record.message(), refusal=refusal(current().gate, project, record))

    async def DeleteSchedule(  # noqa: N802
        self, request: v1.DeleteScheduleRequest, _context: object
    ) -> v1.DeleteScheduleResponse:
        """Remove the record of a schedule."""
        project = check_name("project", request.project or self._settings.project)

        async def owner() -> str:
            return (await asyncio.to_thread(self._schedules.read, project, request.name)).created_by

        await self._admit(project, request.name, owner)
        await asyncio.to_thread(self._schedules.delete, project, request.name)
        return v1.DeleteScheduleResponse()

    async def _ledger(
        self, request: v1.ListBatchInputsRequest | v1.TakeBatchInputsRequest | v1.EndBatchInputsRequest
    ) -> tuple[Ledger, str]:
        """Return the ledger that a request is about, and its project."""
        project, _ = await self._admit(request.project, request.batch)
        if not request.batch:
            text = "must name a batch that was opened"
            raise InvalidInputError(f"The field `batch` {text}.", [Violation("batch", text)])
        return await asyncio.to_thread(self._batches.find, project, request.batch), project
