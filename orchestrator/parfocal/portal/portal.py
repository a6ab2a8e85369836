"""What all pages share: clients by project, what the services offer, and pages from templates."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.templating import Jinja2Templates
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from parfocal import v1
from parfocal.client import Client, ServiceInfo
from parfocal.flows._api import PrefectApi
from parfocal.flows.schedules import Schedules
from parfocal.portal import words
from parfocal.portal.annotate.desk import Desk
from parfocal.portal.annotate.fields import FieldReader
from parfocal.portal.follow import Follower, make_tiles, take_up
from parfocal.portal.guard import token_key, token_of
from parfocal.portal.oidc import AttemptSeal, Providers
from parfocal.portal.sessions import Rights, Session, Sessions, rights_in
from parfocal.portal.settings import PortalSettings
from parfocal.portal.tiles import CatalogReader
from parfocal.portal.uploads import Uploads
from parfocal.runtime.access.gate import Gate
from parfocal.runtime.errors import NotFoundError, ParfocalError, UnavailableError
from parfocal.runtime.images.files import ImageLimits
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.manifests import ResultManifest
from parfocal.runtime.store.names import is_name

FOLDER: Final = Path(__file__).parent
THEMES: Final = ("system", "light", "dark")
_LABELS: Final = frozenset({v1.TASK_INSTANCE_SEGMENTATION, v1.TASK_SEMANTIC_SEGMENTATION})
_FRESH_SECONDS: Final = 3.0
_STALE_SECONDS: Final = 60.0
_MOST_CLIENTS: Final = 256


class Portal:
    """The one object behind all pages. Safe to use from several threads.

    Parameters
    ----------
    settings
        Services, catalogue, access file, state folder and the project that is opened first.
    own
        How browsers reach the portal, and how people sign in.
    workflows
        URL of Prefect's pages; empty where there are none.

    Raises
    ------
    PreconditionError
        The access file, or the secret of the portal, cannot be used.
    """

    def __init__(self, settings: Settings, own: PortalSettings | None = None, workflows: str = "") -> None:
        self.settings = settings
        self.own = own or PortalSettings()
        self.workflows = workflows
        self.key = token_key(settings.state_folder / "portal")
        self.gate = Gate(settings)
        self.sessions = Sessions(self.gate, self.own.session_hours)
        self.providers = Providers(self.own.client_id, self.own.client_secret)
        self.seal = AttemptSeal(self.key)
        self.uploads = Uploads(settings.state_folder / "portal" / "uploads")
        self.follower = Follower()
        self.fields = FieldReader()
        self.desk = Desk(ImageLimits(settings.max_image_pixels, settings.max_image_bytes))
        self._prefect = os.environ.get("PREFECT_API_URL", ""), os.environ.get("PREFECT_API_AUTH_STRING", "")
        self._readers: dict[tuple[Session | None, str], tuple[Client, CatalogReader]] = {}
        self._lock = threading.Lock()
        self._infos: tuple[float, Sequence[ServiceInfo]] = (0.0, ())
        self._asking = threading.Lock()

    def client(self, project: str, session: Session | None = None) -> Client:
        """Return the client of a project that acts for the person of a session.

        Raises
        ------
        NotFoundError
            It cannot be the name of a project.
        """
        return self._reader(project, session)[0]

    def tiles(self, project: str, session: Session | None = None) -> CatalogReader:
        """Return where the tiles of a project are read, as `client`."""
        return self._reader(project, session)[1]

    def forget_tiles(self, project: str) -> None:
        """Forget what was read of the images of a project, because something of it was deleted."""
        with self._lock:
            for (session, name), (client, _) in self._readers.items():
                if name == project:
                    self._readers[session, name] = client, CatalogReader(client)

    def _reader(self, project: str, session: Session | None) -> tuple[Client, CatalogReader]:
        if not is_name(project):
            raise NotFoundError(f"There is no project {project!r}.")
        key = (session, project)
        with self._lock:
            known = self._readers.pop(key, None)
            if known is None:
                client = Client(self.settings.model_copy(update={"project": project}), tokens=session)
                known = client, CatalogReader(client)
                if session is not None and rights_in(self.gate, session, project).work:
                    # What they began in a portal that has ended since.
                    name = session.identity.name
                    work = threading.Thread(target=take_up, args=(self.follower, client, name), daemon=True)
                    work.start()
            self._readers[key] = known
            for other in [other for other in self._readers if other[0] is not None and other[0].is_over]:
                del self._readers[other]
            if len(self._readers) > _MOST_CLIENTS:
                # The one that nobody has asked for the longest; a page that still uses it keeps it.
                del self._readers[next(iter(self._readers))]
            return known

    def services(self, client: Client) -> Sequence[ServiceInfo]:
        """Return what every service answers to whoever has a role; a page does not wait for one that is slow.

        Parameters
        ----------
        client
            Asks, where what they answered before is no longer new.
        """
        asked, infos = self._infos
        age = time.monotonic() - asked
        if infos and age < _FRESH_SECONDS:
            return infos
        if infos and age < _STALE_SECONDS:
            threading.Thread(target=self._ask, args=(client,), name="services", daemon=True).start()
            return infos
        return self._ask(client)

    def methods(self, client: Client, kind: v1.JobKind.ValueType = v1.JOB_KIND_TRAINING) -> list[v1.Method]:
        """Return the methods that offer a kind of work, by title."""
        offered = (method for info in self.services(client) for method in info.methods)
        found = {method.name: method for method in offered if kind in method.job_kinds}
        return sorted(found.values(), key=lambda method: method.title.casefold())

    def method(self, client: Client, name: str) -> v1.Method | None:
        """Return the description of a method; None if no service that answers offers it."""
        found = (method for info in self.services(client) for method in info.methods if method.name == name)
        return next(found, None)

    def makes_labels(self, client: Client, name: str) -> bool:
        """Return whether a method makes images of objects or classes."""
        method = self.method(client, name)
        return method is not None and method.task in _LABELS

    def shows_labels(self, client: Client, result: ResultManifest) -> bool:
        """Return whether a prediction consists of objects or classes."""
        told = any("prediction" in image.labels for image in result.images)
        return told or self.makes_labels(client, result.method)

    def schedules(self) -> Schedules:
        """Return the schedules of all projects; who may see which is decided by whoever asks.

        Raises
        ------
        UnavailableError
            This installation has no workflows.
        """
        if not self._prefect[0]:
            raise UnavailableError(
                "This installation runs no workflows, so nothing is predicted by itself. Whoever runs Parfocal can "
                "start them: without --no-prefect, or by PREFECT_API_URL."
            )
        return Schedules(PrefectApi(*self._prefect))

    def close(self) -> None:
        """Close all clients."""
        for client, _ in self._readers.values():
            client.close()

    def _ask(self, client: Client) -> Sequence[ServiceInfo]:
        with self._asking:
            asked, infos = self._infos
            if infos and time.monotonic() - asked < _FRESH_SECONDS:
                return infos
            try:
                infos = client.services()
            except UnavailableError:
                infos = []  # none is known; the pages say so
            self._infos = (time.monotonic(), infos)
            return infos


def together(*asks: Callable[[], Any]) -> list[Future[Any]]:
    """Return what several questions were answered, which were asked at the same time; `result` raises what they did."""
    with ThreadPoolExecutor(len(asks), thread_name_prefix="ask") as pool:
        return [pool.submit(ask) for ask in asks]


def portal_of(request: Request) -> Portal:
    """Return the portal."""
    portal: Portal = request.app.state.portal
    return portal


def client_of(request: Request, project: str) -> Client:
    """Return the client of the project in the address, which acts for whoever asks."""
    return portal_of(request).client(project, request.state.session)


def tiles_of(request: Request) -> CatalogReader:
    """Return where the tiles of the project in the address are read, for whoever asks."""
    return portal_of(request).tiles(request.path_params["project"], request.state.session)


def rights_of(request: Request) -> Rights:
    """Return what whoever asks may do in the project in the address."""
    project = project_of(request)
    return rights_in(portal_of(request).gate, request.state.session, project if is_name(project) else "")


def prepare_tiles(request: Request, client: Client, uris: Iterable[str]) -> str:
    """Have the images of datasets and results cut into tiles; return why the viewer has to wait for somebody else.

    Making tiles is work, which viewers do not start.
    """
    rights, portal = rights_of(request), portal_of(request)
    for uri in uris:
        if rights.work:
            make_tiles(portal.follower, client, uri)
            continue
        _, owner, *parts = uri.removeprefix("s3://").split("/")
        name = ":".join(parts)
        try:
            reader = tiles_of(request)
            versioned = len(parts) > 1
            shared = f"{owner}~{name}" if owner != client.project else name
            there = reader.has_tiles("dataset" if versioned else "result", shared)
        except ParfocalError:
            continue  # the viewer says what is wrong
        if not there:
            return (
                "The large view of these images is made as soon as somebody who may start work opens this page. "
                "The small pictures below are complete."
            )
    return ""


def project_of(request: Request) -> str:
    """Return the project in the address; without one, where there are no identities, that which is opened first."""
    portal = portal_of(request)
    return str(request.path_params.get("project", portal.settings.project if portal.gate.is_open else ""))


PortalHere = Annotated[Portal, Depends(portal_of)]
ClientHere = Annotated[Client, Depends(client_of)]
RightsHere = Annotated[Rights, Depends(rights_of)]


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
        "project": project_of(request),
        "csrf": token_of(request),
        "rights": rights_of(request),
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
