"""The RPCs of the catalogue for inboxes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from parfocal import v1
from parfocal.catalog.inboxes import Inboxes
from parfocal.catalog.rpcs import Rpcs
from parfocal.catalog.threads import in_thread
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.store import Store


class InboxRpcs(Rpcs):
    """Answers what concerns inboxes; a part of `CatalogServicer`."""

    def __init__(self, store: Store, settings: Settings) -> None:
        super().__init__(store, settings)
        self._inboxes = Inboxes(store)

    async def ListInboxes(self, request: v1.ListInboxesRequest, _context: object) -> v1.ListInboxesResponse:  # noqa: N802
        """List the inboxes of a project."""
        project, _ = await self._admit(request.project)
        return v1.ListInboxesResponse(inboxes=await asyncio.to_thread(self._inboxes.of, project))

    async def ListInboxFiles(  # noqa: N802
        self, request: v1.ListInboxFilesRequest, _context: object
    ) -> AsyncIterator[v1.ListInboxFilesResponse]:
        """List the files of an inbox."""
        project, _ = await self._admit(request.project, request.inbox)
        async for files in in_thread(self._inboxes.files(project, request.inbox, request.folder)):
            yield v1.ListInboxFilesResponse(files=files)

    async def ReadInboxFile(  # noqa: N802
        self, request: v1.ReadInboxFileRequest, _context: object
    ) -> AsyncIterator[v1.ReadInboxFileResponse]:
        """Read one file of an inbox."""
        project, _ = await self._admit(request.project, request.inbox)
        async for data in in_thread(self._inboxes.chunks(project, request.inbox, request.name)):
            yield v1.ReadInboxFileResponse(data=data)
