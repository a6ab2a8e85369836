"""Signing in and out, and the projects of whoever is signed in; what is no part of a project."""

from __future__ import annotations

import logging
from typing import Any, Final
from urllib.parse import quote, urlsplit

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from starlette.requests import cookie_parser

from parfocal.portal.guard import cookie, cookie_name, is_own_path, signed_in_cookie
from parfocal.portal.oidc import ATTEMPT_SECONDS, Attempt
from parfocal.portal.portal import Portal, PortalHere, page
from parfocal.portal.sessions import Session
from parfocal.runtime.access.policy import Issuer
from parfocal.runtime.errors import ParfocalError, PermissionDeniedError, UnauthenticatedError
from parfocal.runtime.store.names import is_name

_log = logging.getLogger(__name__)
router = APIRouter()
_ATTEMPT: Final = "parfocal_attempt_"
_CALLBACK: Final = "/sign-in/callback"
_EVERY: Final = "*"


@router.get("/")
def first(request: Request, portal: PortalHere) -> Response:
    """Open the first project, or that of somebody who has one only."""
    if portal.gate.is_open:
        return RedirectResponse(f"/p/{portal.settings.project}/", 303)
    names = _projects(portal, request.state.session)
    return RedirectResponse(f"/p/{names[0]}/" if len(names) == 1 else "/projects", 303)


@router.get("/projects")
def projects(request: Request, portal: PortalHere) -> Response:
    """List the projects that somebody may see."""
    session: Session | None = request.state.session
    names = _projects(portal, session)
    roles = {}
    if session is not None:
        roles = {name: role.title for name in names if (role := portal.gate.policy.role(session.identity, name))}
    return page(request, "projects.html", names=names, roles=roles)


@router.get("/sign-in")
def sign_in(request: Request, portal: PortalHere, next: str = "/", why: str = "") -> Response:
    """Ask somebody to sign in, and say why."""
    if portal.gate.is_open:
        return RedirectResponse("/", 303)
    return _ask(request, portal, next, why=why)


@router.get("/sign-in/start")
def start(request: Request, portal: PortalHere, issuer: str = "", next: str = "/") -> Response:
    """Send the browser to the provider."""
    chosen = _issuer(portal, issuer)
    if chosen is None:
        return _ask(request, portal, next)
    attempt = Attempt(chosen.issuer, f"{_base(request, portal)}{_CALLBACK}", next if is_own_path(next) else "/")
    try:
        address = portal.providers.get(chosen).address(attempt)
    except ParfocalError as error:
        _log.warning("nobody can sign in: %s", error.message)
        return _ask(request, portal, next, problem=error.message, status=503)
    secure: bool = request.state.secure
    response = RedirectResponse(address, 303)
    # One for each tab in which somebody signs in.
    kept = cookie(_attempt(attempt.state), portal.seal.close(attempt), secure=secure, seconds=ATTEMPT_SECONDS)
    response.headers.append("Set-Cookie", kept)
    return response


@router.get(_CALLBACK)
def callback(
    request: Request, portal: PortalHere, state: str = "", code: str = "", error: str = "", iss: str = ""
) -> Response:
    """Take somebody back from the provider."""
    secure: bool = request.state.secure
    name = _attempt(state)
    sealed = cookie_parser(request.headers.get("cookie", "")).get(cookie_name(name, secure=secure), "")
    attempt = portal.seal.open(sealed)
    if attempt is None or attempt.state != state:
        text = "This sign-in was begun in another browser or too long ago. Begin again."
        return _ask(request, portal, "/", problem=text, status=401)
    try:
        number, session = _signed_in(portal, attempt, code, error, iss)
    except ParfocalError as problem:
        response = _ask(request, portal, attempt.path, problem=problem.message, status=401)
        response.headers.append("Set-Cookie", cookie(name, "", secure=secure, seconds=0))
        return response
    _log.info("%s signed in", session.identity.name)
    response = RedirectResponse(attempt.path, 303)
    if request.state.number:
        portal.sessions.end(request.state.number)
    response.headers.append("Set-Cookie", cookie(name, "", secure=secure, seconds=0))
    response.headers.append("Set-Cookie", signed_in_cookie(number, secure=secure))
    # Pictures that the browser keeps may be those of somebody else.
    response.headers["Clear-Site-Data"] = '"cache"'
    return response


