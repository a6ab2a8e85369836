"""A store that ignores part of what was signed: a real one behind a server that signs such requests anew without it."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import urllib3
from minio import Minio
from support import S3Server

_CHECKSUM = "x-amz-checksum-sha256"
_HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive"}


class CarelessStore:
    """Passes everything on to a store, except what the requests of uploads have signed about their body.

    Parameters
    ----------
    server
        The store.
    ignored
        Names of the signed headers that are dropped, in lower case; the length of the body is always ignored.
    """

    def __init__(self, server: S3Server, *ignored: str) -> None:
        self._server = server
        self._ignored = {_CHECKSUM, *ignored}
        self._http = urllib3.PoolManager(retries=False, maxsize=16)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_arguments: Any) -> None:
                pass

        for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
            setattr(Handler, f"do_{method}", lambda request: self._pass_on(request))
        self._listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._host = f"127.0.0.1:{self._listener.server_address[1]}"
        # The store checks the signature against the name under which the client spoke to it.
        self._signer = Minio(self._host, server.access_key, server.secret_key, secure=False, region="us-east-1")
        self._thread = Thread(target=self._listener.serve_forever)
        self._thread.start()

    @property
    def environment(self) -> dict[str, str]:
        """The settings of a service that uses it."""
        return {**self._server.environment, "PARFOCAL_S3_ENDPOINT": f"http://{self._host}"}

    def close(self) -> None:
        self._listener.shutdown()
        self._thread.join()
        self._listener.server_close()
        self._http.clear()

    def _pass_on(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        path, headers = request.path, dict(request.headers)
        url = urlsplit(path)
        if _CHECKSUM in parse_qs(url.query).get("X-Amz-SignedHeaders", [""])[0].split(";"):
            bucket, _, key = unquote(url.path).lstrip("/").partition("/")
            path = self._signer.presigned_put_object(bucket, key).removeprefix(f"http://{self._host}")
            headers = {name: value for name, value in headers.items() if name.lower() not in self._ignored}
        answer = self._http.request(
            request.command, self._server.endpoint + path, body=body or None, headers=headers, decode_content=False
        )
        request.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in _HOP_BY_HOP | {"content-length"}:
                request.send_header(name, value)
        # The answer to HEAD has the length of what it does not bring.
        length = answer.headers.get("Content-Length", "0") if request.command == "HEAD" else str(len(answer.data))
        request.send_header("Content-Length", length)
        request.end_headers()
        request.wfile.write(answer.data)
