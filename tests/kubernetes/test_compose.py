"""What Compose starts is valid, is every service of the folders, and can be reached from this machine alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import ROOT

COMPOSE = ROOT / "deploy" / "compose"
SERVICES = sorted(path.parent.name for path in ROOT.glob("services/*/pyproject.toml") if path.parent.name != "runtime")
OTHERS = ("store", "buckets", "prefect", "runner", "portal")


def content(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((COMPOSE / name).read_text("utf-8")))


@pytest.mark.parametrize("name", ["compose.yaml", "gpu.yaml"])
def test_files_follow_the_specification_of_compose(name: str) -> None:
    program = ROOT / ".venvs/tools/bin/check-jsonschema"
    command = [str(program), "--builtin-schema", "vendor.compose-spec", str(COMPOSE / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_folder_is_a_service() -> None:
    services = content("compose.yaml")["services"]
    assert set(services) == {*SERVICES, *OTHERS}
    addresses = services["runner"]["environment"]["PARFOCAL_SERVICES"].split(",")
    assert addresses == [f"{name}:50051" for name in SERVICES if name != "catalog"]
    assert services["runner"]["environment"]["PARFOCAL_CATALOG"] == "catalog:50051"
    assert not [key for key in services["runner"]["environment"] if "_S3_" in key], "the flow runner has no store key"
    # The portal is in the network of the machine, as clients are.
    portal = services["portal"]["environment"]
    ports = {name: services[name]["ports"][0].removesuffix(":50051") for name in SERVICES}
    assert portal["PARFOCAL_SERVICES"].split(",") == [ports[name] for name in SERVICES if name != "catalog"]
    assert portal["PARFOCAL_CATALOG"] == ports["catalog"]
    assert not [key for key in portal if "_S3_" in key], "the portal has no store key"
    frameworks = {path.parent.name for path in ROOT.glob("services/*/requirements-gpu.lock")}
    assert set(content("gpu.yaml")["services"]) == frameworks


@pytest.mark.parametrize("name", sorted({*SERVICES, *OTHERS}))
def test_containers_have_no_rights_and_no_open_port(name: str) -> None:
    service = content("compose.yaml")["services"][name]
    assert service["read_only"] is True
    assert service["user"] == "10001:10001"
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    assert not service["image"].endswith((":latest", "}"))
    secrets = [value for key, value in service.get("environment", {}).items() if "KEY" in key]
    assert all(value.startswith("${") for value in secrets)


def test_prefect_asks_for_a_password_that_runner_and_portal_have(tmp_path: Path) -> None:
    services = content("compose.yaml")["services"]
    auth = services["prefect"]["environment"]["PREFECT_SERVER_API_AUTH_STRING"]
    assert auth.startswith("${PARFOCAL_PREFECT_AUTH:?")
    for name in ("runner", "portal"):
        assert services[name]["environment"]["PREFECT_API_AUTH_STRING"] == auth, name
    made = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        subprocess.run([sys.executable, str(ROOT / "deploy/tools/store-keys"), "--folder", str(folder)], check=True)
        made += re.findall(
            r"^PARFOCAL_PREFECT_AUTH=parfocal:(\w{32})$", (folder / "env").read_text("utf-8"), re.MULTILINE
        )
    assert len(set(made)) == 2, "a password of its own for each"


def test_who_is_in_the_network_of_the_machine_listens_on_loopback() -> None:
    services = content("compose.yaml")["services"]
    assert [name for name, service in services.items() if "network_mode" in service] == ["portal"]
    arguments = services["portal"]["entrypoint"]
    assert arguments[arguments.index("--listen") + 1] == "127.0.0.1:8600"


def test_models_name_the_image_they_were_made_with() -> None:
    usual, other = content("compose.yaml")["services"], content("gpu.yaml")["services"]
    for name in SERVICES:
        for service in filter(None, (usual[name], other.get(name))):
            assert service["environment"]["PARFOCAL_IMAGE"] == service["image"], name


def test_no_two_services_have_one_port() -> None:
    ports = [port for service in content("compose.yaml")["services"].values() for port in service.get("ports", ())]
    assert len({port.split(":")[1] for port in ports}) == len(ports)


def test_each_service_has_a_key_of_the_store_of_its_own(tmp_path: Path) -> None:
    services = content("compose.yaml")["services"]
    used = {name: services[name]["environment"]["PARFOCAL_S3_ACCESS_KEY"] for name in SERVICES}
    assert len(set(used.values())) == len(SERVICES)
    subprocess.run([sys.executable, str(ROOT / "deploy/tools/store-keys"), "--folder", str(tmp_path)], check=True)
    lines = (tmp_path / "env").read_text("utf-8").splitlines()
    values = dict(line.split("=", 1) for line in lines)
    asked = set(re.findall(r"\$\{(PARFOCAL_\w+):\?", (COMPOSE / "compose.yaml").read_text("utf-8")))
    assert asked <= set(values)
    identities = json.loads(values["PARFOCAL_STORE_USERS"].strip("'"))["identities"]
    known = {each["name"]: each["credentials"][0]["accessKey"] for each in identities}
    assert {name: values[f"PARFOCAL_{name.upper()}_S3_ACCESS_KEY"] for name in SERVICES}.items() <= known.items()
    assert (tmp_path / "env").stat().st_mode & 0o077 == 0
