"""Detection QC as a job: tables of boxes made from the annotated ones."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from example_data import write_kind
from support import publish_images, publish_kind, publish_model, read_published

from parfocal import v1
from parfocal.runtime.datasets.annotations.voc import parse_voc
from parfocal.runtime.datasets.findings import Notes
from parfocal.runtime.methods.service import values_struct
from parfocal.runtime.store.manifests import RESULT_MANIFEST, ResultManifest
from parfocal.runtime.store.store import Location

Row = tuple[str, float, float, float, float, float]
"""Class, confidence, x0, y0, x1, y1."""
Change = Callable[[list[Row]], list[Row]]

HEADER = "plane,class,confidence,x_min_px,y_min_px,x_max_px,y_max_px"


@pytest.fixture(scope="module")
def boxes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kind(tmp_path_factory.mktemp("boxes"), "boxes")


@pytest.fixture(scope="module")
def evaluate(
    run_job: Any, s3: Any, boxes_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., v1.Job]:
    """Evaluate the annotated boxes of the test images, changed by a function, as if a model had detected them."""
    store = s3.store()
    dataset = publish_kind(store, "boxed", boxes_folder)

    def run(change: Change, *, model: bool = False, **parameters: Any) -> v1.Job:
        folder = tmp_path_factory.mktemp("predicted")
        (folder / "detections").mkdir()
        for path in sorted((boxes_folder / "test" / "target").iterdir()):
            annotation, _ = parse_voc(path, path.name, Notes())
            rows = change([(box.name, 0.9, *box.corners) for box in annotation.boxes])
            lines = [HEADER, *(",".join(map(str, (0, *row))) for row in rows)]
            (folder / "detections" / f"{path.stem}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        spec = v1.EvaluationSpec(
            method="detection",
            dataset_uri=dataset,
            prediction_uri=publish_images(store, folder),
            split="test",
            model_uri=publish_model(store, "detector", dataset) if model else "",
            parameters=values_struct(parameters),
        )
        return run_job(v1.StartJobRequest(evaluation=spec))

    return run


def read(job: v1.Job, s3: Any) -> tuple[ResultManifest, dict[str, Any]]:
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    place, store = Location.parse(job.outputs[0].uri), s3.store()
    manifest = ResultManifest.read(store, place / RESULT_MANIFEST)
    return manifest, json.loads(read_published(store, str(place), "summary.json"))


def rows_of(job: v1.Job, s3: Any, name: str) -> list[dict[str, str]]:
    content = read_published(s3.store(), job.outputs[0].uri, name).decode()
    return list(csv.DictReader(io.StringIO(content)))


def test_mistakes_of_every_kind_are_counted(evaluate: Callable[..., v1.Job], s3: Any) -> None:
    """In every image one box is lost, one false_positives, one of the wrong class; the others are a pixel off."""

    def change(rows: list[Row]) -> list[Row]:
        _, second, *others = rows
        wrong = ("small" if second[0] == "large" else "large", *second[1:])
        near = [(name, 0.8, x0 + 1, y0, x1 + 1, y1) for name, _, x0, y0, x1, y1 in others]
        return [wrong, *near, ("large", 0.1, 0, 0, 3, 3)]

    job = evaluate(change, model=True)
    result, summary = read(job, s3)
    files = {entry.public_name for entry in result.files}
    expected = {"figure.png", "curves.png", "counts.png", "confusion.png", "metrics.csv", "classes.csv", "levels.csv"}
    assert expected | {"confusion.csv", "curves.csv", "counts.csv", "boxes.csv", "report.pdf"} <= files
    images = summary["images"]
    assert {f"overlays/{image.input}.png" for image in result.images} <= files
    pooled = summary["details"]["pooled"]["prediction"]
    total = pooled["target_objects"]
    assert pooled["true_positives"] == total - 2 * images
    assert pooled["false_positives"] == pooled["false_negatives"] == 2 * images
    assert sum(int(row["wrong_class"]) for row in per_image(job, s3)) == images
    assert summary["details"]["counts"]["bias"] == 0
    assert summary["details"]["centre_distance_px"]["median"] == pytest.approx(1)
    boxes = rows_of(job, s3, "boxes.csv")
    assert {row["outcome"] for row in boxes} == {"true positive", "false positive", "false negative", "wrong class"}
    assert sum(row["outcome"] == "true positive" for row in boxes) == pooled["true_positives"]
    levels = {float(row["iou"]): row for row in rows_of(job, s3, "levels.csv") if row["kind"] == "prediction"}
    assert int(levels[0.5]["true_positives"]) == pooled["true_positives"]
    assert float(levels[0.5]["voc_map"]) == pytest.approx(summary["headline"]["prediction_map_50"])
    assert sum(map(sum, summary["details"]["confusion"]["objects"])) == total + images
    assert result.verdict["state"] == summary["verdict"]
    assert job.outputs[1].kind == "qc"


def per_image(job: v1.Job, s3: Any) -> list[dict[str, str]]:
    return [row for row in rows_of(job, s3, "metrics.csv") if row["kind"] == "prediction"]


def test_the_boxes_themselves_are_perfect(evaluate: Callable[..., v1.Job], s3: Any) -> None:
    result, summary = read(evaluate(lambda rows: rows, maps=False), s3)
    for metric in ("f1", "precision", "recall", "mean_matched_iou"):
        assert summary["metrics"]["prediction"][metric]["mean"] == 1
    means = summary["details"]["mean_average_precision"]["prediction"]
    assert all(value == 1 for rule in means.values() for value in rule.values())
    assert summary["baseline"]["name"] == "Otsu threshold"
    assert summary["baseline"]["class"] in {"small", "large"}
    assert not any(entry.public_name.startswith("overlays/") for entry in result.files)


def test_nothing_detected_fails_by_name(evaluate: Callable[..., v1.Job], s3: Any) -> None:
    result, summary = read(evaluate(lambda _: []), s3)
    assert result.verdict["state"] == "failed"
    assert summary["failed_images"] == [image.input for image in result.images]
    assert summary["metrics"]["prediction"]["recall"]["mean"] == 0


def test_only_detections_of_the_confidence_asked_for_count(evaluate: Callable[..., v1.Job], s3: Any) -> None:
    def change(rows: list[Row]) -> list[Row]:
        return [*rows, ("large", 0.2, 0, 0, 3, 3)]

    _, every = read(evaluate(change), s3)
    _, certain = read(evaluate(change, confidence=0.5), s3)
    assert every["details"]["pooled"]["prediction"]["false_positives"] == every["images"]
    assert certain["details"]["pooled"]["prediction"]["false_positives"] == 0
    assert every["details"]["best_confidence"] == {"confidence": 0.9, "f1": 1.0}
    assert every["details"]["mean_average_precision"] == certain["details"]["mean_average_precision"]


def test_classes_that_the_dataset_lacks_are_false_positives(evaluate: Callable[..., v1.Job], s3: Any) -> None:
    _, summary = read(evaluate(lambda rows: [("bubble", *row[1:]) for row in rows]), s3)
    classes = {row["class"]: row for row in summary["details"]["classes"]}
    assert classes["bubble"]["false_positives"] == summary["details"]["pooled"]["prediction"]["target_objects"]
    assert classes["bubble"]["voc_ap_50"] is None
    assert any("bubble" in remark for remark in summary["remarks"])


def test_a_table_that_cannot_be_read_is_a_failed_image(evaluate: Callable[..., v1.Job], s3: Any) -> None:
    calls = iter(range(100))

    def change(rows: list[Row]) -> list[Row]:
        return [("large", 7.0, 0, 0, 3, 3)] if next(calls) == 0 else rows

    result, summary = read(evaluate(change), s3)
    [(lost, why)] = summary["unscorable"].items()
    assert [image.input for image in result.images if image.reason] == [lost]
    assert f"{lost} (prediction), line 2: confidence" in why
    assert result.verdict["state"] == "failed"


def test_models_are_compared_and_drawn(evaluate: Callable[..., v1.Job], run_job: Any, s3: Any) -> None:
    good = evaluate(lambda rows: rows, maps=False)
    poor = evaluate(lambda rows: [("bubble", *rows[0][1:]), *rows[2:]], maps=False)
    assert not good.error.text
    assert not poor.error.text
    spec = v1.ComparisonSpec(
        method="detection",
        dataset_uri=good.evaluation.dataset_uri,
        evaluation_uris=[job.outputs[0].uri for job in (good, poor)],
    )
    job = run_job(v1.StartJobRequest(comparison=spec))
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    manifest = ResultManifest.read(s3.store(), Location.parse(job.outputs[0].uri) / RESULT_MANIFEST)
    assert {"images.png", "figure.png", "tests.csv"} <= {entry.public_name for entry in manifest.files}


def test_a_dataset_without_boxes_is_refused(jobs: Any, s3: Any, pairs_folder: Path) -> None:
    store = s3.store()
    spec = v1.EvaluationSpec(
        method="detection",
        dataset_uri=publish_kind(store, "pairs", pairs_folder),
        prediction_uri=publish_images(store, pairs_folder / "test" / "target"),
        split="test",
    )
    with pytest.raises(grpc.RpcError) as refused:
        jobs.StartJob(v1.StartJobRequest(evaluation=spec))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_prediction_without_tables_is_refused(run_job: Any, s3: Any, boxes_folder: Path) -> None:
    store = s3.store()
    spec = v1.EvaluationSpec(
        method="detection",
        dataset_uri=publish_kind(store, "boxed", boxes_folder),
        prediction_uri=publish_images(store, boxes_folder / "test" / "source"),
        split="test",
    )
    job = run_job(v1.StartJobRequest(evaluation=spec))
    assert (job.state, job.error.reason) == (v1.JOB_STATE_FAILED, "INVALID_INPUT")
    assert "detections/NAME.csv" in job.error.text
