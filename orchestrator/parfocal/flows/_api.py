"""A handful of calls of Prefect's HTTP API, for commands: to import Prefect itself takes seconds."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import urllib3

from parfocal.runtime.errors import NotFoundError, UnavailableError

_TIMEOUT = 20.0
# Where SQLite was locked for a moment the server asks to try again; that is done for about two seconds.
_RETRIES = urllib3.Retry(
    total=None,
    connect=0,
    read=0,
    redirect=0,
    other=0,
    status=4,
    status_forcelist=[HTTPStatus.SERVICE_UNAVAILABLE],
    allowed_methods=None,
    backoff_factor=0.15,
    respect_retry_after_header=False,
    raise_on_status=False,
)
# The server is on this computer: never through a proxy.
_HTTP = urllib3.PoolManager(timeout=_TIMEOUT, retries=_RETRIES)


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
        known = {"Authorization": f"Basic {b64encode(auth.encode()).decode()}"} if auth else {}
        # Calls are rare: a connection that was kept might be closed by the server just when it is used again.
        self._headers = {"Connection": "close", "Content-Type": "application/json", **known}

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return the answer to a call of `path` with a body, both as JSON; None where the answer is empty.

        Raises
        ------
        NotFoundError
            The server knows no such thing.
        UnavailableError
            It does not answer, or refuses.
        """
        try:
            answer = _HTTP.request(method, self._url + path, json=body, headers=self._headers)
            if answer.status == HTTPStatus.NOT_FOUND:
                raise NotFoundError(f"Prefect at {self._url} does not know {path}.")
            if answer.status >= HTTPStatus.BAD_REQUEST:
                problem = f"{answer.status} {answer.data[:300].decode(errors='replace')}"
                raise UnavailableError(f"Prefect at {self._url} refused {path}: {problem}")
            return answer.json() if answer.data else None
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise UnavailableError(f"Prefect at {self._url} does not answer: {error}") from error
