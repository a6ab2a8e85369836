"""A portal on a socket of its own, in front of real services and a real store, and a browser without a screen."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn
from portal_visitor import Visitor
from support import S3Server, ServiceProcess, free_ports, wait_for

from parfocal.client import Client
from parfocal.portal.app import create_app
from parfocal.runtime.settings import Settings


@pytest.fixture(scope="module")
def settings(
    request: pytest.FixtureRequest,
    s3: S3Server,
    share_service: Callable[..., ServiceProcess],
    tmp_path_factory: pytest.TempPathFactory,
) -> Settings:
    services = [share_service(name, preview_share="1") for name in getattr(request.module, "SERVICES", ("fake", "qc"))]
    return s3.client_settings.model_copy(
        update={
            "services": ",".join(service.address for service in services),
            "project": request.path.stem.removeprefix("test_"),
            "state_dir": tmp_path_factory.mktemp("state"),
        }
    )


@pytest.fixture(scope="module")
def portal(settings: Settings) -> Iterator[str]:
    """The address of a running portal."""
    (port,) = free_ports(1)
    app = create_app(settings, hosts={f"127.0.0.1:{port}"})
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started, 30, "the portal")
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def visitor(portal: str) -> Iterator[Visitor]:
    with Visitor(portal) as visitor:
        yield visitor


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[Client]:
    with Client(settings) as client:
        yield client


@pytest.fixture(scope="module")
def files(pairs_folder: Path) -> dict[str, bytes]:
    """The files of a folder of pairs by their paths, as a browser names them."""
    return {
        f"fibres/{path.relative_to(pairs_folder).as_posix()}": path.read_bytes()
        for path in sorted(pairs_folder.rglob("*.tif"))
    }
