"""Schedules and inboxes in the portal, with a real Prefect server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from portal_visitor import Visitor
from support import ServiceProcess, free_ports, publish_dataset, publish_model, wait_for

from parfocal.client import Client
from parfocal.flows._api import PrefectApi
from parfocal.flows.schedules import FLOW, TAG, Schedules
from parfocal.portal.app import create_app
from parfocal.runtime.errors import UnavailableError
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.manifests import RESULT_MANIFEST, ResultManifest
from parfocal.runtime.store.names import result_location

PROJECT = "schedules"


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectApi]:
    """A Prefect server with the deployment that the flow runner would serve for the method fake-2d."""
    folder = tmp_path_factory.mktemp("prefect")
    (port,) = free_ports(1)
    environment = {**os.environ, "PREFECT_HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--no-ui"], env=environment, stdout=log, stderr=log)
    api = PrefectApi(f"http://127.0.0.1:{port}/api")

    def ready() -> bool:
        try:
            return api.call("GET", "/health") is True
        except UnavailableError:
            return False

    try:
        wait_for(ready, 120, "Prefect")
        flow = api.call("POST", "/flows/", {"name": FLOW})["id"]
        fields = {name: {"type": "string"} for name in ("model", "source", "output", "project")}
        schema = {"type": "object", "properties": fields}
        body = {"name": "fake-2d", "flow_id": flow, "entrypoint": "parfocal.flows.predict_new.predict_new"}
        api.call("POST", "/deployments/", {**body, "parameter_openapi_schema": schema, "tags": ["parfocal"]})
        yield api
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def portal(settings: Settings, prefect: PrefectApi, start_service: Callable[..., ServiceProcess]) -> Iterator[str]:
    (port,) = free_ports(1)
    inboxes = f"{PROJECT}=s3://inbox/microscope-1,others=s3://inbox/foreign"
    catalog = start_service("catalog", inboxes=inboxes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", prefect._url)
        app = create_app(
            settings.model_copy(update={"inboxes": inboxes, "catalog": catalog.address}), hosts={f"127.0.0.1:{port}"}
        )
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(lambda: server.started, 30, "the portal")
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def model(client: Client, pairs_folder: Path) -> str:
    dataset = publish_dataset(client.store, "fibres", pairs_folder, PROJECT)
    publish_model(client.store, "filter", dataset, project=PROJECT, method="fake-2d", service="fake")
    about = {"project": PROJECT, "job": "published", "service": "fake", "method": "fake-2d", "kind": "prediction"}
    place = result_location(client.store, PROJECT, "published")
    client.store.write(place / RESULT_MANIFEST, ResultManifest.model_validate(about).to_bytes())
    return "filter:1"


@pytest.fixture
def visitor(portal: str) -> Iterator[Visitor]:
    with Visitor(portal, project=PROJECT) as visitor:
        yield visitor


def form(model: str, **changes: str) -> dict[str, str]:
    filled = {"name": "nightly", "model": model, "inbox": "inbox/microscope-1", "below": "plates", "folder": "scope"}
    return {**filled, "every": "60", **changes}


def test_a_schedule_is_made_paused_run_and_deleted(
    visitor: Visitor, prefect: PrefectApi, client: Client, model: str
) -> None:
    known = Schedules(prefect)
    known.create("elsewhere", "fake-2d", {"project": "others", "model": "secret:1"}, every_seconds=900)
    listed = visitor.open("schedules").text
    assert "No schedules yet" in listed
    assert "inbox/microscope-1" in listed
    assert not {"elsewhere", "secret", "foreign"} & set(re.findall(r"\w+", listed))

    made = visitor.send("schedules", **form(model))
    assert made.url.path == f"/p/{PROJECT}/schedules/nightly"
    assert "nightly: every hour" in made.text
    kept = known.get("nightly")
    assert kept.parameters == {
        "model": model,
        "source": "s3://inbox/microscope-1/plates",
        "output": f"s3://parfocal-results/{PROJECT}/scope",
        "project": PROJECT,
        "schedule": "nightly",
    }
    assert (kept.when, kept.active) == ("every 60 min", True)

    assert "Taken of each image" not in made.text
    # `parfocal ingest` fills another inbox.
    client.store.write(client.store.results / PROJECT / "_inboxes" / "scope-2" / "a.tif", b"image")
    assert "<code>scope-2</code>" in visitor.open("schedules").text
    visitor.send("schedules", **form(model, name="of-scope-2", inbox="scope-2", below=""))
    source = f"s3://parfocal-results/{PROJECT}/_inboxes/scope-2"
    assert known.get("of-scope-2").parameters["source"] == source
    visitor.send("schedules/of-scope-2/delete")
    chosen = visitor.send("schedules", **form(model, name="of-dapi", channel=" DAPI "))
    assert "<dt>Taken of each image</dt><dd>channel DAPI</dd>" in chosen.text
    assert known.get("of-dapi").parameters["channels"] == ["DAPI"]
    visitor.send("schedules/of-dapi/delete")

    assert "nightly: paused" in visitor.send("schedules/nightly/pause").text
    assert "1 schedule, 1 paused" in visitor.open("schedules").text
    assert "nightly: every hour" in visitor.send("schedules/nightly/resume").text
    visitor.send("schedules/nightly/run")
    runs: list[dict[str, Any]] = prefect.call(
        "POST", "/flow_runs/filter", {"deployments": {"id": {"any_": [kept.deployment]}}}
    )
    mine = next(run for run in runs if "auto-scheduled" not in run["tags"])
    failed = {"type": "FAILED", "message": "2 images predicted, 1 failed; 4 of 7 had been done before."}
    prefect.call("POST", f"/flow_runs/{mine['id']}/set_state", {"state": failed, "force": True})
    shown = visitor.open("schedules/nightly").text
    assert "2 images predicted, 1 failed; 4 of 7 had been done before." in shown
    assert "2 images predicted" in visitor.open("schedules").text

    assert visitor.open("schedules/elsewhere").status_code == 404
    assert visitor.send("schedules/elsewhere/delete").status_code == 404
    assert visitor.send("schedules/nightly/delete").url.path == f"/p/{PROJECT}/schedules"
    assert [each.name for each in known.every()] == ["elsewhere"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "a b"}, "name"),
        ({"name": "elsewhere"}, "name"),
        ({"model": ""}, "model"),
        ({"inbox": "inbox/foreign"}, "inbox"),
        ({"below": "../hidden"}, "below"),
        ({"folder": "a/b"}, "folder"),
        ({"folder": "published"}, "folder"),
        ({"every": "cron", "cron": "soon"}, "cron"),
        ({"every": "cron", "cron": "0 7 * * 1", "timezone": "Mars/Olympus"}, "timezone"),
    ],
)
def test_what_cannot_be_scheduled_is_said_beside_its_field(
    visitor: Visitor, prefect: PrefectApi, model: str, changes: dict[str, str], field: str
) -> None:
    before = len(Schedules(prefect).every())
    refused = visitor.send("schedules", **form(**{"model": model, **changes}))
    assert refused.status_code == 422
    assert f'id="e-{field}"' in refused.text
    for name, value in changes.items():
        assert name in {"inbox", "model", "every"} or f'name="{name}" value="{value}"' in refused.text
    assert len(Schedules(prefect).every()) == before


def test_new_images_are_predicted_once(visitor: Visitor, prefect: PrefectApi, model: str) -> None:
    answer = visitor.send("schedules", **form(model, once="yes", name="", folder="now"))
    assert "are being predicted" in answer.text
    wanted = {"deployments": {"name": {"any_": ["fake-2d"]}}}
    (run,) = prefect.call("POST", "/flow_runs/filter", wanted)
    assert run["parameters"]["output"] == f"s3://parfocal-results/{PROJECT}/now"
    assert run["state_type"] == "SCHEDULED"


def test_who_made_a_schedule_is_read_from_the_catalogue_and_not_from_prefect(
    visitor: Visitor, client: Client, prefect: PrefectApi, model: str
) -> None:
    visitor.send("schedules", **form(model, name="of-ann"))
    assert "Made by" not in visitor.open("schedules/of-ann").text
    place = client.store.results / PROJECT / "_schedules" / "of-ann.json"
    record = json.loads(client.store.read(place))
    client.store.write(place, json.dumps({**record, "created_by": "ann@example.org"}).encode())
    known = Schedules(prefect)
    tagged = {"tags": [TAG, "method:fake-2d", "for:eve@example.org"]}
    prefect.call("PATCH", f"/deployments/{known.get('of-ann').deployment}", tagged)
    shown = visitor.open("schedules/of-ann").text
    assert "<dt>Made by</dt><dd>ann@example.org</dd>" in shown
    assert "eve@example.org" not in shown

    # One that the catalogue knows nothing of can still be removed.
    client.catalog.delete_schedule("of-ann")
    assert "Made by" not in visitor.open("schedules/of-ann").text
    assert visitor.send("schedules/of-ann/delete").url.path == f"/p/{PROJECT}/schedules"
    assert "of-ann" not in [each.name for each in known.every()]


def test_a_model_that_another_project_shares_is_scheduled(
    visitor: Visitor, client: Client, prefect: PrefectApi, model: str, pairs_folder: Path
) -> None:
    dataset = publish_dataset(client.store, "beads", pairs_folder, "lab-b")
    publish_model(client.store, "theirs", dataset, project="lab-b", method="fake-2d", service="fake")
    client.catalog.of("lab-b").share("model", "theirs", PROJECT)
    assert '<option value="lab-b/theirs:1"' in visitor.open("schedules/new").text
    made = visitor.send("schedules", **form("lab-b/theirs:1", name="shared", folder="shared"))
    assert made.url.path == f"/p/{PROJECT}/schedules/shared"
    assert f'href="/p/{PROJECT}/models/lab-b~theirs/1"' in made.text
    assert Schedules(prefect).get("shared").parameters["model"] == "lab-b/theirs:1"
    checked = client.catalog.check_schedule("shared").schedule
    assert [step.model_uri for step in checked.steps] == ["s3://parfocal-models/lab-b/theirs/1"]
    visitor.send("schedules/shared/delete")


def test_without_workflows_the_page_says_who_can_start_them(settings: Settings) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        app = create_app(settings)
    with pytest.raises(UnavailableError, match="no workflows"):
        app.state.portal.schedules()
