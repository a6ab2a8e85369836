"""The requests that the catalogue signs and a client makes of the store itself: files go there and come from there."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import urllib3

from parfocal import v1
from parfocal.runtime.errors import InvalidInputError, UnavailableError, Violation

_SIGNATURE: Final = "X-Amz-Signature"
# Bytes that are read and sent at a time: whole parts in memory took as long to make room for as to hash.
_BLOCK: Final = 2**20


def _without_signatures(record: logging.LogRecord) -> bool:
    """Shorten signed addresses in what the HTTP library logs: whoever has one can send or fetch a file with it."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            each.partition("?")[0] if isinstance(each, str) and _SIGNATURE in each else each for each in record.args
        )
    return True


for _name in ("urllib3.connectionpool", "urllib3.util.retry"):
    logging.getLogger(_name).addFilter(_without_signatures)


class _Part:
    """A part of a file as one that the HTTP library can read, and read again when it repeats a request."""

    def __init__(self, file: io.FileIO, name: str, offset: int, length: int) -> None:
        self._file = file
        self._name = name
        self._end = offset + length
        self.tell = file.tell
        self.seek = file.seek
        file.seek(offset)

    def read(self, size: int) -> bytes:
        left = self._end - self._file.tell()
        data = self._file.read(min(size, left))
        if left and not data:
            # The store would wait for the rest.
            text = "has become shorter while it was sent"
            raise InvalidInputError(f"{self._name} {text}. Send it once it is complete.", [Violation(self._name, text)])
        return data


class SignedRequests:
    """Makes signed requests. Safe to use from several threads."""

    def __init__(self) -> None:
        self._http = urllib3.PoolManager(
            maxsize=16,
            blocksize=_BLOCK,
            # The first one also limits how long a piece of a file may take to go out, on slow lines or to a busy store.
            timeout=urllib3.Timeout(connect=30.0, read=60.0),
            # A request that creates an object may be repeated: the second one is refused if the first has arrived.
            retries=urllib3.Retry(
                total=4,
                connect=1,
                backoff_factor=0.2,
                status_forcelist=(500, 502, 503, 504),
                allowed_methods={"GET", "PUT"},
            ),
        )

    def close(self) -> None:
        """Close the connections to the store."""
        self._http.clear()

    def send(self, request: v1.SignedRequest, path: Path) -> int:
        """Send the part of a file that a signed request is for, and return the status that the store answers."""
        with path.open("rb", buffering=0) as file:
            answer = self._ask(request, body=_Part(file, path.name, request.offset, request.length))
        answer.drain_conn()
        return answer.status

    def fetch(self, request: v1.SignedRequest, path: Path) -> int:
        """Write what a signed request fetches to a file, and return the status that the store answers."""
        answer = self._ask(request, preload_content=False)
        try:
            with path.open("wb") as file:
                for data in answer.stream(2**20):
                    file.write(data)
        except urllib3.exceptions.HTTPError:
            raise self._silent(request) from None
        finally:
            answer.release_conn()
        return answer.status

    def _ask(self, request: v1.SignedRequest, **options: Any) -> urllib3.BaseHTTPResponse:
        try:
            return self._http.request(request.method, request.url, headers=dict(request.headers), **options)
        except urllib3.exceptions.HTTPError:
            # Its message has the address, which is a secret.
            raise self._silent(request) from None

    @staticmethod
    def _silent(request: v1.SignedRequest) -> UnavailableError:
        return UnavailableError(
            f"The store at {urlsplit(request.url).netloc} does not answer. Check that it runs and can be reached from "
            "here (`parfocal status`), and try again."
        )
