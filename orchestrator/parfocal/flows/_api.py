"""A handful of calls of Prefect's HTTP API, for commands: to import Prefect itself takes seconds."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from http import HTTPStatus
from http.client import HTTPException
from typing import Any

from parfocal.runtime.errors import NotFoundError, UnavailableError

_TIMEOUT = 20.0
_TRIES, _PAUSE = 5, 0.5
# The server is on this computer: never through a proxy.
_HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class PrefectApi:
    """The server at an address that ends in "/api".

    Parameters
    ----------
    url
        The address.
    auth
        User and password, "user:password"; empty: it asks for none.
    """

    def __init__(self, url: str, auth: str = "") -> None:
        self._url = url
        self._auth = {"Authorization": f"Basic {b64encode(auth.encode()).decode()}"} if auth else {}

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return the answer to a call of `path` with a body, both as JSON; None where the answer is empty.

        Raises
        ------
        NotFoundError
            The server knows no such thing.
        UnavailableError
            It does not answer, or refuses.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **self._auth}
        for attempt in range(1, _TRIES + 1):
            request = urllib.request.Request(self._url + path, data, headers, method=method)
            try:
                with _HTTP.open(request, timeout=_TIMEOUT) as response:
                    text = response.read()
                return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                if error.code == HTTPStatus.NOT_FOUND:
                    error.close()
                    raise NotFoundError(f"Prefect at {self._url} does not know {path}.") from error
                with error:
                    problem = f"{error.code} {error.read(300).decode(errors='replace')}"
                # SQLite was locked for a moment; the server asks to try again.
                if error.code != HTTPStatus.SERVICE_UNAVAILABLE or attempt == _TRIES:
                    raise UnavailableError(f"Prefect at {self._url} refused {path}: {problem}") from error
                time.sleep(_PAUSE)
            except (OSError, HTTPException, ValueError) as error:
                raise UnavailableError(f"Prefect at {self._url} does not answer: {error}") from error
        raise AssertionError("not reached")
