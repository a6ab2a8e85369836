"""People start workflows in the browser: real Prefect, real S3, real services, processes that are killed."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from support import publish_dataset, wait_for

from parfocal import v1
from parfocal.client.models import read_model
from parfocal.flows.hooks import MAX_ATTEMPTS
from parfocal.runtime.images.files import Image, write_image

# Ends only on request, so the tests do not depend on the speed of the machine.
ENDLESS = {"epochs": 1000, "pause_seconds": 0.4}


def train(stack: Any, dataset: str, model: str, **parameters: Any) -> str:
    return str(stack.start("train/fake-2d", {"dataset": dataset, "model": model, "parameters": parameters}))


@pytest.fixture(scope="module")
def trained(stack: Any, dataset: str) -> dict[str, Any]:
    """A finished run of train/fake-2d."""
    flow_run = train(stack, dataset, "first", epochs=3)
    run: dict[str, Any] = stack.wait(flow_run)
    assert run["state_type"] == "COMPLETED", (run["state"], stack.log_text(flow_run))
    return run


def test_the_form_is_the_published_schema_with_the_datasets_as_a_choice(stack: Any, dataset: str) -> None:
    form = stack.deployment("train/fake-2d")["parameter_openapi_schema"]
    epochs = form["properties"]["parameters"]["properties"]["epochs"]
    assert (epochs["type"], epochs["default"], epochs["minimum"], epochs["title"]) == ("integer", 4, 1, "Epochs")
    assert dataset in form["properties"]["dataset"]["enum"]


def test_the_server_refuses_a_value_out_of_range(stack: Any, dataset: str) -> None:
    with pytest.raises(httpx.HTTPStatusError) as caught:
        train(stack, dataset, "never", epochs=0)
    assert caught.value.response.status_code in {409, 422}
    assert "minimum" in caught.value.response.text


def test_a_run_whose_process_cannot_begin_is_not_taken_up_for_ever(stack: Any, dataset: str) -> None:
    deployment = stack.deployment("train/fake-2d")["id"]
    parameters = {"dataset": dataset, "model": "never", "unknown": 1}
    path = f"/deployments/{deployment}/create_flow_run"
    run = stack.post(path, parameters=parameters, state={"type": "SCHEDULED"}, enforce_parameter_schema=False)["id"]
    wait_for(lambda: stack.run(run)["state_type"] == "CRASHED" and died(stack, run) == MAX_ATTEMPTS, 240, "giving up")
    time.sleep(5)
    assert died(stack, run) == MAX_ATTEMPTS


def died(stack: Any, run: str) -> int:
    states = stack.api.get("/flow_run_states/", params={"flow_run_id": run}).json()
    return sum(state["type"] == "CRASHED" for state in states)


def test_a_training_run_publishes_a_model_with_a_verdict(stack: Any, trained: dict[str, Any]) -> None:
    model = read_model(stack.client, "first")
    assert model.manifest.job == f"{trained['id']}-train"
    assert model.verdict.state in {"passed", "failed"}
    assert model.verdict.job == f"{trained['id']}-qc"


def test_a_training_run_reports_every_epoch_in_its_log(stack: Any, trained: dict[str, Any]) -> None:
    log = stack.log_text(trained["id"])
    for epoch in (1, 2, 3):
        assert f"Epoch {epoch} of 3: loss" in log


def test_a_training_run_ends_with_a_full_progress_bar(stack: Any, trained: dict[str, Any]) -> None:
    progress = stack.artifacts(trained["id"])["progress"]
    assert progress["data"] == 100
    assert "first:" in progress["description"]


def test_a_training_run_shows_the_scores_of_each_test_image(stack: Any, trained: dict[str, Any]) -> None:
    rows = json.loads(stack.artifacts(trained["id"])["table"]["data"])
    assert [row["Image"] for row in rows] == ["Mean of 3", "field0", "field1", "field2"]
    assert {"SSIM input", "SSIM Gaussian", "SSIM prediction", "PSNR prediction"} <= set(rows[0])
    mean = sum(row["SSIM prediction"] for row in rows[1:]) / 3
    assert rows[0]["SSIM prediction"] == pytest.approx(mean, abs=2e-4)


def test_a_training_run_shows_verdict_reasons_and_figure_on_one_page(stack: Any, trained: dict[str, Any]) -> None:
    page = stack.artifacts(trained["id"])["markdown"]["data"]
    verdict = read_model(stack.client, "first").verdict
    assert f"Quality control: {verdict.state}" in page
    assert verdict.reasons
    assert all(reason in page for reason in verdict.reasons)
    assert f"{trained['id']}-train" in page
    encoded = page.split("data:image/png;base64,")[1].split(")")[0]
    assert base64.b64decode(encoded).startswith(b"\x89PNG")


def test_a_run_with_nothing_wrong_logs_no_traceback(stack: Any, trained: dict[str, Any]) -> None:
    assert "Traceback" not in stack.log_text(trained["id"])


def test_a_new_model_can_be_chosen_and_applied(stack: Any, dataset: str, trained: dict[str, Any]) -> None:
    model = f"first:{read_model(stack.client, 'first').manifest.version}"
    stack.wait_for_choice("predict/fake-2d", "model", model)
    flow_run = stack.start("predict/fake-2d", {"model": model, "dataset": dataset, "split": "test"})
    run = stack.wait(flow_run)
    assert run["state_type"] == "COMPLETED", (run["state"], stack.log_text(flow_run))
    assert "# 3 of 3 images predicted" in stack.artifacts(flow_run)["markdown"]["data"]


def test_a_failed_job_fails_the_run_with_the_words_of_the_job(stack: Any, dataset: str, tmp_path: Path) -> None:
    # Only the worker reads pixels, so the service admits the job.
    for split in ("train", "test"):
        for role in ("source", "target"):
            for number in range(3):
                path = tmp_path / split / role / f"{number}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_image(path, Image(pixels=np.full((32, 32), np.nan, np.float32), axes="YX", pixel_size=None))
    name = f"broken:{publish_dataset(stack.client.store, 'broken', tmp_path).rsplit('/', 1)[-1]}"
    stack.wait_for_choice("train/fake-2d", "dataset", name)
    flow_run = train(stack, name, "never")
    run = stack.wait(flow_run)
    assert run["state_type"] == "FAILED"
    assert run["state"]["message"] == stack.client.get(f"{flow_run}-train").error.text
    assert "Traceback" not in stack.log_text(flow_run)


def test_a_run_survives_the_death_of_its_process_and_of_the_runner(stack: Any, dataset: str) -> None:
    flow_run = train(stack, dataset, "survivor", **ENDLESS)
    begun = stack.job(flow_run, "train", lambda job: job.progress.epoch >= 1)
    (process,) = wait_for(lambda: stack.processes("prefect.engine"), what="the process of the run")
    os.kill(process, signal.SIGKILL)
    stack.job(flow_run, "train", lambda job: job.progress.epoch > begun.progress.epoch)
    stack.wait_for_attempt(flow_run, 2)

    (runner,) = stack.processes("parfocal.flows.serve")
    os.kill(runner, signal.SIGKILL)
    stack.wait_for_attempt(flow_run, 3)
    assert len(stack.processes("prefect.engine")) == 1

    stack.client.cancel(f"{flow_run}-train", keep_best=True, why="long enough")
    run = stack.wait(flow_run, {"COMPLETED", "FAILED", "CANCELLED"})
    assert run["state_type"] == "COMPLETED", (run["state"], stack.log_text(flow_run))
    mine = [job for job in stack.client.jobs() if job.labels["flow_run"] == flow_run and job.HasField("training")]
    assert [(job.id, job.attempt) for job in mine] == [(f"{flow_run}-train", 1)]


def test_cancelling_a_run_cancels_its_job(stack: Any, dataset: str) -> None:
    flow_run = train(stack, dataset, "unwanted", **ENDLESS)
    stack.job(flow_run, "train", lambda job: job.state == v1.JOB_STATE_RUNNING)
    stack.post(f"/flow_runs/{flow_run}/set_state", state={"type": "CANCELLING"})
    run = stack.wait(flow_run)
    assert run["state_type"] == "CANCELLED"
    job = stack.client.wait(f"{flow_run}-train")
    assert job.state == v1.JOB_STATE_CANCELLED
    assert "flow run" in job.message
