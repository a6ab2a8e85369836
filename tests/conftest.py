"""Fixtures for all tests. A test asks for what it needs, so the pure ones start nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import S3Server, ServiceProcess, filament_pair, nuclei_pair, publish_dataset, search_path, write_pairs

from parfocal.runtime.store.store import Store


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running S3 server with the four buckets."""
    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def store(s3: S3Server) -> Store:
    """The store of the S3 server."""
    return s3.store()


class SharedServices:
    """Services for tests that only speak to them: one of each name, which goes on from module to module."""

    def __init__(self, s3: S3Server, folders: pytest.TempPathFactory) -> None:
        self._s3 = s3
        self._folders = folders
        self._running: dict[str, tuple[dict[str, str], ServiceProcess]] = {}

    def __call__(self, name: str, **settings: str) -> ServiceProcess:
        """Return the service with these settings; it is started if there is none, and instead of one with others."""
        known, service = self._running.get(name, ({}, None))
        if service is None or known != settings:
            self.end(name)
            variables = {f"PARFOCAL_{key.upper()}": value for key, value in settings.items()}
            folder = self._folders.mktemp(f"shared-{name}")
            service = ServiceProcess(name, {**self._s3.environment, **variables}, folder).start()
            self._running[name] = (settings, service)
        return service

    def end(self, name: str) -> None:
        """End the service of a name, if there is one, because another one is to have the lease."""
        if name in self._running:
            self._running.pop(name)[1].stop()

    def end_all(self) -> None:
        """End all services."""
        for name in list(self._running):
            self.end(name)


@pytest.fixture(scope="session")
def share_service(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedServices]:
    """Start services by name, or go on with the ones that other modules have started; none may end or kill them."""
    services = SharedServices(s3, tmp_path_factory)
    yield services
    services.end_all()


@pytest.fixture(scope="module")
def start_service(
    s3: S3Server, share_service: SharedServices, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., ServiceProcess]]:
    """Start services by name ("fake", "care", "qc") for one module; all end with it.

    Two of one name would share the store's lease, and the second would not run jobs.
    """
    started: list[ServiceProcess] = []

    def start(name: str, pythonpath: str = "", **settings: str) -> ServiceProcess:
        share_service.end(name)
        folder = tmp_path_factory.mktemp(f"service-{name}")
        variables = {f"PARFOCAL_{key.upper()}": value for key, value in settings.items()}
        if pythonpath:
            variables["PYTHONPATH"] = search_path(pythonpath)
        service = ServiceProcess(name, {**s3.environment, **variables}, folder)
        started.append(service)
        return service.start()

    yield start
    for service in started:
        if service.process is not None:
            service.stop()


@pytest.fixture(scope="session")
def pairs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder: 5 training and 3 test pairs of 64x80 pixels."""
    return write_pairs(tmp_path_factory.mktemp("pairs"), filament_pair)


@pytest.fixture(scope="session")
def nuclei_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with nuclei and their label images."""
    return write_pairs(tmp_path_factory.mktemp("nuclei"), nuclei_pair)


@pytest.fixture
def dataset_uri(store: Any, pairs_folder: Path) -> str:
    """A freshly published dataset version of the pairs."""
    return publish_dataset(store, "filaments", pairs_folder)
