"""What the tests of the command line share: services, a project of their own, and a way to run commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import Ended, S3Server, ServiceProcess

from parfocal.cli import main
from parfocal.demo.simulate import write_dataset


@pytest.fixture(scope="module")
def services(share_service: Callable[..., ServiceProcess]) -> dict[str, ServiceProcess]:
    """The services that commands speak to; a module that needs others says so with a fixture of this name."""
    return {name: share_service(name) for name in ("fake", "qc")}


@pytest.fixture
def environment(
    s3: S3Server,
    services: dict[str, ServiceProcess],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> dict[str, str]:
    """The settings of the command line, which are set; each module has a project of its own."""
    values = {
        **s3.client_environment,
        "PARFOCAL_SERVICES": ",".join(service.address for service in services.values()),
        "PARFOCAL_PROJECT": request.path.stem.removeprefix("test_").replace("_", "-"),
        "PARFOCAL_HOME": str(tmp_path / "home"),
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return values


@pytest.fixture
def run(environment: dict[str, str], capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run a command in this process and return how it ended."""
    from parfocal.cli import _render

    def call(*arguments: object) -> Ended:
        # The consoles keep the streams they were made with.
        _render.stdout.cache_clear()
        _render.stderr.cache_clear()
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        assert "\x1b" not in captured.out + captured.err, "no colour codes in pipes"
        return Ended(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder of 4 training and 3 test pairs."""
    folder = tmp_path_factory.mktemp("images")
    write_dataset(folder, 4, 3, 64, 7)
    return folder


@pytest.fixture(scope="module")
def versions() -> list[str]:
    """The dataset versions of the images that a module has."""
    return []


@pytest.fixture
def dataset(run: Callable[..., Ended], images: Path, versions: list[str]) -> str:
    """The images as a dataset version, NAME:VERSION; the tests of a module share one, as nothing changes it."""
    if not versions:
        result = run("dataset", "create", "spots", images, "--json")
        assert result.code == 0, result.err
        versions.append(f"spots:{result.json['version']}")
    return versions[0]


@pytest.fixture
def model(run: Callable[..., Ended], dataset: str) -> str:
    """A model of the dataset that nobody has judged, NAME:VERSION."""
    result = run("train", "fake-2d", "--dataset", dataset, "--model", "m", "--no-qc", "--json")
    assert result.code == 0, result.err
    return f"m:{result.json['model']['version']}"