@router.get("/signed-in")
def signed_in(request: Request) -> Response:
    """Say that somebody has signed in, in a tab of its own, while the page they were on waits."""
    return page(request, "signed_in.html")


@router.post("/sign-out")
def sign_out(request: Request, portal: PortalHere) -> Response:
    """End the session of this browser."""
    portal.sessions.end(request.state.number)
    response = RedirectResponse("/signed-out", 303)
    response.headers.append("Set-Cookie", signed_in_cookie("", secure=request.state.secure))
    response.headers["Clear-Site-Data"] = '"cache"'
    return response


@router.get("/signed-out")
def signed_out(request: Request, portal: PortalHere) -> Response:
    """Say that somebody has signed out, and where they may do so as well."""
    elsewhere = []
    back = f"{_base(request, portal)}/signed-out"
    for issuer in portal.providers.offered(portal.gate.policy.issuers):
        try:
            address = portal.providers.get(issuer).sign_out_address(back)
        except ParfocalError:
            continue
        if address:
            elsewhere.append((_host(issuer), address))
    return page(request, "signed_out.html", elsewhere=elsewhere)


def _signed_in(portal: Portal, attempt: Attempt, code: str, error: str, iss: str) -> tuple[str, Session]:
    """Return number and session of whoever comes back from the provider."""
    issuer = _issuer(portal, attempt.issuer)
    if issuer is None or (iss and iss != issuer.issuer):
        raise UnauthenticatedError("This answer comes from a provider that is not accepted here. Sign in again.")
    if error or not code:
        raise UnauthenticatedError(
            "You did not agree to sign in, or the provider refused it."
            if error == "access_denied"
            else f"{issuer.issuer} refused the sign-in ({error[:80] or 'without saying why'}). Try again."
        )
    provider = portal.providers.get(issuer)
    number, session = portal.sessions.open(provider, provider.redeem(attempt, code))
    if not portal.gate.policy.has_any_role(session.identity):
        portal.sessions.end(number)
        raise PermissionDeniedError(
            f"You are {session.identity.name}, but have no role in any project here. Ask whoever runs Parfocal for you."
        )
    return number, session


def _projects(portal: Portal, session: Session | None) -> list[str]:
    """Return the projects that somebody may see: those with data, and those that the access file gives them."""
    names = set(portal.client(portal.settings.project, session).catalog.projects())
    if session is not None:
        policy = portal.gate.policy
        named = {name for name in policy.projects if name != _EVERY and is_name(name)}
        names = {name for name in names | named if policy.role(session.identity, name) is not None}
    else:
        names.add(portal.settings.project)
    return sorted(names, key=str.casefold)


def _ask(
    request: Request, portal: Portal, path: str, *, why: str = "", problem: str = "", status: int = 200
) -> Response:
    path = path if is_own_path(path) else "/"
    offered: list[dict[str, Any]] = [
        {
            "host": _host(issuer),
            "url": f"/sign-in/start?issuer={quote(issuer.issuer, safe='')}&next={quote(path, safe='')}",
        }
        for issuer in portal.providers.offered(portal.gate.policy.issuers)
    ]
    hours = portal.own.session_hours
    return page(request, "sign_in.html", status, offered=offered, why=why, problem=problem, hours=hours)


def _issuer(portal: Portal, name: str) -> Issuer | None:
    offered = portal.providers.offered(portal.gate.policy.issuers)
    return next((issuer for issuer in offered if issuer.issuer == name), None)


def _host(issuer: Issuer) -> str:
    return urlsplit(issuer.issuer).netloc


def _base(request: Request, portal: Portal) -> str:
    """Return the address of the portal as the browser knows it."""
    return portal.own.url or f"http://{request.headers['host']}"


def _attempt(state: str) -> str:
    """Return the name of the cookie of an attempt; a state is random, and what is no part of a name is left out."""
    return _ATTEMPT + "".join(letter for letter in state[:16] if letter.isalnum() and letter.isascii())
