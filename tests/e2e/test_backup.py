"""A stack is backed up while it works, and another one is made of the snapshot."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, fake_command, free_ports, read_published, wait_for

from parfocal import v1
from parfocal.cli import main
from parfocal.client import Client, requests
from parfocal.client.models import list_models, read_model
from parfocal.runtime.settings import Settings
from parfocal.runtime.store.store import Location
from parfocal.stack.config import ServiceUnit, StackConfig
from parfocal.stack.connection import connection
from parfocal.stack.control import down, up

SERVICES = ("fake", "catalog")


def outputs(client: Client, job: v1.Job) -> dict[str, bytes]:
    """Return the images of a prediction by name."""
    (place,) = job.outputs
    names = [item.location.name for item in client.store.objects(Location.parse(place.uri))]
    return {name: read_published(client.store, place.uri, name) for name in names if name.endswith(".tif")}


def predict(client: Client, dataset: str) -> v1.Job:
    """Predict the test images of a dataset."""
    request = requests.prediction_request(client.model_uri("kept:1"), client.dataset_uri(dataset), split="test")
    job = client.wait(client.start(request).id)
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.message
    return job


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a command and return what it writes as JSON."""

    def call(*arguments: object) -> Any:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        assert code == 0, captured.err
        return json.loads(captured.out)

    return call


@pytest.fixture
def start_restored(tmp_path: Path) -> Iterator[Callable[[], tuple[Path, Client]]]:
    """Start the stack in the folder `restored`; return the folder and a client."""
    folder, clients = tmp_path / "restored", []

    def start() -> tuple[Path, Client]:
        python = {name: ROOT / ".venvs" / env / "bin" / "python" for name, env in (("fake", "qc"), ("catalog",) * 2)}
        services = tuple(
            ServiceUnit(
                name=name,
                module="fake" if name == "fake" else "parfocal.catalog",
                python=python[name],
                port=port,
                command=fake_command(python[name]) if name == "fake" else (),
            )
            for name, port in zip(SERVICES, free_ports(2), strict=True)
        )
        up(StackConfig(folder=folder, services=services, portal=False))
        link = connection(folder)
        settings = Settings(
            services=link.environment["PARFOCAL_SERVICES"],
            catalog=link.environment["PARFOCAL_CATALOG"],
            s3_endpoint=link.s3_endpoint,
            s3_access_key=link.s3_access_key,
            s3_secret_key=link.s3_secret_key,
        )
        clients.append(Client(settings))
        return folder, clients[0]

    yield start
    for client in clients:
        client.close()
    down(folder)


def test_a_snapshot_of_a_stack_at_work_becomes_another_one(
    stack: Any, dataset: str, tmp_path: Path, command: Callable[..., Any], start_restored: Callable[..., Any]
) -> None:
    client = stack.client
    uri = client.dataset_uri(dataset)
    kept = client.wait(client.start(requests.training_request("fake-2d", uri, "kept", {"epochs": 2})).id)
    assert kept.state == v1.JOB_STATE_SUCCEEDED
    before = predict(client, dataset)
    slow = {"epochs": 40, "pause_seconds": 0.2}
    running = client.start(requests.training_request("fake-2d", uri, "half-done", slow))
    wait_for(lambda: client.get(running.id).checkpoints, 60, "a checkpoint")

    saved = command("backup", tmp_path / "backups", "--home", stack.folder, "--json")
    known = {job.id for job in client.jobs()}
    client.cancel(running.id)
    told = command("restore", saved["snapshot"], "--home", tmp_path / "restored", "--json")
    assert told["objects"] == saved["objects"]
    assert main(["restore", saved["snapshot"], "--home", str(tmp_path / "restored")]) == 2, "there is one already"

    _, restored = start_restored()
    ours = [job for job in client.jobs() if job.service == "fake" and job.id in known]
    assert {job.id for job in restored.jobs()} == {job.id for job in ours}
    assert [model.uri for model in list_models(restored)] == [model.uri for model in list_models(client)]
    assert not restored.catalog.damaged_files(read_model(restored, "kept").uri)

    finished = restored.wait(running.id)
    assert finished.state == v1.JOB_STATE_SUCCEEDED, finished.message
    assert finished.attempt == 2
    # Only now: the training would have handed its device over.
    assert outputs(restored, predict(restored, dataset)) == outputs(client, before)
    events = [answer.event for answer in restored.watch(running.id) if answer.event.HasField("epoch_completed")]
    again = [event.epoch_completed.epoch for event in events if event.attempt == 2]
    assert again[0] > 1, "it went on from a checkpoint"
    assert again[-1] == 40
    assert read_model(restored, "half-done").manifest.version == 1
