"""What the server of the catalogue serves, and the housekeeping that goes on beside."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

import grpc

from parfocal import v1
from parfocal.catalog.entries import Entries
from parfocal.catalog.retention import Retention
from parfocal.catalog.servicer import CatalogServicer
from parfocal.catalog.signing import Signer
from parfocal.catalog.space_history import SpaceHistory
from parfocal.catalog.trash import Trash
from parfocal.catalog.uploads.uploads import Uploads
from parfocal.runtime.access.policy import read_policy
from parfocal.runtime.errors import ParfocalError, UnavailableError
from parfocal.runtime.methods.service import Service
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.housekeeping import tidy_machine
from parfocal.runtime.store.promises import check_promises
from parfocal.runtime.store.store import Store

_log = logging.getLogger(__name__)
_TIDY_SECONDS: Final = 3600.0


class Catalog:
    """The catalogue as the server's part, see `parfocal.runtime.server.parts`."""

    names = (v1.catalog_service_pb2.DESCRIPTOR.services_by_name["CatalogService"].full_name,)

    def __init__(self, _service: Service, _module: str, settings: Settings) -> None:
        self._settings = settings
        self._store = Store(settings)
        entries, signer = Entries(self._store), Signer(settings)
        self._trash = Trash(entries, settings.trash_days)
        self._uploads = Uploads(self._store, signer, settings.state_folder)
        self._retention = Retention(entries, self._trash, self._result_days)
        self._space = SpaceHistory(entries)
        self._servicer = CatalogServicer(entries, self._trash, self._uploads, signer, settings)
        self._task: asyncio.Task[None] | None = None

    def add_to(self, server: grpc.aio.Server) -> None:
        """Add the servicer to a server that has not started."""
        v1.add_CatalogServiceServicer_to_server(self._servicer, server)

    async def start(self) -> None:
        """Test the store and begin the housekeeping; raise PreconditionError where the store cannot be used."""
        with contextlib.suppress(UnavailableError):  # every call asks the store anew
            await asyncio.to_thread(check_promises, self._store)
            await asyncio.to_thread(self._uploads.test_store)
        self._task = asyncio.create_task(self._tidy())

    async def stop(self) -> None:
        """End the housekeeping; it may stop anywhere and goes on next time."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _tidy(self) -> None:
        while True:
            for what, action in (
                ("old results", self._retention.apply),
                ("trash", self._trash.empty),
                ("unfinished uploads", self._tidy_uploads),
                ("record of the storage", self._space.note),
            ):
                try:
                    await asyncio.to_thread(action)
                except ParfocalError as error:
                    _log.warning("%s could not be taken care of: %s", what, error)
                except Exception:
                    _log.exception("%s could not be taken care of", what)
            await asyncio.sleep(_TIDY_SECONDS)

    def _result_days(self, project: str) -> float:
        """Return the retention of the results of a project, as the access file says it now."""
        path = self._settings.access_file
        own = read_policy(path).limits(project).result_days if path is not None else None
        return self._settings.result_days if own is None else own

    def _tidy_uploads(self) -> None:
        tidy_machine(self._settings)
        if self._settings.upload_days:
            self._uploads.tidy(self._settings.upload_days)
