"""The image of the orchestrator: Prefect's server, the flow runner, the portal and the command line, as containers.

Runs in deploy/images/check alone, where the image exists.
"""

from __future__ import annotations

import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support import IMAGES, filament_pair, free_ports, in_image, wait_for, write_pairs

from parfocal.stack.probes import portal_ready, prefect_ready, runner_ready

pytestmark = pytest.mark.skipif("orchestrator" not in IMAGES, reason="deploy/images/check runs it")


@pytest.fixture
def containers(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, settings: dict[str, str], *command: str) -> subprocess.Popen[bytes]:
        volume = tmp_path / name
        volume.mkdir(exist_ok=True)
        with (tmp_path / f"{name}.log").open("ab") as log:
            arguments = in_image("orchestrator", volume, settings, *command)
            started.append(subprocess.Popen(arguments, stdout=log, stderr=log))
        return started[-1]

    yield start
    for process in reversed(started):
        process.terminate()
        process.wait(30)


def test_people_train_a_model_through_the_image(
    s3: Any, start_service: Callable[..., Any], containers: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    service, port = start_service("fake"), free_ports(1)[0]
    api = f"http://127.0.0.1:{port}/api"
    settings = {**s3.client_environment, "PARFOCAL_SERVICES": service.address}
    prefect = {"PREFECT_HOME": "/var/lib/parfocal/prefect", "DO_NOT_TRACK": "1"}
    server = ["python", "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    containers("prefect", prefect, *server)
    wait_for(lambda: not prefect_ready(api), 180, "Prefect's server")
    since = datetime.now(UTC)
    containers("runner", {**settings, **prefect, "PREFECT_API_URL": api}, "python", "-m", "parfocal.flows.serve")
    wait_for(lambda: not runner_ready(api, since), 180, "the flow runner")

    pages = f"127.0.0.1:{free_ports(1)[0]}"
    containers("portal", {**settings, "PREFECT_API_URL": api}, "python", "-m", "parfocal.portal", "--listen", pages)
    wait_for(lambda: not portal_ready(f"http://{pages}"), 180, "the portal")

    (tmp_path / "user").mkdir()
    write_pairs(tmp_path / "user" / "images", filament_pair)

    def parfocal(*arguments: str) -> str:
        command = in_image("orchestrator", tmp_path / "user", settings, "parfocal", *arguments)
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "fake-2d" in parfocal("methods")
    parfocal("dataset", "create", "lines", "/var/lib/parfocal/images")
    parfocal("train", "fake-2d", "--dataset", "lines", "--model", "lines", "--no-qc")
    assert "lines" in parfocal("models", "list")
    with urllib.request.urlopen(f"http://{pages}/p/default/models", timeout=60) as answer:
        assert "/p/default/models/lines" in str(answer.read(), "utf-8")
