"""What every request to the portal must fulfil, and what every answer says to the browser.

Another site that is open in the same browser must be able neither to read pages nor to send forms in a user's name.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Final

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
TOKEN_FIELD: Final = "csrf"
TOKEN_HEADER: Final = "x-csrf-token"
REPORT_POLICY: Final = (
    "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'"
)
"""Of reports, which services wrote: nothing in them runs, whatever they contain."""

_FORMS: Final = ("application/x-www-form-urlencoded", "multipart/form-data")
_COOKIE: Final = "parfocal_session"
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; worker-src 'self'; "
    "frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class RefusedError(Exception):
    """A form was not sent by one of the portal's own pages."""


class Guard:
    """Refuses requests under a foreign name or from a foreign page; gives each browser a session.

    Parameters
    ----------
    app
        The application behind it.
    hosts
        The values of the header Host that are accepted; empty: all, where a proxy in front checks it.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        problem = self._problem(scope["method"], headers)
        if problem:
            await PlainTextResponse(problem, 403, dict(_HEADERS))(scope, receive, send)
            return
        # As browsers send them: other programs of this computer set cookies of any name for the same host.
        known = cookie_parser(headers.get("cookie", "")).get(_COOKIE, "")
        session = known if len(known) >= 32 else secrets.token_urlsafe(32)
        scope.setdefault("state", {})["session"] = session

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    found.setdefault(name, value)
                if session != known:
                    found.append("Set-Cookie", f"{_COOKIE}={session}; Path=/; HttpOnly; SameSite=Lax")
            await send(message)

        await self._app(scope, receive, answer)

    def _problem(self, method: str, headers: Headers) -> str:
        host = headers.get("host", "")
        if self._hosts and host not in self._hosts:
            return f"The portal is not called {host!r}. Open the address that `parfocal status` shows."
        if method in SAFE_METHODS:
            return ""
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] == host:
            return ""
        return "This request came from another site and was refused. Open the page again and repeat it there."


def form_token(key: bytes, session: str) -> str:
    """Return what forms of a session must carry; another site cannot read it."""
    return hmac.new(key, session.encode(), hashlib.sha256).hexdigest()


def token_key(folder: Path) -> bytes:
    """Return the key of all tokens, which a folder of this computer keeps, so that open forms outlast a restart."""
    path = folder / "forms.key"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(32))
    # An empty file was left by a portal that ended while it wrote: then forms do not outlast this run.
    return path.read_bytes() or secrets.token_bytes(32)


async def require_token(request: Request) -> AsyncIterator[None]:
    """Raise RefusedError unless a request that changes something carries the token of its session.

    A form that was read, here or by the page, is closed with its files when the request has been answered.
    """
    try:
        if request.method not in SAFE_METHODS:
            given = request.headers.get(TOKEN_HEADER, "")
            if not given and request.headers.get("content-type", "").startswith(_FORMS):
                given = str((await request.form()).get(TOKEN_FIELD, ""))
            expected = form_token(request.app.state.portal.key, request.state.session)
            if not hmac.compare_digest(given.encode(), expected.encode()):
                raise RefusedError
        yield
    finally:
        await request.close()
