"""Scheduled prediction with the real Prefect: a schedule is kept through restarts, and its runs predict what is new."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import put_image, wait_for

from parfocal.cli import main
from parfocal.client.requests import training_request
from parfocal.flows._api import PrefectApi
from parfocal.flows.schedules import Schedules
from parfocal.runtime.errors import AlreadyExistsError, NotFoundError
from parfocal.runtime.images.acquired import Acquired
from parfocal.runtime.images.files import Image, read_image, write_image
from parfocal.runtime.store.names import versioned_name
from parfocal.stack.connection import connection


def test_a_schedule_survives_the_runner_and_predicts_each_new_image_once(
    stack: Any, dataset: str, capfd: pytest.CaptureFixture[str]
) -> None:
    store, project = stack.client.store, stack.client.project
    inbox, output = store.results / project / "microscope", store.results / project / "predicted"
    put_image(store, inbox / "plate" / "a01.tif", 1)
    request = training_request("fake-2d", stack.client.dataset_uri(dataset), "applied", {"epochs": 2})
    (trained,) = stack.client.wait(stack.client.start(request).id).outputs
    model = versioned_name(trained.uri)
    schedules = Schedules(PrefectApi(str(stack.api.base_url).rstrip("/"), connection(stack.folder).prefect_auth))
    given = {"model": model, "source": str(inbox), "output": str(output), "project": project}
    made = schedules.create("nightly", "fake-2d", given, cron="0 3 * * *", timezone="Europe/Lisbon")
    assert (made.when, made.active) == ("cron 0 3 * * * (Europe/Lisbon)", True)
    with pytest.raises(AlreadyExistsError, match="nightly"):
        schedules.create("nightly", "fake-2d", given, every_seconds=900)

    # Somebody edits it on Prefect's page, and the runner starts anew.
    edited = {"schedule": {"interval": 900}}
    stack.api.patch(f"/deployments/{made.deployment}/schedules/{made.ids[0]}", json=edited).raise_for_status()
    (runner,) = stack.processes("parfocal.flows.serve")
    os.kill(runner, signal.SIGKILL)
    wait_for(lambda: (now := stack.processes("parfocal.flows.serve")) and now != [runner], 60, "a new runner")
    ended = stack.wait(schedules.run_now("nightly"))
    assert ended["state_type"] == "COMPLETED", (ended["state"]["message"], stack.log_text(ended["id"]))
    assert "1 image predicted" in ended["state"]["message"]
    assert store.exists(output / "plate" / "a01.tif")
    kept = schedules.get("nightly")
    assert (kept.when, kept.ids, kept.parameters["model"]) == ("every 15 min", made.ids, model)

    put_image(store, inbox / "plate" / "a02.tif", 2)
    command = ["--home", str(stack.folder), "predict", str(inbox), "--model", model, "--output", str(output)]
    assert main([*command, "--overwrite"]) == 2
    assert "--overwrite" in capfd.readouterr().err
    assert main([*command, "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    assert (said["state"], "1 of 2 had been done before" in said["message"]) == ("completed", True)
    assert [run.state for run in schedules.runs("nightly")] == ["COMPLETED"]

    schedules.set_active("nightly", active=False)
    assert not schedules.get("nightly").active
    schedules.delete("nightly")
    with pytest.raises(NotFoundError, match="none yet"):
        schedules.get("nightly")

    # A schedule that a person makes does what they made it for, with two models, and nothing else.
    chained = store.results / project / "chained"
    made_by_command = ["--home", str(stack.folder), "schedule", "create", "chain", "--watch", str(inbox)]
    command = [*made_by_command, "--model", model, "--then", model, "--output", str(chained), "--every", "1d"]
    assert main([*command, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["parameters"]["then"] == [{"model": model, "parameters": {}}]
    assert main(command) == 2
    assert "Choose another name" in capfd.readouterr().err
    ended = stack.wait(schedules.run_now("chain"))
    assert ended["state_type"] == "COMPLETED", (ended["state"]["message"], stack.log_text(ended["id"]))
    assert store.exists(chained / "plate" / "a02.tif")
    chain = schedules.get("chain")
    # A run that is still at work when the next one is due: that one leaves the images to it.
    at_work = stack.post(f"/deployments/{chain.deployment}/create_flow_run", state={"type": "RUNNING"})
    ended = stack.wait(schedules.run_now("chain"))
    assert (ended["state_type"], "still at work" in ended["state"]["message"]) == ("COMPLETED", True)
    stack.post(f"/flow_runs/{at_work['id']}/set_state", state={"type": "COMPLETED"}, force=True)
    moved = {"parameters": {**chain.parameters, "output": str(output)}}
    stack.api.patch(f"/deployments/{chain.deployment}", json=moved).raise_for_status()
    ended = stack.wait(schedules.run_now("chain"))
    assert ended["state_type"] == "FAILED"
    assert ended["state"]["message"].startswith("Paused: On Prefect's page other folder for the results were set")
    assert not schedules.get("chain").active
    assert main(["--home", str(stack.folder), "schedule", "delete", "chain"]) == 0
    with pytest.raises(NotFoundError):
        stack.client.catalog.check_schedule("chain")


def test_a_schedule_takes_the_channel_that_the_training_took_or_the_one_that_is_chosen(
    stack: Any, pairs_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store, project = stack.client.store, stack.client.project

    def call(*command: str) -> str:
        assert main(["--home", str(stack.folder), *command]) == 0, capfd.readouterr().err
        return capfd.readouterr().out

    def composite(path: Path, *names: str) -> None:
        pixels = read_image(path).pixels
        channels = np.stack([pixels if name == "DAPI" else pixels[::-1] for name in names])
        write_image(path, Image(channels, "CYX", acquired=Acquired(names)))

    folder = Path(shutil.copytree(pairs_folder, tmp_path / "composites"))
    for path in folder.glob("*/source/*"):
        composite(path, "GFP", "DAPI")
    call("dataset", "create", "composites", str(folder), "--channel", "DAPI")
    call("train", "fake-2d", "--dataset", "composites", "--model", "of-dapi", "--no-qc", "-p", "epochs=2")

    # The microscope's files: composites of both kinds, of which one has no such channel, and a single plane.
    scope = tmp_path / "scope"
    scope.mkdir()
    first, second, third = sorted((pairs_folder / "test" / "source").iterdir())
    for name, path in (("a.tif", first), ("b.tif", second), ("plane.tif", first), ("c.tif", third)):
        shutil.copy(path, scope / name)
    composite(scope / "a.tif", "RFP", "GFP", "DAPI")
    composite(scope / "b.tif", "DAPI", "GFP")
    composite(scope / "c.tif", "RFP", "GFP")
    inbox = json.loads(call("ingest", str(scope), "--inbox", "of-scope", "--once", "--settle", "0s", "--json"))["inbox"]

    schedules = Schedules(PrefectApi(str(stack.api.base_url).rstrip("/"), connection(stack.folder).prefect_auth))
    output = store.results / project / "of-dapi"
    made = ["schedule", "create", "taken", "--model", "of-dapi", "--watch", inbox, "--output", str(output)]
    call(*made, "--every", "1d")
    ended = stack.wait(schedules.run_now("taken"))
    said = ended["state"]["message"]
    assert ended["state_type"] == "COMPLETED", (said, stack.log_text(ended["id"]))
    assert said.startswith("3 images predicted, 1 to be tried again; 0 of 4 had been done before. 1 image was not ")
    assert "c.tif cannot be used: it has no channel 'DAPI': there are RFP, GFP." in said
    shown = call("schedule", "show", "taken")
    assert "channel DAPI, as for the training" in shown
    assert "no channel 'DAPI'" in " ".join(shown.split())
    assert store.read(output / "a.tif") != store.read(output / "b.tif")
    pixels = []
    for name in ("a.tif", "plane.tif"):
        (tmp_path / name).write_bytes(store.read(output / name))
        pixels.append(read_image(tmp_path / name).pixels)
    np.testing.assert_array_equal(*pixels)

    made = ["schedule", "create", "chosen", "--model", "of-dapi", "--watch", inbox, "--every", "1d", "--channel", "GFP"]
    call(*made, "--output", str(store.results / project / "of-gfp"))
    ended = stack.wait(schedules.run_now("chosen"))
    assert ended["state"]["message"].startswith("4 images predicted; 0 of 4 had been done before."), ended["state"]
    chosen = schedules.get("chosen")
    assert chosen.parameters["channels"] == ["GFP"]
    other = {"parameters": {**chosen.parameters, "channels": ["RFP"]}}
    stack.api.patch(f"/deployments/{chosen.deployment}", json=other).raise_for_status()
    ended = stack.wait(schedules.run_now("chosen"))
    assert ended["state"]["message"].startswith("Paused: On Prefect's page other channels, planes or frames were set")
    for name in ("taken", "chosen"):
        call("schedule", "delete", name)
