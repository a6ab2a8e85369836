"""The catalogue as the client uses it: what there is, and where it is read, sent, deleted and restored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import grpc

from parfocal import v1
from parfocal.client.services import Service
from parfocal.runtime.errors import InvalidInputError, UnavailableError, Violation
from parfocal.runtime.rpc_errors import from_rpc_error
from parfocal.runtime.store.names import parse_version

_T = TypeVar("_T")
_PAGE = 100
# Deleting and tracing read every manifest of a project.
_SCAN_SECONDS = 300.0
_STREAM_SECONDS = 3600.0

KINDS = {"dataset": v1.ENTRY_KIND_DATASET, "model": v1.ENTRY_KIND_MODEL, "result": v1.ENTRY_KIND_RESULT}


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

    @property
    def address(self) -> str:
        """host:port of the catalogue; empty where none is known."""
        return self._service.address if self._service else ""

    def close(self) -> None:
        """Close the channel."""
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
        on_damaged
            Told of each entry that cannot be read, in a sentence; they are left out.
        """
        request = v1.ListEntriesRequest(
            project=self.project, kind=KINDS[kind], name=name, query=query, deleted=deleted, page_size=_PAGE
        )
        while True:
            answer = self._call("ListEntries", request)
            for sentence in answer.damaged if on_damaged else ():
                on_damaged(sentence)  # type: ignore[misc]
            yield from answer.entries
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    def entry(self, kind: str, name: str) -> v1.Entry:
        """Return the entry "name" (newest version) or "name:version"; of a result its job."""
        return self._call("GetEntry", v1.GetEntryRequest(entry=self.named(kind, name))).entry

    def entry_at(self, uri: str) -> v1.Entry:
        """Return the entry of an address."""
        return self._call("GetEntry", v1.GetEntryRequest(uri=uri)).entry

    def lineage(self, kind: str, name: str) -> v1.GetLineageResponse:
        """Return what an entry was made from, and what was made from it."""
        return self._call("GetLineage", v1.GetLineageRequest(entry=self.named(kind, name)), _SCAN_SECONDS)

    def read(self, uri: str, name: str = "") -> bytes:
        """Return a file of the entry at an address by its public name, or its manifest."""
        request = v1.ReadFileRequest(uri=uri, name=name)
        return b"".join(part.data for part in self._stream("ReadFile", request))

    def delete(self, kind: str, name: str) -> v1.DeleteEntryResponse:
        """Move the entry "name:version", or the result of a job, to the trash."""
        request = v1.DeleteEntryRequest(entry=self.named(kind, name, exact=True))
        return self._call("DeleteEntry", request, _SCAN_SECONDS)

    def restore(self, kind: str, name: str) -> v1.Entry:
        """Take the entry "name:version", or the result of a job, out of the trash."""
        return self._call("RestoreEntry", v1.RestoreEntryRequest(entry=self.named(kind, name, exact=True))).entry

    def usage(self) -> Sequence[v1.Usage]:
        """Return what the project keeps of each kind."""
        request = v1.GetUsageRequest(project=self.project)
        return list(self._call("GetUsage", request, _SCAN_SECONDS).usages)

    def derived(self, digest: str, name: str) -> bytes:
        """Return a file that was computed from an image, such as a tile."""
        request = v1.ReadDerivedRequest(digest=digest, name=name, project=self.project)
        return b"".join(part.data for part in self._stream("ReadDerived", request))

    def named(self, kind: str, name: str, *, exact: bool = False) -> v1.EntryName:
        """Return "name" or "name:version" as requests say it; with `exact` the version must be there."""
        if kind == "result":
            return v1.EntryName(kind=KINDS[kind], project=self.project, name=name)
        base, version = parse_version(kind, name)
        if exact and version is None:
            text = f"Name the version of the {kind}, for example {base}:1."
            raise InvalidInputError(text, [Violation(kind, text)])
        return v1.EntryName(kind=KINDS[kind], project=self.project, name=base, version=version or 0)

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
