"""Which Parfocal to speak to, and the models that are there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from parfocal import v1
from parfocal.client import Client
from parfocal.client.contexts import LOCAL, ContextFolder
from parfocal.client.login import ContextTokens
from parfocal.runtime.errors import PreconditionError, UnavailableError
from parfocal.runtime.settings import Settings
from parfocal.stack.config import resolve_folder
from parfocal.stack.connection import connection

ENVIRONMENT = "settings of this session"
"""What the server is called that the variables PARFOCAL_… name."""


@dataclass(frozen=True)
class Model:
    """One version of a model, as it is chosen from a list.

    Attributes
    ----------
    name
        "name:version".
    uri
        Its address.
    method
        What its service says of its method; None where no service that answers offers it.
    state
        "passed", "failed" or "unchecked".
    verdict
        The verdict in sentences.
    pixel_size_um
        Width of a pixel of its training images, 0 where it is not known.
    """

    name: str
    uri: str
    method: v1.Method | None
    state: str
    verdict: str
    pixel_size_um: float = 0.0


def servers() -> list[str]:
    """Return the names of the servers that can be chosen: this computer's Parfocal, and those one has logged in to."""
    known = ContextFolder(resolve_folder(None)).read()
    names = [name for name in known.contexts if name != known.current]
    first = [known.current] if known.current in known.contexts else []
    here = [ENVIRONMENT] if Settings().catalog and Settings().services else []
    return [*here, *first, LOCAL, *names]


def open_client(server: str, project: str = "") -> Client:
    """Return a client of a server and project; empty: the project that the server's settings name.

    Raises
    ------
    UnavailableError
        Parfocal does not run on this computer.
    NotFoundError
        There is no such server.
    """
    chosen: dict[str, Any] = {"project": project} if project else {}
    if server == ENVIRONMENT:
        return Client(Settings(**chosen))
    if server != LOCAL:
        folder = ContextFolder(resolve_folder(None))
        context = folder.read().named(server)
        values = {name: getattr(context, name) for name in ("services", "catalog", "project", "tls_ca")}
        return Client(Settings(**{**values, **chosen}), tokens=ContextTokens(folder, server))
    try:
        environment = connection().environment
    except PreconditionError as error:
        raise UnavailableError(
            "Parfocal does not run on this computer. Start it with `parfocal up`, or log in to your facility's with "
            "`parfocal login`; then choose the server again."
        ) from error
    values = {
        name.removeprefix("PARFOCAL_").lower(): value
        for name, value in environment.items()
        if name.startswith("PARFOCAL_")
    }
    return Client(Settings(**{**values, **chosen}))


def models_of(client: Client) -> list[Model]:
    """Return all versions of all models of the client's project, by name, newest first."""
    methods = {method.name: method for info in client.services() for method in info.methods}
    return [_model(entry, methods.get(entry.model.method)) for entry in client.catalog.entries("model")]


def _model(entry: v1.Entry, method: v1.Method | None) -> Model:
    said = entry.model.verdict
    sentences = {
        "passed": "Quality control passed this model.",
        "failed": "Quality control did NOT pass this model: do not rely on what it makes.",
    }
    first = sentences.get(said.state, "This model has not been checked by quality control.")
    return Model(
        name=f"{entry.name}:{entry.version}",
        uri=entry.uri,
        method=method,
        state=said.state or "unchecked",
        verdict=" ".join([first, *said.reasons]),
    )
