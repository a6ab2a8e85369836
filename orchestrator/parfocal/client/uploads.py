"""Files from this computer to the store: by requests that the catalogue has signed, and published by the catalogue."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

from parfocal import v1
from parfocal.client.client import Client
from parfocal.client.transfer import OnProgress, no_progress
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
_T = TypeVar("_T")
_R = TypeVar("_R")
_ATTEMPTS: Final = 3
_PAUSE_SECONDS: Final = 2.0
_THREADS: Final = 4
_SIGNED_AT_ONCE: Final = 100
_GROUP_BYTES: Final = 64 * 2**20
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

        def ready(item: tuple[str, _T]) -> tuple[ToSend, FileEntry]:
            file = prepare(item[1])
            return file, file_entry(file.path, file.name)

        def finish() -> None:
            for future in sent:
                future.result()
                on_progress(len(items) - len(names) + 1, len(items), names.popleft())

        with ThreadPoolExecutor(_THREADS) as preparing, ThreadPoolExecutor(_THREADS) as sending:
            try:
                for group in _groups(_ahead(preparing, ready, items)):
                    entries += [entry for _, entry in group]
                    signed = self._catalog.sign_uploads(self._name, [_announced(entry) for _, entry in group])
                    # The group before was sent while this one was made ready.
                    finish()
                    sent = [
                        sending.submit(self._send_ready, file, entry, request)
                        for (file, entry), request in zip(group, signed, strict=True)
                    ]
                finish()
            except BaseException:
                # Also on Ctrl-C: what has not begun must not begin.
                preparing.shutdown(wait=True, cancel_futures=True)
                sending.shutdown(wait=True, cancel_futures=True)
                raise
        return entries

    def _send_ready(self, file: ToSend, entry: FileEntry, signed: v1.FileUpload) -> None:
        self._send(file.path, entry, signed)
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
            entry = FileEntry(name=manifest_name, size=len(data), sha256=hashlib.sha256(data).hexdigest())
            self._send(Path(file.name), entry)
        return self._catalog.publish_upload(self._name).entry

    def finish(self, entries: Sequence[FileEntry]) -> None:
        """Have all files verified, where they are inputs of a prediction or in an inbox, which are not published."""
        self._catalog.publish_upload(self._name, [_announced(entry) for entry in entries])

    def abort(self) -> None:
        """Remove what was sent."""
        self._catalog.abort_upload(self._name)

    def _send(self, path: Path, entry: FileEntry, signed: v1.FileUpload | None = None, *, resume: bool = False) -> None:
        """Send a file, by `signed` if that is given; with `resume` only what the store lacks."""
        status = 0
        for attempt in range(_ATTEMPTS):
            # Of a new upload nothing can be there: the store would refuse to replace it.
            if signed is None or attempt:
                again = resume or attempt > 0
                signed = self._catalog.sign_uploads(self._name, [_announced(entry)], resume=again)[0]
            if signed.done:
                return
            try:
                if len(signed.requests) == 1:
                    statuses = [self._catalog.send(signed.requests[0], path)]
                else:
                    with ThreadPoolExecutor(_PARTS_AT_ONCE) as pool:
                        statuses = list(pool.map(partial(self._catalog.send, path=path), signed.requests))
            except UnavailableError:
                # A busy store may miss one part of many, and what it has got is not sent again.
                if attempt == _ATTEMPTS - 1:
                    raise
                time.sleep(_PAUSE_SECONDS * (attempt + 1))
                continue
            status = next((each for each in statuses if each >= 300), 0)
            if not status:
                return
            if status not in _GONE:
                break
        raise UnavailableError(
            f"The store refused to take {entry.name} (status {status}). Look whether its disk is full, and into its "
            "log."
        )


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


def _groups(ready: Iterable[tuple[ToSend, FileEntry]]) -> Iterator[list[tuple[ToSend, FileEntry]]]:
    """Yield files in groups that are signed by one call; large ones in small groups, as copies take room on a disk."""
    group: list[tuple[ToSend, FileEntry]] = []
    for item in ready:
        group.append(item)
        if len(group) == _SIGNED_AT_ONCE or sum(entry.size for _, entry in group) >= _GROUP_BYTES:
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


def _announced(entry: FileEntry) -> v1.UploadFile:
    return v1.UploadFile(name=entry.name, size=entry.size, sha256=entry.sha256)
