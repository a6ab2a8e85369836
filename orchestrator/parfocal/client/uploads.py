"""Files from this computer to the store: by requests that the catalogue has signed, and published by the catalogue."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from parfocal import v1
from parfocal.client.client import Client
from parfocal.client.transfer import OnProgress, no_progress
from parfocal.runtime.errors import ParfocalError, UnavailableError
from parfocal.runtime.store.manifests import FileEntry, Manifest
from parfocal.runtime.store.names import new_request_id
from parfocal.runtime.store.parts import PART_BYTES, digests_of, part_size
from parfocal.runtime.store.publish import sha256_of

_KINDS: Final = {
    "dataset": v1.UPLOAD_KIND_DATASET,
    "model": v1.UPLOAD_KIND_MODEL,
    "result": v1.UPLOAD_KIND_RESULT,
    "inputs": v1.UPLOAD_KIND_INPUTS,
    "inbox": v1.UPLOAD_KIND_INBOX,
}
_T = TypeVar("_T")
_R = TypeVar("_R")
_ATTEMPTS: Final = 3
_PAUSE_SECONDS: Final = 2.0
_THREADS: Final = 4
_SIGNED_AT_ONCE: Final = 100
_GROUP_BYTES: Final = 64 * 2**20
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
        announced = _announce(path, name)
        self._send(path, announced, resume=resume)
        return _entry(announced)

    def send_all(
        self, items: Sequence[tuple[str, _T]], prepare: Callable[[_T], ToSend], on_progress: OnProgress = no_progress
    ) -> list[FileEntry]:
        """Send many files, several at once, and return their entries in order; the first failure ends all.

        Parameters
        ----------
        items
            What the files are made from, with the names that `on_progress` is told.
        prepare
            Makes the file of an item ready; called in several threads.

        Raises
        ------
        InvalidInputError, UnavailableError
            As by `send`.
        """
        names = deque(name for name, _ in items)
        entries: list[FileEntry] = []
        sent: list[Future[None]] = []

        def ready(item: tuple[str, _T]) -> tuple[ToSend, v1.UploadFile]:
            file = prepare(item[1])
            return file, _announce(file.path, file.name)

        def finish() -> None:
            for future in sent:
                future.result()
                on_progress(len(items) - len(names) + 1, len(items), names.popleft())

        with ThreadPoolExecutor(_THREADS) as preparing, ThreadPoolExecutor(_THREADS) as sending:
            try:
                for group in _groups(_ahead(preparing, ready, items)):
                    entries += [_entry(announced) for _, announced in group]
                    signed = self._catalog.sign_uploads(self._name, [announced for _, announced in group])
                    # The group before was sent while this one was made ready.
                    finish()
                    sent = [
                        sending.submit(self._send_ready, file, announced, request)
                        for (file, announced), request in zip(group, signed, strict=True)
                    ]
                finish()
            except BaseException:
                # Also on Ctrl-C: what has not begun must not begin.
                preparing.shutdown(wait=True, cancel_futures=True)
                sending.shutdown(wait=True, cancel_futures=True)
                raise
        return entries

    def _send_ready(self, file: ToSend, announced: v1.UploadFile, signed: v1.FileUpload) -> None:
        self._send(file.path, announced, signed)
        if file.is_copy:
            file.path.unlink()

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
            self._send(Path(file.name), _announce(Path(file.name), manifest_name))
        return self._catalog.publish_upload(self._name).entry

    def finish(self, entries: Sequence[FileEntry]) -> None:
        """Have all files verified, where they are inputs of a prediction or in an inbox, which are not published."""
        files = [v1.UploadFile(name=entry.name, size=entry.size, sha256=entry.sha256) for entry in entries]
        self._catalog.publish_upload(self._name, files)

    def abort(self) -> None:
        """Remove what was sent."""
        self._catalog.abort_upload(self._name)

    def _send(
        self, path: Path, announced: v1.UploadFile, signed: v1.FileUpload | None = None, *, resume: bool = False
    ) -> None:
        """Send a file, by `signed` if that is given; with `resume` only what the store lacks."""
        attempt, status, before = 0, 0, set[tuple[int, ...]]()
        while True:
            if signed is None:
                signed = self._catalog.sign_uploads(self._name, [announced], resume=resume)[0]
            if signed.done:
                return
            # Of a new upload nothing can be there; from now on it can, and the store would refuse to replace it.
            requests, signed, resume = signed.requests, None, True
            offsets = tuple(request.offset for request in requests)
            # Requests expire, so that a large file takes several rounds on a slow line: whatever has arrived counts. In
            # a store that loses parts the same ones are missing again, if not each time.
            attempt = attempt + 1 if offsets in before else 1
            before.add(offsets)
            if attempt > _ATTEMPTS:
                break
            try:
                status = self._send_each(path, requests)
            except UnavailableError:
                # A busy store may miss one part of many, and what it has got is not sent again.
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(_PAUSE_SECONDS * attempt)
                continue
            # Of a file in parts the catalogue says when it is complete.
            if not status and requests[0].length == announced.size:
                return
            if status and status not in _GONE:
                break
        raise UnavailableError(
            f"The store refused to take {announced.name} (status {status}). Check that the file does not change while "
            "it is sent, and whether the disk of the store is full; its log says more."
        )

    def _send_each(self, path: Path, requests: Sequence[v1.SignedRequest]) -> int:
        """Send a file by all its requests until one is refused; return the status of that, or 0."""
        refused: list[int] = []

        def send(request: v1.SignedRequest) -> None:
            if not refused:
                status = self._catalog.send(request, path)
                if status >= 300:
                    refused.append(status)

        if len(requests) == 1:
            send(requests[0])
        else:
            with ThreadPoolExecutor(_PARTS_AT_ONCE) as pool:
                list(pool.map(send, requests))
        return refused[0] if refused else 0


@dataclass(frozen=True)
class ToSend:
    """A file that is ready to be sent.

    Attributes
    ----------
    path, name
        Where it is, and what it is called in the upload.
    is_copy
        Whether it is removed once it has been sent.
    """

    path: Path
    name: str
    is_copy: bool = False


def _ahead(pool: ThreadPoolExecutor, action: Callable[[_T], _R], items: Iterable[_T]) -> Iterator[_R]:
    """Yield `action` of each item in order; a few are worked at before they are asked for."""
    left, begun = iter(items), deque[Future[_R]]()
    while True:
        begun.extend(pool.submit(action, item) for item in islice(left, _THREADS - len(begun)))
        if not begun:
            return
        yield begun.popleft().result()


def _groups(ready: Iterable[tuple[ToSend, v1.UploadFile]]) -> Iterator[list[tuple[ToSend, v1.UploadFile]]]:
    """Yield files in groups that are signed by one call; large ones in small groups, as copies take room on a disk."""
    group: list[tuple[ToSend, v1.UploadFile]] = []
    for item in ready:
        group.append(item)
        if len(group) == _SIGNED_AT_ONCE or sum(announced.size for _, announced in group) >= _GROUP_BYTES:
            yield group
            group = []
    if group:
        yield group


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


def _announce(path: Path, name: str) -> v1.UploadFile:
    """Return what the catalogue is told of a file: of a large one with the digests of its parts."""
    size = path.stat().st_size
    if size <= PART_BYTES:
        return v1.UploadFile(name=name, size=size, sha256=sha256_of(path))
    part = part_size(size)
    sha256, md5s = digests_of(path, part)
    return v1.UploadFile(name=name, size=size, sha256=sha256, part_md5s=md5s, part_size=part)


def _entry(announced: v1.UploadFile) -> FileEntry:
    return FileEntry(name=announced.name, size=announced.size, sha256=announced.sha256)
