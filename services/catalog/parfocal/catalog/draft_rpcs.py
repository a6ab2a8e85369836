"""The RPCs of drafts."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

from parfocal import v1
from parfocal.catalog.drafts import KINDS, LARGEST_FILE, Change, Drafts, ImageState, Lease, Record
from parfocal.catalog.rpcs import Rpcs
from parfocal.catalog.threads import in_thread
from parfocal.runtime.access.calls import current
from parfocal.runtime.errors import InvalidInputError, Violation
from parfocal.runtime.server.streams import next_message
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.housekeeping import scratch_folder
from parfocal.runtime.store.store import Store


class DraftRpcs(Rpcs):
    """Answers what the catalogue is asked of drafts; a part of `CatalogServicer`."""

    def __init__(self, store: Store, settings: Settings) -> None:
        super().__init__(store, settings)
        self._drafts = Drafts(store)

    async def CreateDraft(self, request: v1.CreateDraftRequest, _context: object) -> v1.CreateDraftResponse:  # noqa: N802
        """Create a draft, or return the one that the same request id created."""
        project, person = await self._admit(request.project, request.request_id)
        if request.kind not in KINDS:
            text = f"must be one of {', '.join(KINDS)}"
            raise InvalidInputError(f"The kind {text}.", [Violation("kind", text)])
        record = Record(
            title=request.title,
            kind=request.kind,  # type: ignore[arg-type]
            base_uri=request.base_uri.rstrip("/"),
            model_uri=request.model_uri.rstrip("/"),
            classes=tuple(request.classes),
            created_at=datetime.now(UTC),
            created_by=person,
        )
        made = await asyncio.to_thread(self._drafts.create, project, request.request_id, record)
        return v1.CreateDraftResponse(draft=_draft(project, request.request_id, made))

    async def ListDrafts(self, request: v1.ListDraftsRequest, _context: object) -> v1.ListDraftsResponse:  # noqa: N802
        """List the drafts of a project."""
        project, _ = await self._admit(request.project)
        found = await asyncio.to_thread(self._drafts.all, project)
        return v1.ListDraftsResponse(drafts=[_draft(project, name, record) for name, record in found])

    async def GetDraft(self, request: v1.GetDraftRequest, _context: object) -> v1.GetDraftResponse:  # noqa: N802
        """Return a draft, and how far each of its images is."""
        project, _ = await self._admit(request.project, request.draft)
        record = await asyncio.to_thread(self._drafts.read, project, request.draft)
        images = await asyncio.to_thread(self._drafts.images, project, request.draft)
        return v1.GetDraftResponse(
            draft=_draft(project, request.draft, record), images=[_image(state, lease) for state, lease in images]
        )

    async def GetDraftImage(  # noqa: N802
        self, request: v1.GetDraftImageRequest, _context: object
    ) -> v1.GetDraftImageResponse:
        """Return what was done to one image of a draft."""
        project, _ = await self._known(request)
        state, lease = await asyncio.to_thread(self._drafts.image, project, request.draft, request.image)
        return v1.GetDraftImageResponse(image=_image(state, lease, operations=True))

    async def ChangeDraftImage(  # noqa: N802
        self, request: v1.ChangeDraftImageRequest, _context: object
    ) -> v1.ChangeDraftImageResponse:
        """Save what was done to one image of a draft."""
        project, person = await self._known(request)
        change = Change(
            request.change_id,
            request.session,
            request.revision,
            tuple(request.operations),
            request.applied if request.HasField("applied") else None,
            request.done if request.HasField("done") else None,
        )
        state, lease = await asyncio.to_thread(
            self._drafts.change, project, request.draft, request.image, change, person
        )
        return v1.ChangeDraftImageResponse(image=_image(state, lease))

    async def LeaseDraftImage(  # noqa: N802
        self, request: v1.LeaseDraftImageRequest, _context: object
    ) -> v1.LeaseDraftImageResponse:
        """Take, renew or end the lease of an image."""
        project, person = await self._known(request)

        def lease() -> tuple[ImageState, Lease | None]:
            return self._drafts.lease(
                project,
                request.draft,
                request.image,
                request.session,
                person,
                take_over=request.take_over,
                release=request.release,
            )

        return v1.LeaseDraftImageResponse(image=_image(*await asyncio.to_thread(lease)))

    async def WriteDraftFile(  # noqa: N802
        self, requests: AsyncIterator[v1.WriteDraftFileRequest], _context: object
    ) -> v1.WriteDraftFileResponse:
        """Keep a file that operations of a draft refer to."""
        advice = "Send the whole file without a pause"
        first = await next_message(requests, advice) or v1.WriteDraftFileRequest()
        project, _ = await self._known(first)
        with (
            scratch_folder(self._settings.state_folder / "scratch", "draft-") as scratch,
            tempfile.NamedTemporaryFile(dir=scratch) as file,
        ):
            size = await asyncio.to_thread(file.write, first.data)
            while (request := await next_message(requests, advice)) is not None:
                size += await asyncio.to_thread(file.write, request.data)
                if size > LARGEST_FILE:
                    text = f"is larger than {LARGEST_FILE // 2**30} GiB"
                    raise InvalidInputError(f"The file {text}.", [Violation("data", text)])
            file.flush()
            place = self._drafts.file_place(project, first.draft) / Path(file.name).name
            limit = current().gate.limits(project).stored_gib
            await asyncio.to_thread(self._room.reserve, project, {place: size}, limit)
            digest = await asyncio.to_thread(self._drafts.write_file, project, first.draft, Path(file.name))
        return v1.WriteDraftFileResponse(sha256=digest)

    async def ReadDraftFile(  # noqa: N802
        self, request: v1.ReadDraftFileRequest, _context: object
    ) -> AsyncIterator[v1.ReadDraftFileResponse]:
        """Read a file of a draft."""
        project, _ = await self._known(request)
        async for data in in_thread(self._drafts.file(project, request.draft, request.sha256)):
            yield v1.ReadDraftFileResponse(data=data)

    async def DeleteDraft(self, request: v1.DeleteDraftRequest, _context: object) -> v1.DeleteDraftResponse:  # noqa: N802
        """Delete a draft with everything that was drawn in it."""
        names = request.project or self._settings.project, request.draft

        async def owner() -> str:
            return (await asyncio.to_thread(self._drafts.read, *names)).created_by

        project, _ = await self._admit(request.project, request.draft, owner)
        await asyncio.to_thread(self._drafts.delete, project, request.draft)
        return v1.DeleteDraftResponse()

    async def _known(
        self,
        request: v1.GetDraftImageRequest
        | v1.ChangeDraftImageRequest
        | v1.LeaseDraftImageRequest
        | v1.WriteDraftFileRequest
        | v1.ReadDraftFileRequest,
    ) -> tuple[str, str]:
        """Return project and person of a call about a draft that exists."""
        project, person = await self._admit(request.project, request.draft)
        await asyncio.to_thread(self._drafts.read, project, request.draft)
        return project, person


def _draft(project: str, name: str, record: Record) -> v1.Draft:
    made = v1.Draft(
        draft=name,
        project=project,
        title=record.title,
        kind=record.kind,
        base_uri=record.base_uri,
        model_uri=record.model_uri,
        classes=record.classes,
        created_by=record.created_by,
    )
    made.created_at.FromDatetime(record.created_at)
    return made


def _image(state: ImageState, lease: Lease | None, *, operations: bool = False) -> v1.DraftImage:
    made = v1.DraftImage(
        image=state.image,
        revision=state.revision,
        done=state.done,
        applied=state.applied,
        steps=len(state.operations),
        operations=state.operations if operations else (),
        editors=state.editors,
    )
    if state.changed_at is not None:
        made.changed_at.FromDatetime(state.changed_at)
    if lease is not None:
        made.lease.session, made.lease.holder = lease.session, lease.holder
        made.lease.expires_at.FromDatetime(lease.expires_at)
    return made
