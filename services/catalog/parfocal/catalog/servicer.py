"""The RPCs of the catalogue."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from typing import Final

from parfocal import v1
from parfocal.catalog.archive import archive
from parfocal.catalog.batch_rpcs import BatchRpcs
from parfocal.catalog.draft_rpcs import DraftRpcs
from parfocal.catalog.entries import Entries, Published, each, file_location, matches, to_entry
from parfocal.catalog.inbox_rpcs import InboxRpcs
from parfocal.catalog.lineage import Lineage
from parfocal.catalog.places import KINDS, Kind, Place, kind_of, place_at, place_of, resolve
from parfocal.catalog.signing import Signer
from parfocal.catalog.space_history import SpaceHistory
from parfocal.catalog.threads import in_thread
from parfocal.catalog.trash import Deleted, Trash
from parfocal.catalog.uploads.records import Upload
from parfocal.catalog.uploads.uploads import Uploads
from parfocal.catalog.usage import DerivedUsage, jobs_usage, usage_of
from parfocal.runtime.access.calls import current
from parfocal.runtime.access.gate import authorise_anywhere
from parfocal.runtime.errors import DamagedError, InvalidInputError, NotFoundError, Violation
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.confinement import authorise_reading
from parfocal.runtime.store.grants import Grants
from parfocal.runtime.store.names import DERIVED_FOR, check_name, derived_mark, is_name

_PAGE_SIZE: Final = 50
_LARGEST_PAGE: Final = 500
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_VERSION: Final = re.compile(r"[0-9]{1,9}")


class CatalogServicer(BatchRpcs, DraftRpcs, InboxRpcs):
    """Answers from what the store has; every instance gives the same answers."""

    def __init__(self, entries: Entries, trash: Trash, uploads: Uploads, signer: Signer, settings: Settings) -> None:
        super().__init__(entries.store, settings)
        self._entries = entries
        self._space = SpaceHistory(entries)
        self._derived = DerivedUsage(entries.store)
        self._trash = trash
        self._uploads = uploads
        self._signer = signer
        self._grants = Grants(entries.store)

    async def ListProjects(  # noqa: N802
        self, _request: v1.ListProjectsRequest, _context: object
    ) -> v1.ListProjectsResponse:
        """List the projects."""
        call = authorise_anywhere()
        names = await asyncio.to_thread(self._entries.projects)
        return v1.ListProjectsResponse(projects=[name for name in names if call.gate.knows(call.identity, name)])

    async def ListEntries(self, request: v1.ListEntriesRequest, _context: object) -> v1.ListEntriesResponse:  # noqa: N802
        """List or search one kind of entries."""
        kind, project = kind_of(request.kind), check_name("project", request.project or self._settings.project)
        if request.name and not request.deleted:
            await self._admit_reading(kind, project, request.name, request.name)
        else:
            await self._admit(project)
        if request.name:
            place_of(self._entries.store, kind, project, request.name, int(kind.versioned))
        return await asyncio.to_thread(self._list, request, kind, project)

    async def GetEntry(self, request: v1.GetEntryRequest, _context: object) -> v1.GetEntryResponse:  # noqa: N802
        """Return one entry."""
        found = await self._find(request)
        entry = await asyncio.to_thread(to_entry, self._entries.store, found)
        damaged = await asyncio.to_thread(self._entries.damaged_files, found) if request.check_files else ()
        return v1.GetEntryResponse(entry=entry, damaged_files=damaged)

    async def GetLineage(self, request: v1.GetLineageRequest, _context: object) -> v1.GetLineageResponse:  # noqa: N802
        """Return what an entry was made from, and what was made from it."""
        found = await self._find(request)
        return await asyncio.to_thread(self._lineage, found.place)

    async def DeleteEntry(self, request: v1.DeleteEntryRequest, _context: object) -> v1.DeleteEntryResponse:  # noqa: N802
        """Move an entry to the trash."""
        place, person = await self._place(request.entry)
        deleted, referrers, after = await asyncio.to_thread(self._trash.delete, place, person)
        own = [str(each.location) for each in referrers if each.project == place.project]
        # What other projects have made is none of the caller's business.
        others = sorted({each.project for each in referrers} - {place.project})
        answer = v1.DeleteEntryResponse(entry=_deleted(self._entries, deleted), referrers=own, used_by_projects=others)
        if after is not None:
            answer.removed_after.FromDatetime(after)
        return answer

    async def RestoreEntry(  # noqa: N802
        self, request: v1.RestoreEntryRequest, _context: object
    ) -> v1.RestoreEntryResponse:
        """Take an entry out of the trash."""
        place, _ = await self._place(request.entry)
        found = await asyncio.to_thread(self._trash.restore, place)
        return v1.RestoreEntryResponse(entry=await asyncio.to_thread(to_entry, self._entries.store, found))

    async def GetUsage(self, request: v1.GetUsageRequest, _context: object) -> v1.GetUsageResponse:  # noqa: N802
        """Say what a project keeps in the store, or what it kept in the months before."""
        project, _ = await self._admit(request.project)
        if request.history:
            return v1.GetUsageResponse(months=await asyncio.to_thread(self._space.months, project))
        store = self._entries.store
        usages = await asyncio.to_thread(each, lambda kind: usage_of(store, kind, project), KINDS)
        answer = v1.GetUsageResponse(usages=usages)
        if request.with_others:
            answer.others.append(await asyncio.to_thread(jobs_usage, store, project))
            answer.others.append(await asyncio.to_thread(self._derived.of, project))
        return answer

    async def ReadFile(  # noqa: N802
        self, request: v1.ReadFileRequest, _context: object
    ) -> AsyncIterator[v1.ReadFileResponse]:
        """Read one file of an entry, or its manifest."""
        found = await self._find(request)
        location = file_location(self._entries.store, found, request.name)
        async for data in in_thread(self._entries.store.chunks(location)):
            yield v1.ReadFileResponse(data=data)

    async def ReadArchive(  # noqa: N802
        self, request: v1.ReadArchiveRequest, _context: object
    ) -> AsyncIterator[v1.ReadArchiveResponse]:
        """Read the manifest and all files of an entry as one ZIP archive."""
        found = await self._find(request)
        async for data in in_thread(archive(self._entries.store, found)):
            yield v1.ReadArchiveResponse(data=data)

    async def SignDownloads(  # noqa: N802
        self, request: v1.SignDownloadsRequest, _context: object
    ) -> v1.SignDownloadsResponse:
        """Return requests that fetch files of an entry."""
        if len(request.names) > _LARGEST_PAGE:
            text = f"{len(request.names)} names at a time, but at most {_LARGEST_PAGE} are taken; ask several times"
            raise InvalidInputError(f"These are {text}.", [Violation("names", text)])
        found = await self._find(request)
        answer = v1.SignDownloadsResponse()
        answer.expires_at.FromDatetime(self._signer.expires_at())
        by_name = {entry.public_name: entry for entry in found.manifest.files}
        for name in request.names:
            if name not in by_name:
                text = f"There is no file {name} among those of {found.place.location}."
                raise NotFoundError(text, [Violation("names", text)])
            entry = by_name[name]
            signed = self._signer.get(found.place.location / entry.name, entry.size)
            answer.files.append(v1.FileDownload(name=name, size=entry.size, sha256=entry.sha256, request=signed))
        return answer

    async def BeginUpload(self, request: v1.BeginUploadRequest, _context: object) -> v1.BeginUploadResponse:  # noqa: N802
        """Begin an upload, or return the one that the same request id began."""
        project, person = await self._admit(request.project)
        upload = await asyncio.to_thread(
            self._uploads.begin, project, request.kind, request.request_id, request.name, person
        )
        return v1.BeginUploadResponse(upload=upload.word, uri=str(upload.place), version=upload.record.version)

    async def SignUploads(self, request: v1.SignUploadsRequest, _context: object) -> v1.SignUploadsResponse:  # noqa: N802
        """Return requests that send files of an upload."""
        upload, _ = await self._upload(request)
        files = await asyncio.to_thread(self._uploads.sign, upload, request.files, resume=request.resume)
        sizes = {
            self._uploads.place_of(upload, file): file.size
            for file, signed in zip(request.files, files, strict=True)
            if not signed.done
        }
        limit = current().gate.limits(upload.project).stored_gib
        await asyncio.to_thread(self._room.reserve, upload.project, sizes, limit)
        answer = v1.SignUploadsResponse(files=files)
        answer.expires_at.FromDatetime(self._signer.expires_at())
        return answer

    async def PublishUpload(  # noqa: N802
        self, request: v1.PublishUploadRequest, _context: object
    ) -> AsyncIterator[v1.PublishUploadResponse]:
        """Verify all files of an upload and publish it."""
        upload, person = await self._upload(request)
        verified = total = 0
        async for verified, total in in_thread(self._uploads.publish(upload, request.files, person)):
            yield v1.PublishUploadResponse(verified=verified, files=total)
        answer = v1.PublishUploadResponse(verified=verified, files=total)
        if upload.has_manifest:
            place = place_at(self._entries.store, str(upload.place))
            assert place is not None
            found = await asyncio.to_thread(self._entries.read, place)
            answer.entry.CopyFrom(await asyncio.to_thread(to_entry, self._entries.store, found))
        yield answer

    async def AbortUpload(self, request: v1.AbortUploadRequest, _context: object) -> v1.AbortUploadResponse:  # noqa: N802
        """End an upload and remove its files."""
        upload, _ = await self._upload(request)
        await asyncio.to_thread(self._uploads.abort, upload)
        return v1.AbortUploadResponse()

    async def ReadDerived(  # noqa: N802
        self, request: v1.ReadDerivedRequest, _context: object
    ) -> AsyncIterator[v1.ReadDerivedResponse]:
        """Read one derived file."""
        project, _ = await self._admit(request.project)
        if not _DIGEST.fullmatch(request.digest):
            text = "must be a SHA-256: 64 digits 0-9 and a-f"
            raise InvalidInputError(f"The digest {text}.", [Violation("digest", text)])
        store = self._entries.store
        place = store.derived / request.digest / request.name
        absent = f"There is no derived file {request.name} of {request.digest}: it has not been computed yet."
        # The digest alone proves nothing: the image must be one of the project.
        mark = derived_mark(store, request.digest, project)
        if request.name.startswith(DERIVED_FOR) or not await asyncio.to_thread(store.exists, mark):
            raise NotFoundError(absent)
        try:
            async for data in in_thread(store.chunks(place)):
                yield v1.ReadDerivedResponse(data=data)
        except NotFoundError as error:
            raise NotFoundError(absent) from error

    async def ShareEntry(self, request: v1.ShareEntryRequest, _context: object) -> v1.ShareEntryResponse:  # noqa: N802
        """Let another project read a dataset or model."""
        kind, project, person = await self._shareable(request)
        store, name = self._entries.store, request.entry.name
        await asyncio.to_thread(resolve, store, kind, project, name, 0)
        grant = await asyncio.to_thread(
            self._grants.give, kind.root(store), project, name, request.with_project, person
        )
        share = v1.Share(
            kind=kind.number,
            project=project,
            name=name,
            with_project=request.with_project,
            granted_by=grant.granted_by,
        )
        share.granted_at.FromDatetime(grant.granted_at)
        return v1.ShareEntryResponse(share=share)

    async def WithdrawShare(  # noqa: N802
        self, request: v1.WithdrawShareRequest, _context: object
    ) -> v1.WithdrawShareResponse:
        """Let another project read a dataset or model no longer."""
        kind, project, person = await self._shareable(request)
        root = kind.root(self._entries.store)
        await asyncio.to_thread(self._grants.withdraw, root, project, request.entry.name, request.with_project, person)
        return v1.WithdrawShareResponse()

    async def ListShares(self, request: v1.ListSharesRequest, _context: object) -> v1.ListSharesResponse:  # noqa: N802
        """List what a project shares, or what is shared with it."""
        project, _ = await self._admit(request.project)
        kind = _shareable(request.kind)
        return await asyncio.to_thread(self._shares, kind, project, received=request.received)

    def _shares(self, kind: Kind, project: str, *, received: bool) -> v1.ListSharesResponse:
        answer, root = v1.ListSharesResponse(), kind.root(self._entries.store)
        if received:
            for owner, name in self._grants.given_to(root, project):
                answer.shares.add(kind=kind.number, project=owner, name=name, with_project=project)
            return answer
        for name, other, grant in self._grants.given_by(root, project):
            share = answer.shares.add(
                kind=kind.number, project=project, name=name, with_project=other, granted_by=grant.granted_by
            )
            share.granted_at.FromDatetime(grant.granted_at)
        return answer

    async def _shareable(self, request: v1.ShareEntryRequest | v1.WithdrawShareRequest) -> tuple[Kind, str, str]:
        """Return the kind and project of what is to be shared or not, and who acts."""
        project, person = await self._admit(request.entry.project, request.entry.name)
        kind = _shareable(request.entry.kind)
        check_name(kind.word, request.entry.name)
        if check_name("project", request.with_project) == project:
            text = f"must be another project than {project!r}, to which it belongs"
            raise InvalidInputError(f"with_project {text}.", [Violation("with_project", text)])
        return kind, project, person

    async def _place(self, name: v1.EntryName) -> tuple[Place, str]:
        """Return where the entry with this exact name lies that the caller may change, and who acts."""
        project = check_name("project", name.project or self._settings.project)

        async def owner() -> str:
            place = place_of(self._entries.store, kind_of(name.kind), project, name.name, name.version)
            return (await asyncio.to_thread(self._entries.read, place)).manifest.created_by

        _, person = await self._admit(project, name.name, owner)
        return place_of(self._entries.store, kind_of(name.kind), project, name.name, name.version), person

    async def _upload(
        self, request: v1.SignUploadsRequest | v1.PublishUploadRequest | v1.AbortUploadRequest
    ) -> tuple[Upload, str]:
        """Return an upload that the caller may go on with, and who acts."""
        project = check_name("project", request.project or self._settings.project)

        async def owner() -> str:
            return (await asyncio.to_thread(self._uploads.find, project, request.upload)).record.created_by

        _, person = await self._admit(project, request.upload, owner)
        return await asyncio.to_thread(self._uploads.find, project, request.upload), person

    async def _find(
        self,
        request: v1.GetEntryRequest
        | v1.GetLineageRequest
        | v1.ReadFileRequest
        | v1.ReadArchiveRequest
        | v1.SignDownloadsRequest,
    ) -> Published:
        """Return the entry that a request names, or gives the address of."""
        name, store = request.entry, self._entries.store
        uri = "" if isinstance(request, v1.GetLineageRequest) else request.uri
        if not uri:
            project = check_name("project", name.project or self._settings.project)
            kind = kind_of(name.kind)
            if isinstance(request, v1.GetLineageRequest):
                # What a project makes of what it shares is its own business.
                await self._admit(project, name.name)
            else:
                await self._admit_reading(kind, project, name.name, name.name)
            place = await asyncio.to_thread(resolve, store, kind, project, name.name, name.version)
            return await asyncio.to_thread(self._entries.read, place)
        named = place_at(store, uri)
        if named is None or uri.rstrip("/") != str(named.location):
            text = f"{uri!r} is not the address of a dataset version, model version or result."
            raise InvalidInputError(text, [Violation("uri", text)])
        await self._admit_reading(named.kind, named.project, named.name, uri)
        return await asyncio.to_thread(self._entries.read, named)

    async def _admit_reading(self, kind: Kind, project: str, name: str, target: str) -> None:
        """Admit a call that reads an entry of a project, or one that this shares with a project of the caller's."""
        if kind.is_shareable and is_name(name):
            await authorise_reading(
                self._entries.store, kind.root(self._entries.store) / project / name, project, target
            )
        else:
            await self._admit(project, target)

    def _list(self, request: v1.ListEntriesRequest, kind: Kind, project: str) -> v1.ListEntriesResponse:
        size = min(request.page_size or _PAGE_SIZE, _LARGEST_PAGE)
        if size < 0:
            raise InvalidInputError("page_size must not be negative.", [Violation("page_size", "must not be negative")])
        answer = v1.ListEntriesResponse()
        chosen: list[Published | Deleted] = []
        last = ""
        for found in self._candidates(request, kind, project):
            if isinstance(found, DamagedError):
                answer.damaged.append(found.message)
                continue
            published = found.found if isinstance(found, Deleted) else found
            if not matches(published, request.query):
                continue
            if len(chosen) == size:
                answer.next_page_token = last
                break
            chosen.append(found)
            last = published.place.title

        def shown(one: Published | Deleted) -> v1.Entry:
            if isinstance(one, Deleted):
                return _deleted(self._entries, one)
            return to_entry(self._entries.store, one, brief=request.brief)

        answer.entries.extend(each(shown, chosen))
        return answer

    def _candidates(
        self, request: v1.ListEntriesRequest, kind: Kind, project: str
    ) -> Iterator[Published | Deleted | DamagedError]:
        """Yield what a list is chosen from, after its page token."""
        after = _order(kind, request.page_token) if request.page_token else None
        if request.deleted:
            inside = list(self._trash.deleted(kind, project))
            for item in sorted(inside, key=lambda one: _order(kind, one.found.place.title)):
                place = item.found.place
                if request.name in {"", place.name} and (after is None or _order(kind, place.title) > after):
                    yield item
            return
        for places in self._entries.in_order(kind, project, request.name):
            left = [place for place in places if after is None or _order(kind, place.title) > after]
            yield from self._entries.attempts(left)

    def _lineage(self, place: Place) -> v1.GetLineageResponse:
        lineage = Lineage(self._entries, place.project)
        places, links = lineage.around(place)
        known = [lineage.published[each] for each in places if each in lineage.published]
        return v1.GetLineageResponse(
            entries=each(lambda found: to_entry(self._entries.store, found), known),
            relations=[
                v1.Relation(uri=str(link.made.location), from_uri=str(link.source.location), role=link.role)
                for link in links
            ],
        )


def _shareable(number: v1.EntryKind.ValueType) -> Kind:
    kind = kind_of(number)
    if not kind.is_shareable:
        text = "must be that of datasets or models: results are not shared"
        raise InvalidInputError(f"The kind {text}.", [Violation("kind", text)])
    return kind


def _order(kind: Kind, title: str) -> tuple[object, ...]:
    """Return where an entry stands in a list: by name and newest version first, results newest first."""
    if not kind.versioned:
        return (*(-ord(letter) for letter in title), 1)
    name, colon, version = title.partition(":")
    if not colon or not _VERSION.fullmatch(version):
        raise InvalidInputError("The page_token is none that this call returned; begin again without it.")
    return name, -int(version)


def _deleted(entries: Entries, item: Deleted) -> v1.Entry:
    entry = to_entry(entries.store, item.found)
    entry.deleted_at.FromDatetime(item.record.deleted_at)
    entry.deleted_by = item.record.deleted_by
    return entry
