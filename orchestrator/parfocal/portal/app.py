"""The application: routes, what errors look like, and files of its own."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Final

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse
from starlette.types import Scope

from parfocal.portal.follow import take_up
from parfocal.portal.guard import Guard, RefusedError, is_own_path, require_role, require_token
from parfocal.portal.pages import ROUTERS, people
from parfocal.portal.portal import FOLDER, THEMES, Portal, page, tiles_of
from parfocal.portal.settings import PortalSettings
from parfocal.portal.tiles import tile_router
from parfocal.runtime.errors import (
    AlreadyExistsError,
    ConflictError,
    DiskFullError,
    InvalidInputError,
    NotFoundError,
    ParfocalError,
    PermissionDeniedError,
    PreconditionError,
    QueueFullError,
    QuotaError,
    UnauthenticatedError,
    UnavailableError,
)
from parfocal.runtime.settings import Settings

_log = logging.getLogger(__name__)
_STATUS: Final = (
    (InvalidInputError, 422),
    (UnauthenticatedError, 401),
    (PermissionDeniedError, 403),
    (NotFoundError, 404),
    (AlreadyExistsError, 409),
    (PreconditionError, 409),
    (ConflictError, 409),
    (QueueFullError, 429),
    (QuotaError, 429),
    (DiskFullError, 507),
    (UnavailableError, 503),
)
_TITLES: Final = {
    401: "Your sign-in has ended",
    403: "Refused",
    404: "Not found",
    405: "Not possible here",
    409: "Not possible now",
    422: "Something needs another look",
    429: "No more at the moment",
    503: "Not reachable",
    507: "No room left",
}


def create_app(
    settings: Settings, own: PortalSettings | None = None, *, hosts: Collection[str] = (), workflows: str = ""
) -> FastAPI:
    """Return the portal of one deployment.

    Parameters
    ----------
    settings
        Services, catalogue, access file, state folder and the project that is opened first.
    own
        How browsers reach the portal, and how people sign in; read from the environment when None.
    hosts
        The values of the header Host that are accepted, e.g. "127.0.0.1:8600"; empty: all.
    workflows
        URL of Prefect's pages; empty where there are none.
    """
    portal = Portal(settings, own, workflows)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if settings.services and portal.gate.is_open:
            client = portal.client(settings.project)
            threading.Thread(target=take_up, args=(portal.follower, client), name="take up", daemon=True).start()
        yield
        portal.close()

    app = FastAPI(
        title="Parfocal", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan, redirect_slashes=False
    )
    app.state.portal = portal
    app.add_middleware(Guard, hosts=hosts, sessions=portal.sessions, secure=portal.own.is_secure)
    app.mount("/static", _Static(directory=FOLDER / "static"), name="static")
    for router in ROUTERS:
        app.include_router(router, dependencies=[Depends(require_token), Depends(require_role)])
    app.include_router(tile_router(tiles_of), dependencies=[Depends(require_role)])
    app.include_router(people.router, dependencies=[Depends(require_token)])
    app.add_api_route("/health", _health, methods=["GET"])
    app.add_api_route("/theme", _theme, methods=["POST"], dependencies=[Depends(require_token)])
    app.add_exception_handler(ParfocalError, _refused)
    app.add_exception_handler(RefusedError, _foreign)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(ClientDisconnect, _left)
    app.add_exception_handler(Exception, _defect)
    return app


class _Static(StaticFiles):
    """Files of the portal's own; browsers ask whether they have changed."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        response: Response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        if isinstance(response, FileResponse):
            response.headers["Cache-Control"] = "no-cache"
        return response

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


async def _health() -> Response:
    return JSONResponse({"status": "ready"})


async def _theme(request: Request) -> Response:
    form = await request.form()
    theme, back = str(form.get("theme", "")), str(form.get("back", "/"))
    # Only to a page of this portal.
    response = RedirectResponse(back if is_own_path(back) else "/", status_code=303)
    if theme in THEMES:
        response.set_cookie("parfocal_theme", theme, max_age=31_536_000, samesite="lax", httponly=True)
    return response


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ParfocalError)
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
    return _error_page(request, status, error.message, error)


async def _foreign(request: Request, _error: Exception) -> Response:
    text = "This form was opened in another session of the browser. Open the page again and send it once more."
    return _error_page(request, 403, text)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = "There is no such page." if error.status_code == 404 else str(error.detail)
    return _error_page(request, error.status_code, text)


async def _malformed(request: Request, _error: Exception) -> Response:
    return _error_page(request, 422, "The address of this page is incomplete. Open it again from the page before.")


async def _left(request: Request, _error: Exception) -> Response:
    """Answer a browser that has left before all of its request was here: no defect, and nobody reads the answer."""
    _log.info("a browser left while it sent something to %s", request.url.path)
    return Response(status_code=400)


async def _defect(request: Request, error: Exception) -> Response:
    number = secrets.token_hex(4)
    _log.error("defect %s at %s", number, request.url.path, exc_info=error)
    text = f"Something went wrong in the portal. Tell whoever runs it the number {number}: it is in the portal's log."
    return _error_page(request, 500, text)


def _error_page(request: Request, status: int, text: str, error: ParfocalError | None = None) -> Response:
    if request.headers.get("accept", "").startswith("application/json"):
        return JSONResponse({"detail": text}, status)
    lines = text.splitlines()
    violations = error.violations if error is not None and not lines[1:] else ()
    return page(
        request,
        "_error.html" if request.headers.get("hx-request") == "true" else "error.html",
        status,
        title=_TITLES.get(status, "Something went wrong"),
        text=lines[0] if lines else text,
        lines=[line.removeprefix("- ") for line in lines[1:]],
        violations=[each for each in violations if each.description not in text],
    )
