"""Uploads request by request, as clients of any language make them."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from typing import Any

import urllib3

from parfocal import v1

Call = Callable[..., Any]
HTTP = urllib3.PoolManager(retries=False)


class Sender:
    """An upload that sends files as a client does; the statuses of the store are what `send` returns."""

    def __init__(self, call: Call, name: str = "beads", kind: str = "UPLOAD_KIND_DATASET") -> None:
        self.call = call
        self.request = f"upload-{uuid.uuid4().hex}"
        self.begun = call("BeginUpload", request_id=self.request, kind=kind, name=name)

    def sign(self, name: str, data: bytes, *, resume: bool = False, part: int = 0) -> v1.FileUpload:
        """Return how a file is sent; with `part` the digests of its parts of so many bytes are announced."""
        file = announced(name, data, part)
        return self.call("SignUploads", upload=self.begun.upload, files=[file], resume=resume).files[0]

    def send(self, name: str, data: bytes, *, part: int = 0) -> list[int]:
        return [put(request, data) for request in self.sign(name, data, part=part).requests]

    def publish(self, **fields: Any) -> Any:
        return self.call("PublishUpload", upload=self.begun.upload, **fields)


def put(request: v1.SignedRequest, data: bytes, *, whole: bool = False, **headers: str) -> int:
    """Send what a request asks for of `data`, or all of it, and return the status."""
    body = data if whole else data[request.offset : request.offset + request.length]
    return HTTP.request(request.method, request.url, body=body, headers={**request.headers, **headers}).status


def announced(name: str, data: bytes, part: int = 0) -> v1.UploadFile:
    """Return how a file is announced."""
    md5s = [hashlib.md5(data[begin : begin + part]).digest() for begin in range(0, len(data), part)] if part else []
    digest = hashlib.sha256(data).hexdigest()
    return v1.UploadFile(name=name, size=len(data), sha256=digest, part_md5s=md5s, part_size=part)
