"""What all pages share: clients by project, what the services offer, and pages from templates."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.templating import Jinja2Templates
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from parfocal import v1
from parfocal.client import Client, ServiceInfo
from parfocal.portal import words
from parfocal.portal.annotate.desk import Desk
from parfocal.portal.annotate.fields import FieldReader
from parfocal.portal.follow import Follower
from parfocal.portal.guard import form_token, token_key
from parfocal.portal.tiles import CatalogReader
from parfocal.portal.uploads import Uploads
from parfocal.runtime.errors import NotFoundError, UnavailableError
from parfocal.runtime.images.files import ImageLimits
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.names import is_name

FOLDER: Final = Path(__file__).parent
THEMES: Final = ("system", "light", "dark")
_LABELS: Final = frozenset({v1.TASK_INSTANCE_SEGMENTATION, v1.TASK_SEMANTIC_SEGMENTATION})
_FRESH_SECONDS: Final = 3.0
_STALE_SECONDS: Final = 60.0
_MOST_CLIENTS: Final = 64


class Portal:
    """The one object behind all pages. Safe to use from several threads.

    Parameters
    ----------
    settings
        Services, catalogue, state folder and the project that is opened first.
    workflows
        URL of Prefect's pages; empty where there are none.
    """

    def __init__(self, settings: Settings, workflows: str = "") -> None:
        self.settings = settings
        self.workflows = workflows
        self.key = token_key(settings.state_folder / "portal")
        self.uploads = Uploads(settings.state_folder / "portal" / "uploads")
        self.follower = Follower()
        self.fields = FieldReader()
        self.desk = Desk(ImageLimits(settings.max_image_pixels, settings.max_image_bytes))
        self._clients: dict[str, Client] = {}
        self._tiles: dict[str, CatalogReader] = {}
        self._lock = threading.Lock()
        self._infos: tuple[float, Sequence[ServiceInfo]] = (0.0, ())
        self._asking = threading.Lock()

    def client(self, project: str) -> Client:
        """Return the client of a project; raise NotFoundError if it cannot be one's name."""
        if not is_name(project):
            raise NotFoundError(f"There is no project {project!r}.")
        with self._lock:
            client = self._clients.pop(project, None) or Client(self.settings.model_copy(update={"project": project}))
            self._clients[project] = client
            if len(self._clients) > _MOST_CLIENTS:
                # The one that nobody has asked for the longest; a page that still uses it keeps it.
                del self._clients[next(iter(self._clients))]
            return client

    def tiles(self, project: str) -> CatalogReader:
        """Return where the tiles of a project are read."""
        client = self.client(project)
        with self._lock:
            reader = self._tiles.pop(project, None) or CatalogReader(client)
            self._tiles[project] = reader
            if len(self._tiles) > _MOST_CLIENTS:
                del self._tiles[next(iter(self._tiles))]
            return reader

    def services(self) -> Sequence[ServiceInfo]:
        """Return what every service answers; a page does not wait for one that is slow, if it answered lately."""
        asked, infos = self._infos
        age = time.monotonic() - asked
        if infos and age < _FRESH_SECONDS:
            return infos
        if infos and age < _STALE_SECONDS:
            threading.Thread(target=self._ask, name="services", daemon=True).start()
            return infos
        return self._ask()

    def methods(self, kind: v1.JobKind.ValueType = v1.JOB_KIND_TRAINING) -> list[v1.Method]:
        """Return the methods that offer a kind of work, by title."""
        found = {method.name: method for info in self.services() for method in info.methods if kind in method.job_kinds}
        return sorted(found.values(), key=lambda method: method.title.casefold())

    def method(self, name: str) -> v1.Method | None:
        """Return the description of a method; None if no service that answers offers it."""
        found = (method for info in self.services() for method in info.methods if method.name == name)
        return next(found, None)

    def makes_labels(self, name: str) -> bool:
        """Return whether a method makes label images."""
        method = self.method(name)
        return method is not None and method.task in _LABELS

    def close(self) -> None:
        """Close all clients."""
        for client in self._clients.values():
            client.close()

    def _ask(self) -> Sequence[ServiceInfo]:
        with self._asking:
            asked, infos = self._infos
            if infos and time.monotonic() - asked < _FRESH_SECONDS:
                return infos
            try:
                infos = self.client(self.settings.project).services()
            except UnavailableError:
                infos = []  # none is known; the pages say so
            self._infos = (time.monotonic(), infos)
            return infos


def portal_of(request: Request) -> Portal:
    """Return the portal."""
    portal: Portal = request.app.state.portal
    return portal


def client_of(request: Request, project: str) -> Client:
    """Return the client of the project in the address."""
    return portal_of(request).client(project)


PortalHere = Annotated[Portal, Depends(portal_of)]
ClientHere = Annotated[Client, Depends(client_of)]


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        # An installation that is updated while it runs must not mix old code with new pages.
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(words.FILTERS)
    environment.globals.update(words.GLOBALS)
    return environment


_templates = Jinja2Templates(env=_environment())


def page(request: Request, template: str, status_code: int = 200, **values: Any) -> HTMLResponse:
    """Return a page of the project in the address, from a template."""
    portal = portal_of(request)
    theme = request.cookies.get("parfocal_theme", "system")
    values = {
        "project": request.path_params.get("project", portal.settings.project),
        "csrf": form_token(portal.key, request.state.session),
        "theme": theme if theme in THEMES else "system",
        "here": request.url.path + (f"?{request.url.query}" if request.url.query else ""),
        "workflows": portal.workflows,
        "error": None,
        "fragment": request.headers.get("hx-request") == "true",
        **values,
    }
    response = _templates.TemplateResponse(request, template, values, status_code=status_code)
    response.headers["Vary"] = "HX-Request, Cookie"
    return response


def go(request: Request, path: str) -> Response:
    """Send the browser to another page of the same project after a form was accepted."""
    url = f"/p/{request.path_params['project']}{path}"
    if request.headers.get("hx-request") == "true":
        return Response(status_code=204, headers={"HX-Redirect": url})
    return RedirectResponse(url, status_code=303)
