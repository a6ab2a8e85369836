"""The few calls of the Kubernetes API that a controller needs, over urllib3, which the store's client brings anyway.

Objects stay the JSON that the API sends: nothing of it is lost or refused because a client library is older than the
cluster. The official client would add 21 MB and six packages to every service for six calls.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import urllib3

from parfocal.runtime.errors import UnavailableError
from parfocal.runtime.settings import Settings

Object = dict[str, Any]
_CONNECT_SECONDS: Final = 5.0
_READ_SECONDS: Final = 20.0
# The API ends a watch after this time; a little later, a connection that went dead silently is given up as well.
WATCH_SECONDS: Final = 240
_TRIES: Final = 4
_WORST_WAIT_SECONDS: Final = 10


class ApiError(Exception):
    """The API refused a call.

    Attributes
    ----------
    status
        HTTP status, e.g. 404; the `code` of an error that came within a watch.
    reason
        Word for it, e.g. "NotFound".
    message
        What the API says.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


class KubernetesApi:
    """Calls the API as the service account whose folder the settings name. Safe to use from several threads.

    A call that the API puts off (429, or 503 with a time) is repeated a few times, as is one whose connection failed,
    unless it creates something: that is for the caller, who knows the name.
    """

    def __init__(self, settings: Settings) -> None:
        self._url = settings.kubernetes_api.rstrip("/")
        self._account = settings.kubernetes_account
        authority = self._account / "ca.crt"
        self._pool = urllib3.PoolManager(
            maxsize=8,
            ca_certs=str(authority) if authority.exists() else None,
            retries=urllib3.Retry(
                total=_TRIES,
                connect=1,
                read=1,
                redirect=0,
                status=_TRIES,
                status_forcelist=(429, 503),
                allowed_methods={"GET", "DELETE"},
                backoff_factor=0.2,
                backoff_max=_WORST_WAIT_SECONDS,
                raise_on_status=False,
                respect_retry_after_header=True,
            ),
        )
        self.namespace = _text(self._account / "namespace") or "default"

    def get(self, path: str, **query: str) -> Object:
        """Return an object or a list; raise ApiError if it is refused, UnavailableError if the API does not answer."""
        return self._call("GET", path, query)

    def create(self, path: str, content: Object) -> Object:
        """Create an object and return it; raise the same errors."""
        return self._call("POST", path, {}, content)

    def delete(self, path: str, options: Mapping[str, Any]) -> None:
        """Delete an object, or do nothing if it is gone; raise the same errors."""
        try:
            self._call("DELETE", path, {}, {"kind": "DeleteOptions", "apiVersion": "v1", **options})
        except ApiError as error:
            if error.status != 404:
                raise

    def watch(self, path: str, **query: str) -> Iterator[tuple[str, Object]]:
        """Yield the kind ("ADDED", "MODIFIED", "DELETED", "BOOKMARK") and object of each change until the stream ends.

        Raises the same errors; an ApiError of status 410 says that the `resourceVersion` is too old.
        """
        query |= {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_SECONDS)}
        timeout = urllib3.Timeout(connect=_CONNECT_SECONDS, read=WATCH_SECONDS + _READ_SECONDS)
        response = self._send("GET", path, query, None, timeout=timeout, stream=True)
        try:
            if response.status >= 400:
                raise _refusal(response.status, response.data)
            rest = b""
            for chunk in response.stream(2**16):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in filter(None, lines):
                    event = json.loads(line)
                    content = event["object"]
                    if event["type"] == "ERROR":
                        status = int(content.get("code", 500))
                        raise ApiError(status, content.get("reason", ""), content.get("message", ""))
                    yield event["type"], content
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise UnavailableError(f"The stream of the Kubernetes API at {self._url} broke: {error}.") from error
        finally:
            response.close()

    def jobs(self, name: str = "") -> str:
        """Return the path of the Jobs of the namespace, or of one of them."""
        return self.path("batch/v1", "jobs", name)

    def path(self, version: str, kind: str, *names: str) -> str:
        """Return the path of objects of the namespace, e.g. of ("v1", "pods")."""
        root = "/api/v1" if version == "v1" else f"/apis/{version}"
        parts = [root, "namespaces", self.namespace, kind, *(quote(name) for name in names if name)]
        return "/".join(parts)

    def _call(self, method: str, path: str, query: Mapping[str, str], content: Object | None = None) -> Object:
        timeout = urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS)
        response = self._send(method, path, query, content, timeout=timeout, stream=False)
        if response.status >= 400:
            raise _refusal(response.status, response.data)
        try:
            answer = json.loads(response.data)
        except ValueError as error:
            raise UnavailableError(f"The Kubernetes API at {self._url} did not answer with JSON.") from error
        return answer if isinstance(answer, dict) else {}

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        content: Object | None,
        *,
        timeout: urllib3.Timeout,
        stream: bool,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": "application/json", "User-Agent": "parfocal"}
        # Read each time: the cluster renews it every hour or so.
        if token := _text(self._account / "token"):
            headers["Authorization"] = f"Bearer {token}"
        body = None
        if content is not None:
            body, headers["Content-Type"] = json.dumps(content).encode(), "application/json"
        url = f"{self._url}{path}" + (f"?{urlencode(query)}" if query else "")
        try:
            return self._pool.request(
                method, url, body=body, headers=headers, timeout=timeout, preload_content=not stream
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise UnavailableError(f"The Kubernetes API at {self._url} does not answer: {error}.") from error


def _refusal(status: int, data: bytes) -> ApiError | UnavailableError:
    """Return the error of an answer; one that may be different in a moment says that the API is not there."""
    try:
        content = json.loads(data)
    except ValueError:
        content = {}
    message = str(content.get("message", "") or f"status {status}") if isinstance(content, dict) else f"status {status}"
    if status == 429 or status >= 500:
        return UnavailableError(f"The Kubernetes API is too busy or out of order: {message}.")
    reason = str(content.get("reason", "")) if isinstance(content, dict) else ""
    return ApiError(status, reason, message)


def _text(path: Path) -> str:
    """Return the content of a small file; nothing if there is none."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
