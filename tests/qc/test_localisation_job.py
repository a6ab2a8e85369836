"""Localisation and reconstruction QC as jobs: tables made from the true emitters."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_data import PIXEL_NM, STACK, write_kind
from support import mentions, publish_kind, read_published

from parfocal import v1
from parfocal.qc.metrics.images.reconstructions import render
from parfocal.runtime.datasets.coordinates import Localisations, read_localisations
from parfocal.runtime.images.files import Image, PixelSize, write_image
from parfocal.runtime.methods.service import values_struct
from parfocal.runtime.store.manifests import RESULT_MANIFEST, ResultManifest
from parfocal.runtime.store.names import result_location
from parfocal.runtime.store.publish import folder_files, publish, upload_files
from parfocal.runtime.store.store import Location

UM = PIXEL_NM / 1e3
UPSAMPLING = 4
Change = Callable[[Localisations], Localisations]


@pytest.fixture(scope="module")
def stacks_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kind(tmp_path_factory.mktemp("stacks"), "coordinates")


@pytest.fixture(scope="module")
def evaluate(
    run_job: Any, s3: Any, stacks_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., v1.Job]:
    """Evaluate the true emitters of the test stacks, changed by a function, as if a model had located them."""
    store = s3.store()
    dataset = publish_kind(store, "emitters", stacks_folder, "coordinates")

    def run(method: str, change: Change, *, image: bool = True, **parameters: Any) -> v1.Job:
        folder = tmp_path_factory.mktemp("predicted")
        (folder / "localisations").mkdir()
        for path in sorted((stacks_folder / "test" / "target").iterdir()):
            found = change(read_localisations(path, (UM, UM), STACK))
            rows = zip(found.frame + 1, found.x * PIXEL_NM, found.y * PIXEL_NM, strict=True)
            lines = ["plane,frame,x [nm],y [nm]", *(f"0,{frame},{x:.3f},{y:.3f}" for frame, x, y in rows)]
            (folder / "localisations" / path.name).write_text("\n".join(lines) + "\n", encoding="utf-8")
            if image:
                pixels = render(found, STACK[1:], UPSAMPLING)
                size = PixelSize(UM / UPSAMPLING, UM / UPSAMPLING)
                write_image(folder / f"{path.stem}.tif", Image(pixels, "YX", size))
        place = result_location(store, "default", folder.name)
        manifest = ResultManifest(
            project="default",
            job="none",
            service="test",
            method="test",
            kind="prediction",
            input_uri=dataset,
            split="test",
            files=upload_files(store, place, folder_files(folder)),
        )
        spec = v1.EvaluationSpec(
            method=method,
            prediction_uri=publish(store, place, RESULT_MANIFEST, manifest),
            parameters=values_struct(parameters),
        )
        if method == "localisation":
            spec.dataset_uri, spec.split = dataset, "test"
        return run_job(v1.StartJobRequest(evaluation=spec))

    return run


def read(job: v1.Job, s3: Any) -> tuple[ResultManifest, dict[str, Any]]:
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    place, store = Location.parse(job.outputs[0].uri), s3.store()
    manifest = ResultManifest.read(store, place / RESULT_MANIFEST)
    return manifest, json.loads(read_published(store, str(place), "summary.json"))


def moved(found: Localisations) -> Localisations:
    """Return all but the first, 30 and 40 nm off, and one that is not there."""
    y, x = np.append(found.y[1:] + 0.3, 1.0), np.append(found.x[1:] + 0.4, 1.0)
    frame = np.append(found.frame[1:], STACK[0] - 1)
    return Localisations(frame, y, x, np.full(len(y), np.nan))


def test_misses_and_distances_are_counted(evaluate: Callable[..., v1.Job], s3: Any) -> None:
    job = evaluate("localisation", moved)
    result, summary = read(job, s3)
    files = {entry.public_name for entry in result.files}
    assert {"figure.png", "density.png", "metrics.csv", "density.csv", "frames.csv", "report.pdf"} <= files
    assert {f"maps/{kind}/field0.tif" for kind in ("truth", "ssim", "rse")} <= files
    pooled = summary["details"]["pooled"]["prediction"]
    total = pooled["target_emitters"]
    assert pooled["false_negatives"] == pooled["false_positives"] == summary["images"]
    assert pooled["rmse_nm"] == pytest.approx(50, abs=1)
    assert pooled["jaccard"] == pytest.approx((total - 3) / (total + 3))
    by_density = summary["details"]["density"]["prediction"]
    assert sum(row["target_emitters"] for row in by_density) == total
    assert sum(row["false_positives"] for row in by_density) == summary["images"]
    assert set(summary["details"]["widefield"]) == {"field0", "field1", "field2"}
    frames = list(csv.DictReader(io.StringIO(read_published(s3.store(), job.outputs[0].uri, "frames.csv").decode())))
    ours = [row for row in frames if row["kind"] == "prediction"]
    assert len(ours) == 3 * STACK[0]
    assert sum(int(row["true_positives"]) for row in ours) == pooled["true_positives"]


def test_the_emitters_themselves_pass_without_an_image(evaluate: Callable[..., v1.Job], s3: Any) -> None:
    result, summary = read(evaluate("localisation", lambda found: found, image=False, maps=False), s3)
    assert result.verdict["state"] == "passed", result.verdict["reasons"]
    means = summary["metrics"]["prediction"]
    for metric in ("jaccard", "recall", "precision", "image_ssim"):
        assert means[metric]["mean"] == pytest.approx(1, abs=1e-3)
    assert summary["baseline"]["jaccard"] > 0.5
    assert summary["metrics"]["baseline"]["efficiency"]["mean"] < means["efficiency"]["mean"]


def test_nothing_located_fails_by_name(evaluate: Callable[..., v1.Job], s3: Any) -> None:
    def nothing(found: Localisations) -> Localisations:
        return Localisations(*(values[:0] for values in (found.frame, found.y, found.x, found.intensity)))

    result, summary = read(evaluate("localisation", nothing, image=False), s3)
    assert result.verdict["state"] == "failed"
    assert summary["failed_images"] == ["field0", "field1", "field2"]
    assert summary["metrics"]["prediction"]["recall"]["mean"] == 0


def test_reconstructions_are_judged_by_their_frames(evaluate: Callable[..., v1.Job], s3: Any) -> None:
    result, summary = read(evaluate("reconstruction", lambda found: found, max_frc_nm=10_000), s3)
    files = {entry.public_name for entry in result.files}
    assert {"figure.png", "metrics.csv", "report.pdf", "maps/rse/field0.tif"} <= files
    assert summary["metrics"]["prediction"]["rsp"]["mean"] > 0.8

    def elsewhere(found: Localisations) -> Localisations:
        return Localisations(found.frame, STACK[1] - found.y, found.x, found.intensity)

    wrong, spoiled = read(evaluate("reconstruction", elsewhere), s3)
    assert spoiled["metrics"]["prediction"]["rsp"]["mean"] < 0.5
    assert wrong.verdict["state"] == "failed"
    assert any(mentions(reason, "mean frame", "0.8") for reason in wrong.verdict["reasons"])
