"""Instance QC as a job: a real QC service, a real store, labels predicted by moving the targets."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import mentions, nuclei_pair, publish_dataset, publish_images, read_published, write_pairs

from parfocal import v1
from parfocal.runtime.images.files import Image, read_image, write_image
from parfocal.runtime.methods.service import values_struct
from parfocal.runtime.store.manifests import RESULT_MANIFEST, ResultManifest
from parfocal.runtime.store.store import Location

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
    names = {entry.public_name for entry in result.files}
    assert {"figure.png", "metrics.csv", "levels.csv", "summary.json", "verdict.json", "overlays/field0.png"} <= names
    assert {"report.pdf", "report.html", "sizes.csv", "maps/field0.tif"} <= names
    assert result.verdict["state"] == "passed"
    summary = json.loads(read_published(store, str(place), "summary.json"))
    assert summary["baseline"]["objects"] == "bright"
    assert set(summary["shown"]) <= set(summary["metrics"]["prediction"])
    rows = list(csv.DictReader(io.StringIO(read_published(store, str(place), "metrics.csv").decode())))
    assert [(row["image"], row["kind"]) for row in rows[:2]] == [("field0", "baseline"), ("field0", "prediction")]
    counted = summary["details"]["pooled"]["prediction"]["0.5"]
    assert counted["true_positives"] == sum(int(row["true_positives"]) for row in rows if row["kind"] == "prediction")
    assert job.metrics["prediction_f1"] == pytest.approx(counted["f1"])
    # A prediction without classes is not asked for them.
    columns = [column["key"] for column in summary["columns"]]
    assert "class" not in json.dumps([summary["remarks"], columns, [*job.metrics], [*names]])


def test_empty_predictions_fail_by_name(evaluate: Evaluate, s3: Any) -> None:
    job = evaluate(np.zeros_like)
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    verdict = json.loads(read_published(s3.store(), job.outputs[0].uri, "verdict.json"))
    assert verdict["state"] == "failed"
    assert mentions(json.dumps(verdict["reasons"]), "3 of 3 images", "no object")
    assert mentions(json.dumps(verdict["next_steps"]), "field", "parfocal methods")


def test_a_stricter_level_asks_for_better_outlines(evaluate: Evaluate, s3: Any) -> None:
    job = evaluate(moved, iou=0.95, maps=False)
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    result = ResultManifest.read(s3.store(), Location.parse(job.outputs[0].uri) / RESULT_MANIFEST)
    assert result.verdict["state"] == "failed"
    assert not any(entry.public_name.startswith("overlays/") for entry in result.files)


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
    (remark,) = (text for text in result.verdict["remarks"] if "1 of 3" in text)
    assert mentions(remark, "scored", "field0: ", "shape", "thresholds")
    assert list(json.loads(read_published(store, str(place), "summary.json"))["unscorable"]) == ["field0"]
    assert "not scored" in read_published(store, str(place), "report.html").decode()


def write_like(path: Path, labels: Image, pixels: Any) -> None:
    write_image(path, Image(pixels.astype(np.uint8), labels.axes, labels.pixel_size))


@pytest.fixture(scope="module")
def classes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nuclei with class images: odd numbers are of class 1, even ones of class 2, number 1 is not known."""
    folder = write_pairs(tmp_path_factory.mktemp("classes"), nuclei_pair)
    for path in sorted(folder.glob("*/target/*.tif")):
        labels = read_image(path)
        drawn = np.where(labels.pixels > 1, 2 - labels.pixels % 2, 0)
        write_like(path.parent.parent / "target_class" / path.name, labels, drawn)
    return folder


