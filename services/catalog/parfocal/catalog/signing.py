"""Requests that others may send to the store, signed for a quarter of an hour.

The client library of the store signs nothing but the host. Here the length of the body, its checksum and the condition
that the object must not exist yet are signed as well, so that whoever has the address can send exactly one file.
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import quote, urlencode

import urllib3
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from parfocal import v1
from parfocal.runtime.errors import InvalidInputError, PreconditionError, UnavailableError
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.store import Location, Store

LIFETIME: Final = timedelta(minutes=15)
CHECKSUM_HEADER: Final = "x-amz-checksum-sha256"


class Signer:
    """Signs requests with the key of the store.

    Parameters
    ----------
    settings
        Key and region of the store, and the endpoint under which clients reach it.
    public
        False for requests that are sent from here.
    """

    def __init__(self, settings: Settings, *, public: bool = True) -> None:
        self._endpoint = ((public and settings.s3_public_endpoint) or settings.s3_endpoint).rstrip("/")
        url = urllib3.util.parse_url(self._endpoint)
        if url.scheme not in {"http", "https"} or not url.host or url.query:
            raise InvalidInputError(
                f"PARFOCAL_S3_PUBLIC_ENDPOINT is {self._endpoint!r}; it must be a URL such as https://store.example.org."
            )
        self._region = settings.s3_region
        self._key = Credentials(settings.s3_access_key.get_secret_value(), settings.s3_secret_key.get_secret_value())

    @staticmethod
    def expires_at() -> datetime:
        """Return when what is signed now expires."""
        return datetime.now(UTC) + LIFETIME

    def get(self, location: Location, size: int) -> v1.SignedRequest:
        """Return the request that fetches an object of `size` bytes, or by a header `Range` a part of it."""
        return self._sign("GET", location, {}, {}, length=size)

    def put(self, location: Location, size: int, sha256: str, *, replace: bool = False) -> v1.SignedRequest:
        """Return the request that creates an object of exactly this size and digest.

        With `replace` the object may exist.
        """
        headers = {"Content-Length": str(size), CHECKSUM_HEADER: base64.b64encode(bytes.fromhex(sha256)).decode()}
        if not replace:
            headers["If-None-Match"] = "*"
        return self._sign("PUT", location, headers, {}, length=size)

    def put_part(
        self, location: Location, upload_id: str, number: int, offset: int, size: int, md5: bytes = b""
    ) -> v1.SignedRequest:
        """Return the request that sends one part of a large file: of exactly this size, and digest if that is known."""
        query = {"partNumber": str(number), "uploadId": upload_id}
        headers = {"Content-Length": str(size)}
        if md5:
            # Not SHA-256: AWS takes it of parts only where it was announced with the first request, and then demands it
            # of every part, also from clients that do not know it.
            headers["Content-MD5"] = base64.b64encode(md5).decode()
        return self._sign("PUT", location, headers, query, length=size, offset=offset)

    def _sign(
        self,
        method: str,
        location: Location,
        headers: Mapping[str, str],
        query: Mapping[str, str],
        *,
        length: int,
        offset: int = 0,
    ) -> v1.SignedRequest:
        url = f"{self._endpoint}/{quote(location.bucket)}/{quote(location.key)}"
        url += f"?{urlencode(query)}" if query else ""
        request = AWSRequest(method=method, url=url, headers=dict(headers))
        S3SigV4QueryAuth(self._key, "s3", self._region, expires=int(LIFETIME.total_seconds())).add_auth(request)
        return v1.SignedRequest(method=method, url=request.url, headers=headers, offset=offset, length=length)


def ignored_by(store: Store) -> str:
    """Try what the store takes although it differs from what was signed; whatever this writes is removed again.

    Returns
    -------
    str
        The signed header that it ignores; empty where it keeps all of them.

    Raises
    ------
    PreconditionError
        It refuses what was signed.
    UnavailableError
        The store does not answer.
    """
    signer = Signer(store.settings, public=False)
    data = b"Parfocal tries the store."
    digest = hashlib.sha256(data).hexdigest()
    places = [store.datasets / ".promises" / uuid.uuid4().hex for _ in range(3)]
    first, other, longer = (signer.put(place, len(data), digest) for place in places)
    http = urllib3.PoolManager(timeout=urllib3.Timeout(connect=5.0, read=25.0), retries=False)
    try:
        if not _sent(http, first, data):
            raise PreconditionError(
                f"The store at {store.settings.s3_endpoint} cannot take uploads: an object that was announced was "
                "refused. Take a newer version or another store: docs/operating.md has a table."
            )
        if _sent(http, first, data):
            return "If-None-Match"
        if _sent(http, other, bytes(reversed(data))):
            return CHECKSUM_HEADER
        if _sent(http, longer, data + b".", {"Content-Length": str(len(data) + 1)}):
            return "Content-Length"
        return ""
    except urllib3.exceptions.HTTPError as error:
        raise UnavailableError(f"The store at {store.settings.s3_endpoint} does not answer.") from error
    finally:
        http.clear()
        for place in places:
            store.delete(place)


def _sent(
    http: urllib3.PoolManager, request: v1.SignedRequest, body: bytes, headers: Mapping[str, str] | None = None
) -> bool:
    answer = http.request(request.method, request.url, body=body, headers={**request.headers, **(headers or {})})
    if answer.status >= 500:
        raise urllib3.exceptions.HTTPError(f"status {answer.status}")
    return answer.status < 300
