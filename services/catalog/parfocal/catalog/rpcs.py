"""What the parts of the servicer share: settings, room, and the one place that admits calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from parfocal import v1
from parfocal.catalog.room import Room
from parfocal.catalog.signing import LIFETIME
from parfocal.runtime.access.gate import authorise
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.names import check_name
from parfocal.runtime.store.store import Store


class Rpcs(v1.CatalogServiceServicer):
    """Base of the parts of the servicer.

    Parameters
    ----------
    store
        Where everything is recorded.
    settings
        Settings of the server.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self._settings = settings
        self._room = Room(store, LIFETIME.total_seconds())

    async def _admit(
        self, project: str, target: str = "", owner: Callable[[], Awaitable[str]] | None = None
    ) -> tuple[str, str]:
        """Return project and person of a call that may do this in this project. Every RPC passes here first."""
        project = check_name("project", project or self._settings.project)
        call = await authorise(project, target, owner)
        return project, call.author