@pytest.fixture(scope="module")
def evaluate_classes(
    run_job: Callable[..., v1.Job], s3: Any, classes_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Evaluate:
    """Evaluate the labels of the test images with classes made of them, against a dataset with or without classes."""

    def run(dataset: Path, classes: Callable[[Any], Any]) -> v1.Job:
        folder = tmp_path_factory.mktemp("predicted")
        for path in (classes_folder / "test" / "target").iterdir():
            labels = read_image(path)
            write_image(folder / path.name, labels)
            write_like(folder / "target_class" / path.name, labels, classes(labels.pixels))
        spec = v1.EvaluationSpec(
            method="instances",
            dataset_uri=publish_dataset(s3.store(), "classes", dataset),
            prediction_uri=publish_images(s3.store(), folder, targets=("target", "target_class")),
            split="test",
            parameters=values_struct({"maps": False}),
        )
        return run_job(v1.StartJobRequest(evaluation=spec))

    return run


def test_classes_are_scored_where_targets_and_prediction_have_them(
    evaluate_classes: Evaluate, classes_folder: Path, s3: Any
) -> None:
    # Every fourth object is called 2 instead of 1.
    job = evaluate_classes(classes_folder, lambda labels: np.where(labels % 4 == 3, 2, 2 - labels % 2) * (labels > 0))
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    place, store = Location.parse(job.outputs[0].uri), s3.store()
    numbers = [
        int(number)
        for path in (classes_folder / "test" / "target").iterdir()
        for number in np.unique(read_image(path).pixels)
        if number > 1
    ]
    right, even = sum(number % 4 != 3 for number in numbers), sum(number % 2 == 0 for number in numbers)
    summary = json.loads(read_published(store, str(place), "summary.json"))
    scored = summary["details"]["classes"]
    assert (scored["found"], scored["correct"], scored["unknown"]) == (len(numbers), right, 3)
    assert job.metrics["prediction_class_accuracy"] == pytest.approx(right / len(numbers)) == scored["accuracy"]
    assert scored["confusion"]["objects"][1] == [0, even, 0]
    assert [row["target_objects"] for row in scored["classes"]] == [len(numbers) - even, even]
    assert any(mentions(remark, "class", f"{right} of {len(numbers)} found objects") for remark in summary["remarks"])
    assert summary["verdict"] == "passed"
    rows = list(csv.DictReader(io.StringIO(read_published(store, str(place), "metrics.csv").decode())))
    column = "class_correct"
    assert sum(int(row[column]) for row in rows if row["kind"] == "prediction") == right
    assert {row[column] for row in rows if row["kind"] == "baseline"} == {""}
    names = {entry.public_name for entry in ResultManifest.read(store, place / RESULT_MANIFEST).files}
    assert {"classes.csv", "confusion.csv", "classes.png"} <= names
    assert "Classes of objects" in read_published(store, str(place), "report.html").decode()


def test_predicted_classes_without_drawn_ones_are_not_judged(
    evaluate_classes: Evaluate, nuclei_folder: Path, s3: Any
) -> None:
    job = evaluate_classes(nuclei_folder, np.sign)
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    place, store = Location.parse(job.outputs[0].uri), s3.store()
    summary = json.loads(read_published(store, str(place), "summary.json"))
    assert "classes" not in summary["details"]
    assert any("no images target_class" in remark for remark in summary["remarks"])
    assert "prediction_class_accuracy" not in job.metrics
    assert "class" not in read_published(store, str(place), "metrics.csv").decode().splitlines()[0]


def test_class_images_with_grey_values_are_refused_by_name(
    evaluate_classes: Evaluate, classes_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "wrong"
    shutil.copytree(classes_folder, folder)
    wrong = folder / "test" / "target_class" / "field1.tif"
    write_like(wrong, read_image(wrong), np.full(read_image(wrong).pixels.shape, 200))
    job = evaluate_classes(folder, np.sign)
    assert job.state == v1.JOB_STATE_FAILED
    assert mentions(job.error.text, "field1 (target_class of the dataset)", "200")


def test_a_predicted_class_image_with_grey_values_is_a_failed_image(
    evaluate_classes: Evaluate, classes_folder: Path, s3: Any
) -> None:
    calls = iter(range(100))
    job = evaluate_classes(classes_folder, lambda labels: np.full_like(labels, 200) if next(calls) == 0 else labels > 0)
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    summary = json.loads(read_published(s3.store(), job.outputs[0].uri, "summary.json"))
    [why] = summary["unscorable"].values()
    assert mentions(why, "(target_class of the prediction)", "200")
    assert summary["verdict"] == "failed"
    assert mentions(summary["reasons"][0], "1 of 3 predictions", "scored")
