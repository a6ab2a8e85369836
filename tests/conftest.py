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


@pytest.fixture(scope="module")
def start_service(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., ServiceProcess]]:
    """Start services by name ("fake", "care", "qc"); all end with their module.

    Two of one name would share the store's lease, and the second would not run jobs.
    """
    started: list[ServiceProcess] = []

    def start(name: str, pythonpath: str = "", **settings: str) -> ServiceProcess:
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
