"""People train on the command line of a whole stack: the workflow goes on whatever becomes of the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import Any

import pytest
from support import interruptible, wait_for

from parfocal import v1
from parfocal.client import requests
from parfocal.client.models import read_model
from parfocal.flows.remote import TrainingFlow
from parfocal.stack.connection import connection


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
        out, rest = self.process.communicate(timeout=120)
        err = "".join(self.lines) + rest
        assert "Traceback" not in err
        return self.process.returncode, out, err


def training(dataset: str, model: str, *options: str, epochs: int = 1000) -> list[str]:
    """Return the words of a command that trains for a while."""
    values = ["-p", f"epochs={epochs}", "-p", "pause_seconds=0.1"]
    return ["train", "fake-2d", "--dataset", dataset, "--model", model, *values, *options]


def flow_of(stack: Any, method: str = "fake-2d") -> TrainingFlow:
    """Return the workflow of a method as the commands see it."""
    return TrainingFlow(stack.client, str(connection(stack.folder).prefect_api_url), method)


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
    assert flow_of(stack).goes_on(job)
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


def test_a_model_is_judged_though_its_command_was_killed(stack: Any, orphan: v1.Job) -> None:
    flow_run = orphan.labels["flow_run"]
    assert stack.wait(flow_run)["state_type"] == "COMPLETED", stack.log_text(flow_run)
    verdict = read_model(stack.client, "orphan").verdict
    assert verdict.state in {"passed", "failed"}
    assert verdict.job == f"{flow_run}-qc"
    mine = [job for job in stack.client.jobs() if job.HasField("training") and job.training.model == "orphan"]
    assert [(job.id, job.attempt) for job in mine] == [(orphan.id, 1)]
    assert not flow_of(stack).goes_on(orphan), "a further command would begin anew"
    # The command had shown this epoch before the process of the run was there.
    wait_for(lambda: "Epoch 1 of 20" in stack.log_text(flow_run), what="the first epoch in the log of the run")


def test_a_command_follows_the_jobs_of_its_flow_run_to_the_verdict(stack: Any, watching: Command, parent: str) -> None:
    code, out, err = watching.end()
    assert code == 0, err
    values = json.loads(out)
    flow_run = values["job"]["labels"]["flow_run"]
    steps = [f"{flow_run}-{step}" for step in ("train", "predict", "qc")]
    assert [line.split()[1] for line in err.splitlines() if line.startswith("Job ")] == steps
    assert values["evaluation"]["uri"].endswith(f"/{steps[-1]}")
    model = read_model(stack.client, "watched")
    assert values["evaluation"]["verdict"]["state"] == model.verdict.state
    assert model.manifest.parent == stack.client.model_uri(parent)
    assert stack.run(flow_run)["parameters"]["initial_model"] == parent


def test_a_training_that_is_cancelled_after_ctrl_c_ends_its_flow_run_as_cancelled(stack: Any, dataset: str) -> None:
    command = Command(stack, *training(dataset, "unwanted"))
    command.read_until("epoch 1 of")
    code, _, err = command.end(signal.SIGINT)
    job = command.job()
    assert code == 130
    assert f"parfocal jobs cancel {job}" in err
    assert "Quality control follows" in err
    flow_run = stack.client.get(job).labels["flow_run"]
    stack.wait(flow_run, {"RUNNING"})

    assert Command(stack, "jobs", "cancel", job, "--why", "no time").end()[0] == 0
    run = stack.wait(flow_run)
    assert (run["state_type"], run["run_count"]) == ("CANCELLED", 1)
    assert "no time" in run["state"]["message"]
    assert "Traceback" not in stack.log_text(flow_run)
    assert [each.id for each in stack.client.jobs() if each.labels["flow_run"] == flow_run] == [job]
    assert stack.client.get(job).attempt == 1


def test_what_the_service_refuses_is_said_at_once_and_leaves_no_flow_run(stack: Any, dataset: str) -> None:
    words = training(dataset, "refused-at-once", "-p", "patch_size=256")
    code, _, err = Command(stack, *words).end()
    assert code == 2
    assert "smaller than" in err
    found = stack.post("/flow_runs/filter", sort="EXPECTED_START_TIME_DESC", limit=200)
    assert found
    assert not [run["id"] for run in found if run["parameters"].get("model") == "refused-at-once"]


def test_only_a_deployment_that_a_runner_serves_is_used(stack: Any) -> None:
    assert flow_of(stack).served()
    flow = stack.deployment("train/fake-2d")["flow_id"]
    stack.post("/deployments/", name="nobody-2d", flow_id=flow)
    assert stack.deployment("train/nobody-2d")
    assert not flow_of(stack, "nobody-2d").served()
