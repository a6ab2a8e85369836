"""The catalogue as the client uses it: what there is, and where it is read, sent, deleted and restored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import grpc

from parfocal import v1
from parfocal.client.services import Service
from parfocal.client.signed import SignedRequests
from parfocal.runtime.errors import InvalidInputError, UnavailableError, Violation
from parfocal.runtime.rpc_errors import from_rpc_error
from parfocal.runtime.store.names import check_name, parse_version

_PAGE = 100
# Deleting and tracing read every manifest of a project.
_SCAN_SECONDS = 300.0
_STREAM_SECONDS = 3600.0

KINDS: Final = {"dataset": v1.ENTRY_KIND_DATASET, "model": v1.ENTRY_KIND_MODEL, "result": v1.ENTRY_KIND_RESULT}


class Catalog:
    """Speaks to the catalogue of one deployment for one project. Safe to use from several threads.

    Parameters
    ----------
    service
        The catalogue; None where none is known, and every call raises UnavailableError.
    project
        The project of all names.
    """

    def __init__(self, service: Service | None, project: str) -> None:
        self.project = project
        self._service = service
        self._store = SignedRequests()

    @property
    def address(self) -> str:
        """host:port of the catalogue; empty where none is known."""
        return self._service.address if self._service else ""

    def close(self) -> None:
        """Close the channel, and the connections to the store."""
        self._store.close()
        if self._service is not None:
            self._service.close()

    def of(self, project: str) -> Catalog:
        """Return the catalogue of another project, by the same channel."""
        return Catalog(self._service, project)

    def projects(self) -> list[str]:
        """Return the names of all projects."""
        return list(self._call("ListProjects", v1.ListProjectsRequest()).projects)

    def entries(
        self,
        kind: str,
        *,
        name: str = "",
        query: str = "",
        deleted: bool = False,
        brief: bool = False,
        on_damaged: Callable[[str], None] | None = None,
    ) -> Iterator[v1.Entry]:
        """Yield the entries of a kind: by name and newest version first, results newest first.

        Parameters
        ----------
        kind
            "dataset", "model" or "result".
        name, query
            Only those of this name, or with all words of the query; empty: all.
        deleted
            Those in the trash instead.
        brief
            Leave out the verdicts on models.
        on_damaged
            Told of each entry that cannot be read, in a sentence; they are left out.
        """
        request = v1.ListEntriesRequest(
            project=self.project,
            kind=KINDS[kind],
            name=name,
            query=query,
            deleted=deleted,
            page_size=_PAGE,
            brief=brief,
        )
        while True:
            answer = self._call("ListEntries", request)
            for sentence in answer.damaged if on_damaged else ():
                on_damaged(sentence)  # type: ignore[misc]
            yield from answer.entries
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    def title(self, project: str, name: str, version: int) -> str:
        """Return what people of this project call a version of a dataset or model, also of one that is shared."""
        return f"{name}:{version}" if project == self.project else f"{project}/{name}:{version}"

    def shared_entries(self, kind: str) -> Iterator[v1.Entry]:
        """Yield the entries of a kind that other projects share with this one."""
        for share in self.shares(kind, received=True):
            yield from self.of(share.project).entries(kind, name=share.name)

    def entry(self, kind: str, name: str) -> v1.Entry:
        """Return the entry "name" (newest version) or "name:version"; of a result its job."""
        answer: v1.GetEntryResponse = self._call("GetEntry", v1.GetEntryRequest(entry=self.named(kind, name)))
        return answer.entry

    def entry_at(self, uri: str) -> v1.Entry:
        """Return the entry of an address."""
        answer: v1.GetEntryResponse = self._call("GetEntry", v1.GetEntryRequest(uri=uri))
        return answer.entry

    def damaged_files(self, uri: str) -> list[str]:
        """Return the names of the files of an entry that the store does not have, or not as long as they were."""
        answer = self._call("GetEntry", v1.GetEntryRequest(uri=uri, check_files=True), _SCAN_SECONDS)
        return list(answer.damaged_files)

    def lineage(self, kind: str, name: str) -> v1.GetLineageResponse:
        """Return what an entry was made from, and what was made from it."""
        request = v1.GetLineageRequest(entry=self.named(kind, name))
        answer: v1.GetLineageResponse = self._call("GetLineage", request, _SCAN_SECONDS)
        return answer

    def read(self, uri: str, name: str = "") -> bytes:
        """Return a file of the entry at an address by its public name, or its manifest."""
        return b"".join(self.parts(uri, name))

    def parts(self, uri: str, name: str = "") -> Iterator[bytes]:
        """Yield a file of the entry at an address piece by piece, as `read`."""
        for part in self._stream("ReadFile", v1.ReadFileRequest(uri=uri, name=name)):
            yield part.data

    def archive(self, uri: str) -> Iterator[bytes]:
        """Yield the manifest and all files of the entry at an address as one ZIP archive, piece by piece."""
        for part in self._stream("ReadArchive", v1.ReadArchiveRequest(uri=uri)):
            yield part.data

    def delete(self, kind: str, name: str) -> v1.DeleteEntryResponse:
        """Move the entry "name:version", or the result of a job, to the trash."""
        request = v1.DeleteEntryRequest(entry=self.named(kind, name, exact=True))
        answer: v1.DeleteEntryResponse = self._call("DeleteEntry", request, _SCAN_SECONDS)
        return answer

    def restore(self, kind: str, name: str) -> v1.Entry:
        """Take the entry "name:version", or the result of a job, out of the trash."""
        request = v1.RestoreEntryRequest(entry=self.named(kind, name, exact=True))
        answer: v1.RestoreEntryResponse = self._call("RestoreEntry", request)
        return answer.entry

    def usage(self) -> Sequence[v1.Usage]:
        """Return what the project keeps of each kind."""
        return list(self.all_usage(others=False).usages)

    def all_usage(self, *, others: bool = True) -> v1.GetUsageResponse:
        """Return what the project keeps of each kind, and with `others` of its jobs and what is shown of its images."""
        request = v1.GetUsageRequest(project=self.project, with_others=others)
        answer: v1.GetUsageResponse = self._call("GetUsage", request, _SCAN_SECONDS)
        return answer

    def months_of_storage(self) -> Sequence[v1.MonthlyStorage]:
        """Return what the project kept of each kind by month, oldest first."""
        return list(self._call("GetUsage", v1.GetUsageRequest(project=self.project, history=True)).months)

    def derived(self, digest: str, name: str) -> bytes:
        """Return a file that was computed from an image, such as a tile."""
        request = v1.ReadDerivedRequest(digest=digest, name=name, project=self.project)
        return b"".join(part.data for part in self._stream("ReadDerived", request))

    def sign_downloads(self, uri: str, names: Sequence[str]) -> Sequence[v1.FileDownload]:
        """Return requests that fetch files of the entry at an address, at most 500."""
        answer: v1.SignDownloadsResponse = self._call("SignDownloads", v1.SignDownloadsRequest(uri=uri, names=names))
        return answer.files

    def begin_upload(self, request: v1.BeginUploadRequest) -> v1.BeginUploadResponse:
        """Begin an upload, or return the one that the same request id began."""
        answer: v1.BeginUploadResponse = self._call("BeginUpload", request)
        return answer

    def sign_uploads(
        self, upload: str, files: Sequence[v1.UploadFile], *, resume: bool = False
    ) -> Sequence[v1.FileUpload]:
        """Return requests that send files, at most 500; with `resume` only for what the store does not have yet."""
        request = v1.SignUploadsRequest(project=self.project, upload=upload, files=files, resume=resume)
        answer: v1.SignUploadsResponse = self._call("SignUploads", request, _SCAN_SECONDS if resume else 60.0)
        return answer.files

    def publish_upload(
        self,
        upload: str,
        files: Sequence[v1.UploadFile] = (),
        on_verified: Callable[[int, int], None] = lambda _done, _all: None,
    ) -> v1.PublishUploadResponse:
        """Have an upload verified and published; `on_verified` is told how many files were verified, of how many."""
        answer = v1.PublishUploadResponse()
        request = v1.PublishUploadRequest(project=self.project, upload=upload, files=files)
        for answer in self._stream("PublishUpload", request):
            on_verified(answer.verified, answer.files)
        return answer

    def abort_upload(self, upload: str) -> None:
        """End an upload and remove its files."""
        self._call("AbortUpload", v1.AbortUploadRequest(project=self.project, upload=upload), _SCAN_SECONDS)

    def create_draft(self, request: v1.CreateDraftRequest) -> v1.Draft:
        """Create a draft of labels or boxes, or return the one that the same request id created."""
        answer: v1.CreateDraftResponse = self._call("CreateDraft", request)
        return answer.draft

    def drafts(self) -> Sequence[v1.Draft]:
        """Return the drafts of the project, the newest first."""
        return list(self._call("ListDrafts", v1.ListDraftsRequest(project=self.project)).drafts)

    def draft(self, name: str) -> v1.GetDraftResponse:
        """Return a draft, and how far each of its images is."""
        answer: v1.GetDraftResponse = self._call("GetDraft", v1.GetDraftRequest(project=self.project, draft=name))
        return answer

    def draft_image(self, draft: str, image: str) -> v1.DraftImage:
        """Return what was done to one image of a draft, with its operations."""
        request = v1.GetDraftImageRequest(project=self.project, draft=draft, image=image)
        answer: v1.GetDraftImageResponse = self._call("GetDraftImage", request)
        return answer.image

    def change_draft_image(self, request: v1.ChangeDraftImageRequest) -> v1.DraftImage:
        """Save what was done to one image; raise ConflictError where it has been changed since."""
        answer: v1.ChangeDraftImageResponse = self._call("ChangeDraftImage", request)
        return answer.image

    def lease_draft_image(
        self, draft: str, image: str, session: str, *, take_over: bool = False, release: bool = False
    ) -> v1.DraftImage:
        """Take, renew or end the lease of an image; the answer says who works on it now."""
        request = v1.LeaseDraftImageRequest(
            project=self.project, draft=draft, image=image, session=session, take_over=take_over, release=release
        )
        answer: v1.LeaseDraftImageResponse = self._call("LeaseDraftImage", request)
        return answer.image

    def write_draft_file(self, draft: str, path: Path) -> str:
        """Send a file that operations of a draft refer to; return its SHA-256, which names it."""

        def pieces() -> Iterator[v1.WriteDraftFileRequest]:
            yield v1.WriteDraftFileRequest(project=self.project, draft=draft)
            with path.open("rb") as file:
                while data := file.read(2**20):
                    yield v1.WriteDraftFileRequest(data=data)

        service = self._require()
        try:
            answer = service.catalog.WriteDraftFile(pieces(), timeout=_STREAM_SECONDS)
        except grpc.RpcError as error:
            raise from_rpc_error(error, service.address) from error
        return answer.sha256

    def read_draft_file(self, draft: str, sha256: str) -> Iterator[bytes]:
        """Yield a file of a draft piece by piece."""
        request = v1.ReadDraftFileRequest(project=self.project, draft=draft, sha256=sha256)
        for part in self._stream("ReadDraftFile", request):
            yield part.data

    def delete_draft(self, draft: str) -> None:
        """Delete a draft with everything that was drawn in it."""
        self._call("DeleteDraft", v1.DeleteDraftRequest(project=self.project, draft=draft), _SCAN_SECONDS)

    def open_batch(self, batch: str, source_uri: str, output_uri: str) -> v1.OpenBatchResponse:
        """Open the ledger of a batch; return what an image took in its newest job, and who the caller is."""
        request = v1.OpenBatchRequest(project=self.project, batch=batch, source_uri=source_uri, output_uri=output_uri)
        answer: v1.OpenBatchResponse = self._call("OpenBatch", request)
        return answer

    def batch_inputs(self, batch: str, *, brief: bool = False) -> Iterator[v1.BatchInput]:
        """Yield the images of a batch and, unless `brief`, how far each has come, in order of names."""
        request = v1.ListBatchInputsRequest(project=self.project, batch=batch, brief=brief)
        for answer in self._stream("ListBatchInputs", request):
            yield from answer.inputs

    def take_batch_inputs(self, batch: str, job: str, inputs: Sequence[v1.BatchInput]) -> set[str]:
        """Take images, at most 500, for a job; return the names of those that nobody else has taken."""
        request = v1.TakeBatchInputsRequest(project=self.project, batch=batch, job=job, inputs=inputs)
        return set(self._call("TakeBatchInputs", request, _SCAN_SECONDS).names)

    def end_batch_inputs(
        self, batch: str, table: str, outcomes: Sequence[v1.BatchOutcome], seconds_per_image: float = 0.0
    ) -> v1.EndBatchInputsResponse:
        """Deliver what was made of images, at most 500, and record how they came to their end."""
        request = v1.EndBatchInputsRequest(
            project=self.project,
            batch=batch,
            table=table,
            outcomes=outcomes,
            seconds_per_image=seconds_per_image,
        )
        answer: v1.EndBatchInputsResponse = self._call("EndBatchInputs", request, _SCAN_SECONDS)
        return answer

    def create_schedule(self, schedule: v1.Schedule) -> v1.Schedule:
        """Record what a schedule may do, in the caller's name."""
        request = v1.CreateScheduleRequest(project=self.project, schedule=schedule)
        answer: v1.CreateScheduleResponse = self._call("CreateSchedule", request)
        return answer.schedule

    def check_schedule(self, name: str) -> v1.CheckScheduleResponse:
        """Return what a schedule may do, and why it may do nothing any more."""
        answer: v1.CheckScheduleResponse = self._call(
            "CheckSchedule", v1.CheckScheduleRequest(project=self.project, name=name)
        )
        return answer

    def delete_schedule(self, name: str) -> None:
        """Remove the record of a schedule."""
        self._call("DeleteSchedule", v1.DeleteScheduleRequest(project=self.project, name=name))

    def share(self, kind: str, name: str, project: str) -> v1.Share:
        """Let another project read all versions of a dataset or model; return the grant."""
        request = v1.ShareEntryRequest(entry=self.named(kind, name), with_project=project)
        answer: v1.ShareEntryResponse = self._call("ShareEntry", request)
        return answer.share

    def withdraw_share(self, kind: str, name: str, project: str) -> None:
        """Let another project read a dataset or model no longer."""
        self._call("WithdrawShare", v1.WithdrawShareRequest(entry=self.named(kind, name), with_project=project))

    def shares(self, kind: str, *, received: bool) -> Sequence[v1.Share]:
        """Return what the project shares, or with `received` what others share with it."""
        request = v1.ListSharesRequest(project=self.project, kind=KINDS[kind], received=received)
        answer: v1.ListSharesResponse = self._call("ListShares", request)
        return answer.shares

    def inboxes(self) -> Sequence[v1.Inbox]:
        """Return the inboxes of the project by name."""
        return list(self._call("ListInboxes", v1.ListInboxesRequest(project=self.project)).inboxes)

    def inbox_files(self, inbox: str, folder: str = "") -> Iterator[v1.InboxFile]:
        """Yield the files of an inbox, or of a folder in it, in order of names."""
        request = v1.ListInboxFilesRequest(project=self.project, inbox=inbox, folder=folder)
        for answer in self._stream("ListInboxFiles", request):
            yield from answer.files

    def inbox_parts(self, inbox: str, name: str) -> Iterator[bytes]:
        """Yield a file of an inbox piece by piece."""
        request = v1.ReadInboxFileRequest(project=self.project, inbox=inbox, name=name)
        for part in self._stream("ReadInboxFile", request):
            yield part.data

    def send(self, request: v1.SignedRequest, path: Path) -> int:
        """Send the part of a file that a signed request is for, and return the status that the store answers."""
        return self._store.send(request, path)

    def fetch(self, request: v1.SignedRequest, path: Path) -> int:
        """Write what a signed request fetches to a file, and return the status that the store answers."""
        return self._store.fetch(request, path)

    def named(self, kind: str, name: str, *, exact: bool = False) -> v1.EntryName:
        """Return "name" or "name:version" as requests say it; with `exact` the version must be there."""
        if kind == "result":
            return v1.EntryName(kind=KINDS[kind], project=self.project, name=name)
        # What another project shares is named with it: PROJECT/NAME.
        project, slash, rest = name.partition("/")
        base, version = parse_version(kind, rest if slash else name)
        if exact and version is None:
            text = f"Name the version of the {kind}, for example {base}:1."
            raise InvalidInputError(text, [Violation(kind, text)])
        owner = check_name("project", project) if slash else self.project
        return v1.EntryName(kind=KINDS[kind], project=owner, name=base, version=version or 0)

    def _call(self, rpc: str, request: Any, seconds: float = 60.0) -> Any:
        service = self._require()
        return service.call(getattr(service.catalog, rpc), request, seconds)

    def _stream(self, rpc: str, request: Any) -> Iterator[Any]:
        service = self._require()
        try:
            yield from getattr(service.catalog, rpc)(request, timeout=_STREAM_SECONDS)
        except grpc.RpcError as error:
            raise from_rpc_error(error, service.address) from error

    def _require(self) -> Service:
        if self._service is None:
            raise UnavailableError(
                "No catalogue is known. Start Parfocal with `parfocal up`, or name it: PARFOCAL_CATALOG=host:port."
            )
        return self._service
