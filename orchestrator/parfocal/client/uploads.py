"""Files from this computer to the store: by requests that the catalogue has signed, and published by the catalogue."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from parfocal import v1
from parfocal.client.client import Client
from parfocal.runtime.errors import ParfocalError, UnavailableError
from parfocal.runtime.store.manifests import FileEntry, Manifest
from parfocal.runtime.store.names import new_request_id
from parfocal.runtime.store.publish import file_entry

_KINDS: Final = {
    "dataset": v1.UPLOAD_KIND_DATASET,
    "model": v1.UPLOAD_KIND_MODEL,
    "result": v1.UPLOAD_KIND_RESULT,
    "inputs": v1.UPLOAD_KIND_INPUTS,
    "inbox": v1.UPLOAD_KIND_INBOX,
}
_ATTEMPTS: Final = 3
# Each is in memory while it is sent.
_PARTS_AT_ONCE: Final = 3
_GONE: Final = {403, 409, 412}


class Upload:
    """An upload that was begun. Files may be sent from several threads.

    Attributes
    ----------
    uri
        Address that it will have.
    version
        Version of the dataset or model; 0 for others.
    """

    def __init__(self, client: Client, begun: v1.BeginUploadResponse) -> None:
        self._catalog = client.catalog
        self._name = begun.upload
        self.uri = begun.uri
        self.version = begun.version

    def send(self, path: Path, name: str, *, resume: bool = False) -> FileEntry:
        """Send a file and return its entry under the name `name`; with `resume` only what the store has not got of it.

        Raises
        ------
        InvalidInputError
            The name cannot be used.
        UnavailableError
            Catalogue or store do not answer.
        """
        entry = file_entry(path, name)
        self._send(path, entry, resume=resume)
        return entry

    def publish(self, manifest_name: str, manifest: Manifest) -> v1.Entry:
        """Have all files verified, publish them by a manifest that lists them, and return the entry.

        Raises
        ------
        InvalidInputError
            A file is missing or differs from its entry; nothing is published.
        """
        data = manifest.to_bytes()
        with tempfile.NamedTemporaryFile(prefix="parfocal-") as file:
            file.write(data)
            file.flush()
            entry = FileEntry(name=manifest_name, size=len(data), sha256=hashlib.sha256(data).hexdigest())
            self._send(Path(file.name), entry)
        return self._catalog.publish_upload(self._name).entry

    def finish(self, entries: Sequence[FileEntry]) -> None:
        """Have all files verified, where they are inputs of a prediction or in an inbox, which are not published."""
        self._catalog.publish_upload(self._name, [_announced(entry) for entry in entries])

    def abort(self) -> None:
        """Remove what was sent."""
        self._catalog.abort_upload(self._name)

    def _send(self, path: Path, entry: FileEntry, *, resume: bool = False) -> None:
        """Send a file; what the store has of it already is not sent again after a failure, or with `resume`."""
        status = 0
        for attempt in range(_ATTEMPTS):
            # Of a new upload nothing can be there: the store would refuse to replace it.
            signed = self._catalog.sign_uploads(self._name, [_announced(entry)], resume=resume or attempt > 0)[0]
            if signed.done:
                return
            if len(signed.requests) == 1:
                statuses = [self._catalog.send(signed.requests[0], path)]
            else:
                with ThreadPoolExecutor(_PARTS_AT_ONCE) as pool:
                    statuses = list(pool.map(lambda request: self._catalog.send(request, path), signed.requests))
            status = next((each for each in statuses if each >= 300), 0)
            if not status:
                return
            if status not in _GONE:
                break
        raise UnavailableError(
            f"The store refused to take {entry.name} (status {status}). Look whether its disk is full, and into its "
            "log."
        )


@contextlib.contextmanager
def uploading(client: Client, kind: str, name: str = "", request_id: str = "") -> Iterator[Upload]:
    """Begin an upload, and end it where the block is left by an error: then nothing stays of it.

    Parameters
    ----------
    kind
        "dataset", "model", "result", "inputs" or "inbox".
    name
        Name of the dataset or model, whose version is given, or of the inbox.
    request_id
        Names a result or inputs; by default a fresh one.
    """
    request = v1.BeginUploadRequest(
        request_id=request_id or new_request_id(f"upload-{name}"), project=client.project, kind=_KINDS[kind], name=name
    )
    upload = Upload(client, client.catalog.begin_upload(request))
    try:
        yield upload
    except BaseException:
        with contextlib.suppress(ParfocalError):
            upload.abort()
        raise


def _announced(entry: FileEntry) -> v1.UploadFile:
    return v1.UploadFile(name=entry.name, size=entry.size, sha256=entry.sha256)
