"""What every request to the portal must fulfil, and what every answer says to the browser.

Another site that is open in the same browser must be able neither to read pages nor to send forms in a user's name.
Where there are identities, nothing but the pages for signing in is answered to somebody who is not signed in.
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
from urllib.parse import quote, urlsplit

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from parfocal.portal.sessions import ENDED, Session, Sessions
from parfocal.runtime.access.actions import Action
from parfocal.runtime.access.identity import UNVERIFIED
from parfocal.runtime.errors import ParfocalError, UnauthenticatedError

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
_SIGNED_IN: Final = "parfocal_sign_in"
_HEALTH: Final = "/health"
_PUBLIC: Final = frozenset({_HEALTH, "/theme", "/sign-in", "/sign-in/start", "/sign-in/callback", "/signed-out"})
_FILES: Final = "/static/"
# What an open page asks for again and again, whether anybody looks at it or not.
_BY_ITSELF: Final = "/jobs/active"
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
    """Refuses requests under a foreign name, from a foreign page or without sign-in; knows the browser and the person.

    Parameters
    ----------
    app
        The application behind it.
    hosts
        The values of the header Host that are accepted; empty: all, where a proxy in front checks it.
    sessions
        Who is signed in.
    secure
        Whether browsers reach the portal over TLS alone: then they send its cookies in no other way.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], sessions: Sessions, *, secure: bool) -> None:
        self._app = app
        self._hosts = frozenset(hosts)
        self._sessions = sessions
        self._secure = secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        fixed = _HEADERS | ({"Strict-Transport-Security": "max-age=31536000"} if self._secure else {})
        # Probes of a cluster call by the address of a container, and learn nothing but that the portal answers.
        problem = "" if scope["path"] == _HEALTH else self._problem(scope["method"], headers)
        if problem:
            await PlainTextResponse(problem, 403, fixed)(scope, receive, send)
            return
        # As browsers send them: other programs of this computer set cookies of any name for the same host.
        cookies = cookie_parser(headers.get("cookie", ""))
        known = cookies.get(cookie_name(_COOKIE, secure=self._secure), "")
        browser = known if len(known) >= 32 else secrets.token_urlsafe(32)
        state = scope.setdefault("state", {})
        state |= {"browser": browser, "secure": self._secure, "session": None, "number": ""}

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = MutableHeaders(scope=message)
                for name, value in fixed.items():
                    found.setdefault(name, value)
                if browser != known:
                    found.append("Set-Cookie", cookie(_COOKIE, browser, secure=self._secure))
            await send(message)

        refusal = None
        if not self._sessions.gate.is_open:
            number = cookies.get(cookie_name(_SIGNED_IN, secure=self._secure), "")
            session, refusal = await self._signed_in(number, used=not scope["path"].endswith(_BY_ITSELF))
            state |= {"session": session, "number": number if session else ""}
            path = scope["path"]
            if path in _PUBLIC or path.startswith(_FILES):
                refusal = None
            elif refusal is None and session is None:
                refusal = _sign_in_first(scope, headers, was_signed_in=bool(number))
        await (refusal or self._app)(scope, receive, answer)

    async def _signed_in(self, number: str, *, used: bool) -> tuple[Session | None, Response | None]:
        """Return the session of a browser, with a token that is valid now, or what to answer where that fails."""
        session = self._sessions.find(number, used=used)
        if session is None or session.is_fresh:
            return session, None
        try:
            await run_in_threadpool(session.token)
        except UnauthenticatedError:
            return None, None
        except ParfocalError as error:
            return None, PlainTextResponse(error.message, 503)
        return session, None

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


def cookie_name(name: str, *, secure: bool) -> str:
    """Return what a cookie is called: with the prefix, browsers take it over TLS and from this host alone."""
    return f"__Host-{name}" if secure else name


def cookie(name: str, value: str, *, secure: bool, seconds: int | None = None) -> str:
    """Return the header that sets a cookie which no script can read; for 0 `seconds` the browser forgets it."""
    age = f"; Max-Age={seconds}" if seconds is not None else ""
    return f"{cookie_name(name, secure=secure)}={value}; Path=/; HttpOnly; SameSite=Lax{age}" + (
        "; Secure" if secure else ""
    )


def signed_in_cookie(number: str, *, secure: bool) -> str:
    """Return the header that makes a browser show the number of a session; "" makes it forget it."""
    return cookie(_SIGNED_IN, number, secure=secure, seconds=None if number else 0)


def is_own_path(path: str) -> bool:
    """Return whether a browser that is sent to `path` stays in the portal."""
    parts = urlsplit(path)
    inside = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return inside and not parts.scheme and not parts.netloc


def _sign_in_first(scope: Scope, headers: Headers, *, was_signed_in: bool) -> Response:
    """Return the way to the page for signing in, and back; programs and parts of pages are told so."""
    # Parts of pages are asked for by a script, which shows what to do and loses nothing of what was typed.
    mode = headers.get("sec-fetch-mode", "navigate" if "text/html" in headers.get("accept", "") else "")
    if mode != "navigate" or "hx-request" in headers:
        return PlainTextResponse(ENDED, 401)
    why = "ended" if was_signed_in else ""
    path = scope["path"] + (f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else "")
    if scope["method"] not in SAFE_METHODS:
        # The page with the form, which the browser still has.
        came_from = urlsplit(headers.get("referer", ""))
        path, why = came_from.path + (f"?{came_from.query}" if came_from.query else ""), "form"
    path = path if is_own_path(path) else "/"
    return RedirectResponse(f"/sign-in?next={quote(path, safe='')}" + (f"&why={why}" if why else ""), 303)


def form_token(key: bytes, browser: str, person: str = "") -> str:
    """Return what forms in a browser must carry; another site cannot read it, and another person has another one."""
    return hmac.new(key, f"{browser}\0{person}".encode() if person else browser.encode(), hashlib.sha256).hexdigest()


def token_of(request: Request) -> str:
    """Return what the forms of the page that is asked for must carry."""
    session: Session | None = request.state.session
    person = session.identity.name if session is not None else ""
    return form_token(request.app.state.portal.key, request.state.browser, person)


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
            if not hmac.compare_digest(given.encode(), token_of(request).encode()):
                raise RefusedError
        yield
    finally:
        await request.close()


def require_role(request: Request) -> None:
    """Raise what a service would answer where somebody may not see a project, or may only look at it.

    Services decide as well, but none of them protects what the portal holds: uploads, and words on work under way.

    Raises
    ------
    NotFoundError, PermissionDeniedError
        As `Gate.require`.
    """
    _require(request, Action.READ if request.method in SAFE_METHODS else Action.WORK)


def require_work(request: Request) -> None:
    """Raise PermissionDeniedError in a service's words where somebody may only look at a project."""
    _require(request, Action.WORK)


def _require(request: Request, action: Action) -> None:
    session: Session | None = request.state.session
    identity = session.identity if session is not None else UNVERIFIED
    request.app.state.portal.gate.require(identity, request.path_params["project"], action)
