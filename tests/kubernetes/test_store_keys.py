"""The key of each part opens what that part does in the store and nothing else."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from minio.error import S3Error
from support import ROOT, S3Server, ServiceProcess

from parfocal.runtime.errors import UnavailableError
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.store import Location, Store

INBOXES = "microscope"
TOOL = ROOT / "deploy" / "tools" / "store-keys"
BUCKETS = ("datasets", "models", "results", "jobs", "derived")
PARTS = ("care", "qc", "catalog", "backup")
# What each part may write; everything else it must not.
WRITES = {
    "care": {"models", "results", "jobs"},
    "qc": {"models", "results", "jobs", "derived"},
    "catalog": {"datasets", "models", "results"},
    "backup": set(),
}
HIDDEN = {"care": {"derived"}, "backup": {"derived"}}


def tool(*arguments: object, told: str | None = None) -> str:
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, input=told, capture_output=True, text=True, check=True).stdout


class GuardedServer(S3Server):
    """A store that starts with the identities of the tool, as the component seaweedfs does."""

    def prepare(self) -> None:
        """Write the identities."""
        tool("--inbox", INBOXES, "--folder", self.folder)
        self.identities = json.loads((self.folder / "s3.json").read_text("utf-8"))["identities"]
        self.access_key, self.secret_key = self.key("admin")

    def key(self, part: str) -> tuple[str, str]:
        """Return access key and secret key of a part."""
        (identity,) = [each for each in self.identities if each["name"] == part]
        (key,) = identity["credentials"]
        return key["accessKey"], key["secretKey"]

    def environment_of(self, part: str) -> dict[str, str]:
        """Return the settings of a part."""
        access, secret = self.key(part)
        values = {**self.environment, "PARFOCAL_S3_ACCESS_KEY": access, "PARFOCAL_S3_SECRET_KEY": secret}
        return {name: str(value) for name, value in values.items()}

    def store_of(self, part: str) -> Store:
        """Return the store as a part reaches it."""
        access, secret = self.key(part)
        return Store(Settings(s3_endpoint=self.endpoint, s3_access_key=access, s3_secret_key=secret))  # type: ignore[arg-type]

    def write_config(self, path: Path) -> None:
        path.write_text(json.dumps({"identities": self.identities}), "utf-8")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedServer]:
    assert (Path(sysconfig.get_path("scripts")) / "weed").exists()
    server = GuardedServer(tmp_path_factory.mktemp("guarded"))
    server.prepare()
    server.start()
    for bucket in BUCKETS:
        server.store().write(Location(f"parfocal-{bucket}", "p/there.json"), b"{}")
    yield server
    server.stop()


def refused(action: Callable[[], Any]) -> bool:
    try:
        action()
    except UnavailableError:
        return True
    return False


@pytest.mark.parametrize("part", PARTS)
def test_a_key_writes_where_its_part_does_and_nowhere_else(guarded: GuardedServer, part: str) -> None:
    store = guarded.store_of(part)
    for bucket in BUCKETS:
        there, new = (Location(f"parfocal-{bucket}", f"p/{name}") for name in ("there.json", f"{part}.json"))
        hidden = bucket in HIDDEN.get(part, ())
        assert refused(lambda place=there: store.read(place)) == hidden, bucket
        allowed = bucket in WRITES[part]
        assert refused(lambda place=new: store.create(place, b"{}")) != allowed, bucket
        assert refused(lambda place=new: store.copy(Location("parfocal-models", "p/there.json"), place)) != allowed
        if not allowed:
            assert refused(lambda place=there: store.delete(place)), bucket
            assert refused(lambda place=there: store.begin_multipart(place)), bucket
    assert guarded.store().exists(Location("parfocal-datasets", "p/there.json"))
    with pytest.raises(S3Error, match="AccessDenied"):
        store._client.make_bucket("another")


def test_services_read_the_buckets_of_inboxes_and_change_nothing_there(guarded: GuardedServer) -> None:
    there, new = Location(INBOXES, "plate/a.tif"), Location(INBOXES, "plate/new.tif")
    guarded.store()._client.make_bucket(INBOXES)
    guarded.store().write(there, b"pixels")
    for part in PARTS:
        store = guarded.store_of(part)
        assert refused(lambda store=store: store.read(there)) == (part == "backup")
        assert refused(lambda store=store: list(store.objects(Location(INBOXES, "plate")))) == (part == "backup")
        assert refused(lambda store=store: store.create(new, b"x"))
        assert refused(lambda store=store: store.delete(there))
    assert guarded.store().read(there) == b"pixels"


def test_a_stranger_opens_nothing(guarded: GuardedServer) -> None:
    store = Store(Settings(s3_endpoint=guarded.endpoint, s3_access_key="x" * 20, s3_secret_key="y" * 40))  # type: ignore[arg-type]
    assert refused(lambda: store.read(Location("parfocal-datasets", "p/there.json")))


@pytest.mark.parametrize("part", ["catalog", "qc"])
def test_services_start_with_their_keys(guarded: GuardedServer, part: str, tmp_path: Path) -> None:
    """At its start a service tries the promises of the store, takes its lease and looks through jobs and trash."""
    service = ServiceProcess(part, guarded.environment_of(part), tmp_path).start()
    assert service.stop() == 0
    log = service.log.read_text("utf-8")
    assert "refused" not in log, log[-2000:]


def test_secrets_are_kept_and_those_of_new_services_added() -> None:
    made = list(yaml.safe_load_all(tool()))
    names = [each["metadata"]["name"] for each in made]
    folders = {path.parent.name for path in ROOT.glob("services/*/pyproject.toml")} - {"runtime"}
    assert {f"parfocal-store-{name}" for name in folders} <= set(names)
    present = [each for each in made if each["metadata"]["name"] != "parfocal-store-qc"]
    listed = [
        {
            "metadata": each["metadata"],
            "data": {key: base64.b64encode(text.encode()).decode() for key, text in each["stringData"].items()},
        }
        for each in present
    ]
    again = {
        each["metadata"]["name"]: each["stringData"]
        for each in yaml.safe_load_all(tool("--keep", "-", told=json.dumps({"items": listed})))
    }
    for each in present:
        if each["metadata"]["name"] != "parfocal-store-users":
            assert again[each["metadata"]["name"]] == each["stringData"]
    assert again["parfocal-store-qc"]["access-key"] in again["parfocal-store-users"]["s3.json"]
    assert "parfocal-datasets/*" not in again["parfocal-store-users"]["policy-qc.json"].split("PutObject")[1]
