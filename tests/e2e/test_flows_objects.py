"""A method that finds objects, from training to its judgement, as people use it in the browser: the real StarDist."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, publish_dataset, read_published

from parfocal.client.models import read_model
from parfocal.client.quality import evaluation_summary
from parfocal.client.results import result_uri

TINY = json.loads((ROOT / "tests/stardist/contract.json").read_text())["parameters"]


@pytest.fixture(scope="module")
def trained(stack: Any, nuclei_folder: Path) -> dict[str, Any]:
    """A finished run of train/stardist-2d."""
    name = f"nuclei:{publish_dataset(stack.client.store, 'nuclei', nuclei_folder).rsplit('/', 1)[-1]}"
    stack.wait_for_choice("train/stardist-2d", "dataset", name)
    # Enough for it to find some of the objects, and too little for all: each column of the table has something to show.
    parameters = {**TINY, "epochs": 30, "patches_per_image": 16, "patch_size": 32, "learning_rate": 0.003}
    flow_run = stack.start("train/stardist-2d", {"dataset": name, "model": "nuclei", "parameters": parameters})
    run: dict[str, Any] = stack.wait(flow_run)
    assert run["state_type"] == "COMPLETED", (run["state"], stack.log_text(flow_run))
    return run


def test_true_positives_and_errors_of_each_image_are_in_the_table(stack: Any, trained: dict[str, Any]) -> None:
    rows = json.loads(stack.artifacts(trained["id"])["table"]["data"])
    job = stack.client.get(f"{trained['id']}-qc")
    summary = evaluation_summary(stack.client, result_uri(job))
    assert [row["Image"] for row in rows] == ["Mean of 3, objects of all", "field0", "field1", "field2"]
    assert {"F1 prediction", "F1 Otsu"} <= set(rows[0])
    pooled = summary.details["pooled"]["prediction"]["0.5"]
    for column, name in (
        ("True positives", "true_positives"),
        ("False negatives", "false_negatives"),
        ("False positives", "false_positives"),
    ):
        assert rows[0][column] == sum(row[column] for row in rows[1:]) == pooled[name]
    assert rows[0]["True positives"] > 0


def test_the_page_has_the_verdict_the_sentence_on_the_objects_and_the_overlay(
    stack: Any, trained: dict[str, Any]
) -> None:
    rows = json.loads(stack.artifacts(trained["id"])["table"]["data"])
    page = stack.artifacts(trained["id"])["markdown"]["data"]
    verdict = read_model(stack.client, "nuclei").verdict
    assert f"Quality control: {verdict.state}" in page
    assert all(reason in page for reason in verdict.reasons)
    objects = rows[0]["True positives"] + rows[0]["False negatives"]
    assert (
        f"{rows[0]['True positives']} of {objects} objects found, {rows[0]['False positives']} false positive" in page
    )
    encoded = page.split("data:image/png;base64,")[1].split(")")[0]
    job = stack.client.get(f"{trained['id']}-qc")
    place = stack.client.store.results / "default" / job.id
    assert base64.b64decode(encoded) == read_published(stack.client.store, str(place), "figure.png")
