"""Semantic QC as a job: masks and probabilities made from the targets."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from support import mentions, read_published

from parfocal import v1
from parfocal.qc.semantic.figure import semantic_figure
from parfocal.qc.semantic.judge import Threshold, judge
from parfocal.qc.semantic.parameters import SemanticParameters
from parfocal.runtime.store.evaluations import ImageScore
from parfocal.runtime.store.manifests import RESULT_MANIFEST, ResultManifest
from parfocal.runtime.store.store import Location

Evaluate = Callable[..., v1.Job]


@pytest.fixture(scope="module")
def evaluate(evaluate_changed: Evaluate) -> Evaluate:
    """Evaluate the targets changed by a function as predicted foreground."""
    return partial(evaluate_changed, "semantic")


def as_probability(labels: Any) -> Any:
    """A blurred mask, so that a threshold of one half gives nearly the mask back."""
    return np.clip(ndimage.gaussian_filter((labels > 0).astype(np.float32), 0.5), 0, 1)


def read(job: v1.Job, s3: Any) -> tuple[ResultManifest, dict[str, Any], Location]:
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    place, store = Location.parse(job.outputs[0].uri), s3.store()
    return (
        ResultManifest.read(store, place / RESULT_MANIFEST),
        json.loads(read_published(store, str(place), "summary.json")),
        place,
    )


def test_probabilities_are_cut_and_the_curve_is_not_used_to_choose(evaluate: Evaluate, s3: Any) -> None:
    result, summary, place = read(evaluate(as_probability), s3)
    names = {entry.public_name for entry in result.files}
    assert {"figure.png", "metrics.csv", "curve.csv", "summary.json", "report.pdf", "maps/field0.tif"} <= names
    # No gain over the baseline is asked of a perfect prediction, but what the baseline is stands there.
    assert mentions(" ".join(result.verdict["reasons"]), "pixel classifier")
    assert summary["details"]["threshold"]["value"] == 0.5
    assert "default" in summary["details"]["threshold"]["chosen_by"]
    rows = list(csv.DictReader(io.StringIO(read_published(s3.store(), str(place), "curve.csv").decode())))
    assert len(rows) == 99
    at_half = next(row for row in rows if row["threshold"] == "0.5")
    assert float(at_half["iou"]) == pytest.approx(summary["details"]["pooled"]["prediction"]["iou"])
    assert "not used" in " ".join(result.verdict["remarks"])


def test_a_threshold_that_is_asked_for_is_applied(evaluate: Evaluate, s3: Any) -> None:
    result, summary, _ = read(evaluate(as_probability, threshold=0.97, maps=False), s3)
    assert summary["details"]["threshold"]["value"] == 0.97
    assert summary["metrics"]["prediction"]["recall"]["mean"] < 0.9
    assert not any(entry.public_name.startswith("maps/") for entry in result.files)


def test_the_target_itself_is_perfect_and_needs_no_threshold(evaluate: Evaluate, s3: Any) -> None:
    result, summary, _ = read(evaluate(lambda labels: (labels > 0).astype(np.uint8) * 255), s3)
    assert summary["details"]["threshold"] is None
    for metric in ("iou", "dice", "boundary_f1", "precision", "recall"):
        assert summary["metrics"]["prediction"][metric]["mean"] == 1
    assert not any(entry.public_name == "curve.csv" for entry in result.files)


def test_empty_masks_fail_by_name(evaluate: Evaluate, s3: Any) -> None:
    result, _, _ = read(evaluate(np.zeros_like), s3)
    assert result.verdict["state"] == "failed"
    assert mentions(" ".join(result.verdict["reasons"]), "3 of 3 images", "no foreground", ": field0")


def test_what_is_neither_mask_nor_probability_is_refused_by_name(evaluate: Evaluate) -> None:
    job = evaluate(lambda labels: labels.astype(np.float32) * 1.5)
    assert job.state == v1.JOB_STATE_FAILED
    assert "field0 (prediction)" in job.error.text
    assert "from 0 to 1" in job.error.text


def test_a_test_without_foreground_passes_nobody() -> None:
    row = {"iou": 1.0, "foreground_fraction": 0.0, "predicted_fraction": 0.0}
    scores = [ImageScore(name, row) for name in "abc"]
    by_kind = {"baseline": scores, "prediction": scores}
    pooled, names = np.diag([9, 0]), ("background", "foreground")
    verdict = judge(
        by_kind, pooled, None, Threshold(0.5, "default"), SemanticParameters(), names=names, baseline="a threshold"
    )
    assert verdict.verdict == "failed"
    assert mentions(verdict.reasons[0], "No test image", "foreground")


def test_names_of_files_are_drawn_as_they_are() -> None:
    figure = semantic_figure(
        np.zeros((30, 30)),
        np.zeros((30, 30), np.uint8),
        name="img$_$1 細胞",
        images=1,
        iou=1.0,
        curve=None,
        threshold=0.5,
    )
    figure.canvas.draw()


def test_one_prediction_that_cannot_be_scored_is_a_failed_image(evaluate: Evaluate, s3: Any) -> None:
    changes = iter([lambda labels: labels.astype(np.float32) * np.nan, as_probability, as_probability])
    result, summary, _ = read(evaluate(lambda labels: next(changes)(labels)), s3)
    assert result.verdict["state"] == "failed"
    assert mentions(result.verdict["reasons"][0], "1 of 3 predictions", "scored", "field0 (prediction)", "NaN")
    assert list(summary["unscorable"]) == ["field0"]
    assert summary["images"] == result.summary["images"] == 2
    assert summary["metrics"]["prediction"]["iou"]["mean"] > 0.9
    assert [image.input for image in result.images if image.reason] == ["field0"]
