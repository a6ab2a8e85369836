"""Instance QC as a job: a real QC service, a real store, labels predicted by moving the targets."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from parfocal import v1
from parfocal.runtime.manifests import RESULT_MANIFEST, ResultManifest
from parfocal.runtime.store import Location

Evaluate = Callable[..., v1.Job]


@pytest.fixture(scope="module")
def evaluate(evaluate_changed: Evaluate) -> Evaluate:
    """Evaluate the targets changed by a function as found objects."""
    return partial(evaluate_changed, "instances")


def moved(labels: Any) -> Any:
    return np.roll(labels, 1, axis=1)


def test_nearly_right_objects_pass_and_everything_is_written(evaluate: Evaluate, s3: Any) -> None:
    job = evaluate(moved)
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    place, store = Location.parse(job.outputs[0].uri), s3.store()
    result = ResultManifest.read(store, place / RESULT_MANIFEST)
    names = {entry.name for entry in result.files}
    assert {"figure.png", "metrics.csv", "levels.csv", "summary.json", "verdict.json", "overlays/field0.png"} <= names
    assert {"report.pdf", "report.html", "sizes.csv", "maps/field0.tif"} <= names
    assert result.verdict["state"] == "passed"
    summary = store.read_json(place / "summary.json")
    assert summary["baseline"]["objects"] == "bright"
    assert set(summary["shown"]) <= set(summary["metrics"]["prediction"])
    rows = list(csv.DictReader(io.StringIO(store.read(place / "metrics.csv").decode())))
    assert [(row["image"], row["kind"]) for row in rows[:2]] == [("field0", "baseline"), ("field0", "prediction")]
    counted = summary["pooled"]["prediction"]["0.5"]
    assert counted["found"] == sum(int(row["found (TP)"]) for row in rows if row["kind"] == "prediction")
    assert job.metrics["prediction_f1"] == pytest.approx(counted["f1"])


def test_empty_predictions_fail_by_name(evaluate: Evaluate, s3: Any) -> None:
    job = evaluate(np.zeros_like)
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    verdict = s3.store().read_json(Location.parse(job.outputs[0].uri) / "verdict.json")
    assert verdict["state"] == "failed"
    assert "In 3 of 3 images no object was found" in json.dumps(verdict["reasons"])


def test_a_stricter_level_asks_for_better_outlines(evaluate: Evaluate, s3: Any) -> None:
    job = evaluate(moved, iou=0.95, maps=False)
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    result = ResultManifest.read(s3.store(), Location.parse(job.outputs[0].uri) / RESULT_MANIFEST)
    assert result.verdict["state"] == "failed"
    assert not any(entry.name.startswith("overlays/") for entry in result.files)


def test_a_prediction_that_is_no_label_image_is_refused_by_name(evaluate: Evaluate) -> None:
    job = evaluate(lambda labels: labels.astype(np.float32) * 0.7)
    assert job.state == v1.JOB_STATE_FAILED
    assert "field0 (prediction) holds" in job.error.text
    assert "whole numbers" in job.error.text


def test_one_prediction_that_cannot_be_scored_is_a_failed_image(evaluate: Evaluate, s3: Any) -> None:
    changes = iter([lambda labels: labels[:, 1:], moved, moved])
    job = evaluate(lambda labels: next(changes)(labels), max_failed_images=1)
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    place, store = Location.parse(job.outputs[0].uri), s3.store()
    result = ResultManifest.read(store, place / RESULT_MANIFEST)
    assert result.verdict["state"] == "passed"
    (remark,) = (text for text in result.verdict["remarks"] if "could not be scored" in text)
    assert remark.startswith("1 of 3 predictions could not be scored: field0: the prediction has shape")
    assert remark.endswith("The thresholds allow that.")
    assert list(store.read_json(place / "summary.json")["unscorable"]) == ["field0"]
    assert "not scored" in store.read(place / "report.html").decode()
