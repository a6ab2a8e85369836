"""People compare models and have datasets looked at in the browser: real Prefect, real S3, the real QC service."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support import filament_pair, mentions, publish_dataset, wait_for, write_pairs

from parfocal import v1
from parfocal.client import requests
from parfocal.client.results import read_result
from parfocal.flows.catalogue import evaluation_choice


def complete(stack: Any, deployment: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Run a deployment to its end."""
    flow_run = stack.start(deployment, parameters)
    run: dict[str, Any] = stack.wait(flow_run)
    assert run["state_type"] == "COMPLETED", (run["state"], stack.log_text(flow_run))
    return run


def jobs_of(stack: Any, run: Mapping[str, Any]) -> list[v1.Job]:
    """Return the jobs that a flow run started."""
    return [job for job in stack.client.jobs() if job.labels.get("flow_run") == run["id"]]


def pictures(page: str) -> int:
    """Return the number of pictures on a page."""
    encoded = [part.split(")")[0] for part in page.split("data:image/png;base64,")[1:]]
    assert all(base64.b64decode(text).startswith(b"\x89PNG") for text in encoded)
    return len(encoded)


@pytest.fixture(scope="module")
def models(stack: Any, dataset: str) -> list[str]:
    """Two models that nobody has judged, as the form offers them."""
    uri = stack.client.dataset_uri(dataset)
    jobs = [
        stack.client.start(requests.training_request("fake-2d", uri, name, {"epochs": epochs}))
        for name, epochs in (("short", 1), ("long", 8))
    ]
    assert all(stack.client.wait(job.id).state == v1.JOB_STATE_SUCCEEDED for job in jobs)
    for name in ("short:1", "long:1"):
        stack.wait_for_choice("compare/restoration", "models", name)
    return ["short:1", "long:1"]


@pytest.fixture(scope="module")
def compared(stack: Any, dataset: str, models: list[str]) -> dict[str, Any]:
    """A finished run of compare/restoration."""
    values = {"models": models, "dataset": dataset, "parameters": {"metrics": ["psnr"]}}
    return complete(stack, "compare/restoration", values)


def test_a_comparison_judges_what_has_not_been_judged(stack: Any, compared: dict[str, Any]) -> None:
    assert sorted(str(job.WhichOneof("spec")) for job in jobs_of(stack, compared)) == [
        "comparison",
        "evaluation",
        "evaluation",
        "prediction",
        "prediction",
    ]
    assert compared["name"] == "compare short:1, long:1 (restoration)"


def test_a_comparison_shows_sentences_scores_and_pictures(
    stack: Any, compared: dict[str, Any], models: list[str]
) -> None:
    artifacts = stack.artifacts(compared["id"])
    rows = json.loads(artifacts["table"]["data"])
    assert [row["Model or baseline"] for row in rows] == [*models, "input", "Gaussian filter"]
    assert all(float(row["PSNR [dB]"].split(" ")[0]) > 5 for row in rows)
    page = artifacts["markdown"]["data"]
    assert mentions(page, "no difference in PSNR", "short:1 and long:1")
    assert "| short:1 - long:1 |" in page
    assert pictures(page) == 2
    assert artifacts["progress"]["data"] == 100
    assert "none of 5 differences" in compared["state"]["message"]


def test_evaluations_are_chosen_and_models_judged_before_are_not_judged_again(
    stack: Any, dataset: str, compared: dict[str, Any], models: list[str]
) -> None:
    job = stack.client.get(f"{compared['id']}-evaluation-4")
    choice = evaluation_choice(read_result(stack.client, job))
    assert choice.startswith(f"long:1 on {dataset}, test images")
    stack.wait_for_choice("compare/restoration", "evaluations", choice)
    values = {"models": ["short:1"], "evaluations": [choice], "dataset": dataset}
    run = complete(stack, "compare/restoration", values)
    assert [job.id for job in jobs_of(stack, run)] == [f"{run['id']}-comparison-3"]
    reused = ("short:1 ", f"(job {compared['id']}-evaluation-2)")
    wait_for(lambda: mentions(stack.log_text(run["id"]), *reused), what="the line in the log")
    assert [row["Model or baseline"] for row in json.loads(stack.artifacts(run["id"])["table"]["data"])][:2] == models


def test_a_single_model_is_not_compared_and_the_run_says_why(stack: Any, dataset: str, models: list[str]) -> None:
    flow_run = stack.start("compare/restoration", {"models": models[:1], "dataset": dataset})
    run = stack.wait(flow_run)
    assert run["state_type"] == "FAILED"
    assert "two models" in run["state"]["message"]
    assert "Traceback" not in stack.log_text(flow_run)


def test_a_dataset_is_looked_at_and_what_was_found_is_shown(stack: Any, tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "leaky", filament_pair)
    for role in ("source", "target"):
        (folder / "test" / role / "field0.tif").write_bytes((folder / "train" / role / "field1.tif").read_bytes())
    name = f"leaky:{publish_dataset(stack.client.store, 'leaky', folder).rsplit('/', 1)[-1]}"
    stack.wait_for_choice("check-dataset/dataset", "dataset", name)
    run = complete(stack, "check-dataset/dataset", {"dataset": name})
    assert run["state"]["message"].startswith(f"{name}: ")
    artifacts = stack.artifacts(run["id"])
    rows = json.loads(artifacts["table"]["data"])
    assert {"Severity": "error", "Check": "leak"}.items() <= rows[0].items()
    assert "test/source/field0" in rows[0]["Finding"]
    page = artifacts["markdown"]["data"]
    assert rows[0]["Finding"] in page
    assert "good for restoration" in page.lower()
    assert "fake-2d" in page
    assert pictures(page) == 2  # examples of the images, and the first sheet

    again = complete(stack, "check-dataset/dataset", {"dataset": name})
    assert jobs_of(stack, again) == []
    assert json.loads(stack.artifacts(again["id"])["table"]["data"]) == rows
