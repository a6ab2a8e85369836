"""People train on the command line of a whole stack: the workflow goes on whatever becomes of the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import interruptible, publish_dataset, wait_for

from parfocal import v1
from parfocal.client import requests
from parfocal.client.models import read_model
from parfocal.client.quality import TRAINING_LABEL
from parfocal.runtime.images.files import Image, write_image


class Command:
    """A running `parfocal` whose lines on stderr are read one by one."""

    def __init__(self, stack: Any, *arguments: str) -> None:
        env = {key: value for key, value in os.environ.items() if not key.startswith(("PARFOCAL_", "PREFECT_"))}
        self.process = subprocess.Popen(
            interruptible(*arguments, "--home", str(stack.folder)),
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []

    def read_until(self, words: str) -> None:
        """Read to the line that has `words`."""
        assert self.process.stderr is not None
        while not any(words in line for line in self.lines):
            line = self.process.stderr.readline()
            assert line, f"ended as {self.process.wait(10)}: {''.join(self.lines)}"
            self.lines.append(line)

    def job(self) -> str:
        """Return the job that the command has named."""
        return next(line for line in self.lines if line.startswith("Job ")).split()[1]

    def end(self, number: int | None = None) -> tuple[int, str, str]:
        """Send a signal; return exit code, stdout and stderr."""
        if number is not None:
            self.process.send_signal(number)
        out, rest = self.process.communicate(timeout=400)
        err = "".join(self.lines) + rest
        assert "Traceback" not in err
        return self.process.returncode, out, err


def training(dataset: str, model: str, *options: str, epochs: int = 1000) -> list[str]:
    """Return the words of a command that trains for a while."""
    values = ["-p", f"epochs={epochs}", "-p", "pause_seconds=0.1"]
    return ["train", "fake-2d", "--dataset", dataset, "--model", model, *values, *options]


def flow_runs(stack: Any, training_id: str) -> list[str]:
    """Return the flow runs that judge the model of a training."""
    found = stack.post("/flow_runs/filter", flows={"name": {"any_": ["judge"]}}, limit=200)
    return [run["id"] for run in found if run["parameters"]["training"] == training_id]


def judged_by(stack: Any, training_id: str) -> dict[str, int]:
    """Return the jobs that judge the model of a training, and how often a worker was started for them."""
    return {job.id: job.attempt for job in stack.client.jobs() if job.labels.get(TRAINING_LABEL) == training_id}


def restart_runner(stack: Any) -> None:
    """Kill the runner and wait for the one that the supervisor starts."""
    (runner,) = stack.processes("parfocal.flows.serve")
    os.kill(runner, signal.SIGKILL)
    wait_for(lambda: (now := stack.processes("parfocal.flows.serve")) and now != [runner], 60, "a new runner")


@pytest.fixture(scope="module")
def parent(stack: Any, dataset: str) -> str:
    """A model to go on from."""
    uri = stack.client.dataset_uri(dataset)
    job = stack.client.start(requests.training_request("fake-2d", uri, "parent", {"epochs": 1}))
    assert stack.client.wait(job.id).state == v1.JOB_STATE_SUCCEEDED
    return "parent:1"


@pytest.fixture(scope="module")
def orphan(stack: Any, dataset: str) -> v1.Job:
    """A training, still at work, whose command was killed."""
    command = Command(stack, *training(dataset, "orphan", epochs=20))
    command.read_until("epoch 1 of")
    command.end(signal.SIGKILL)
    job: v1.Job = stack.client.get(command.job())
    assert job.state == v1.JOB_STATE_RUNNING
    return job


@pytest.fixture(scope="module")
def watching(stack: Any, dataset: str, parent: str, orphan: v1.Job) -> Command:
    """A command that waits for its turn to train, and is not looked at meanwhile."""
    return Command(stack, *training(dataset, "watched", "--from", parent, "--json", epochs=2))


@pytest.mark.usefixtures("watching")
def test_the_same_command_joins_a_training_whose_command_was_killed(stack: Any, dataset: str, orphan: v1.Job) -> None:
    code, out, err = Command(stack, *training(dataset, "orphan", "--detach", "--json", epochs=20)).end()
    assert code == 0
    assert json.loads(out)["job"]["id"] == orphan.id
    assert "joining" in err
    assert "Quality control follows" in err


def test_a_model_is_judged_once_though_command_and_runner_were_killed(stack: Any, orphan: v1.Job) -> None:
    restart_runner(stack)
    (flow_run,) = wait_for(lambda: flow_runs(stack, orphan.id), 400, "the flow run")
    assert stack.wait(flow_run)["state_type"] == "COMPLETED", stack.log_text(flow_run)
    verdict = read_model(stack.client, "orphan").verdict
    assert verdict.state in {"passed", "failed"}
    steps = {f"{orphan.id}-predict": 1, f"{orphan.id}-qc": 1}
    assert judged_by(stack, orphan.id) == steps
    assert verdict.job == f"{orphan.id}-qc"
    assert f"Quality control: {verdict.state}" in stack.artifacts(flow_run)["markdown"]["data"]
    mine = [job for job in stack.client.jobs() if job.HasField("training") and job.training.model == "orphan"]
    assert [(job.id, job.attempt) for job in mine] == [(orphan.id, 1)]

    # Prefect's database is lost, as far as it knows of this training.
    stack.api.delete(f"/flow_runs/{flow_run}").raise_for_status()
    restart_runner(stack)
    (again,) = wait_for(lambda: flow_runs(stack, orphan.id), 400, "another flow run")
    assert stack.wait(again)["state_type"] == "COMPLETED", stack.log_text(again)
    assert judged_by(stack, orphan.id) == steps
    assert read_model(stack.client, "orphan").verdict == verdict


def test_a_command_and_the_runner_judge_a_model_once(stack: Any, watching: Command, parent: str) -> None:
    code, out, err = watching.end()
    assert code == 0, err
    values = json.loads(out)
    job = values["job"]["id"]
    steps = [job, f"{job}-predict", f"{job}-qc"]
    assert [line.split()[1] for line in err.splitlines() if line.startswith("Job ")] == steps
    assert values["evaluation"]["uri"].endswith(f"/{steps[-1]}")
    model = read_model(stack.client, "watched")
    assert values["evaluation"]["verdict"]["state"] == model.verdict.state
    assert model.manifest.parent == stack.client.model_uri(parent)
    (flow_run,) = wait_for(lambda: flow_runs(stack, job), 400, "the flow run")
    assert stack.wait(flow_run)["state_type"] == "COMPLETED", stack.log_text(flow_run)
    assert judged_by(stack, job) == dict.fromkeys(steps[1:], 1)


def test_a_training_that_is_cancelled_after_ctrl_c_is_not_judged(stack: Any, dataset: str) -> None:
    command = Command(stack, *training(dataset, "unwanted"))
    command.read_until("epoch 1 of")
    code, _, err = command.end(signal.SIGINT)
    job = command.job()
    assert code == 130
    assert f"parfocal jobs cancel {job}" in err
    assert "Quality control follows" in err
    assert Command(stack, "jobs", "cancel", job, "--why", "no time").end()[0] == 0
    assert stack.client.wait(job).state == v1.JOB_STATE_CANCELLED
    assert (judged_by(stack, job), flow_runs(stack, job)) == ({}, [])


def test_a_failed_training_fails_its_flow_run_in_the_words_of_the_job(stack: Any, tmp_path: Path) -> None:
    # Only the worker reads pixels, so the service admits the job.
    for split in ("train", "test"):
        for role in ("source", "target"):
            for number in range(3):
                path = tmp_path / split / role / f"{number}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_image(path, Image(pixels=np.full((32, 32), np.nan, np.float32), axes="YX", pixel_size=None))
    publish_dataset(stack.client.store, "unusable", tmp_path)
    code, out, _ = Command(stack, *training("unusable", "never", "--detach", "--json")).end()
    assert code == 0
    job = json.loads(out)["job"]["id"]
    (flow_run,) = wait_for(lambda: flow_runs(stack, job), 400, "the flow run")
    ended = stack.wait(flow_run)
    assert (ended["state_type"], ended["state"]["message"]) == ("FAILED", stack.client.get(job).error.text)
    assert "Traceback" not in stack.log_text(flow_run)


def test_what_the_service_refuses_is_said_at_once_and_leaves_nothing(stack: Any, dataset: str) -> None:
    words = training(dataset, "refused-at-once", "-p", "patch_size=256")
    code, _, err = Command(stack, *words).end()
    assert code == 2
    assert "smaller than" in err
    assert not [job for job in stack.client.jobs() if job.training.model == "refused-at-once"]
