"""Every kind of quality control refuses images that the memory does not hold, in words and before it is full."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_data import STACK, save, write_kind
from support import mentions, publish_dataset, publish_images, publish_kind

from parfocal import v1
from parfocal.qc.dataset import job as dataset_job
from parfocal.qc.evaluation import room
from parfocal.qc.evaluation.room import Held

UPSAMPLING = 4
SOURCE, FRAMES = "64 x 80", " x ".join(map(str, STACK))


def copied_sources(folder: Path, stem: str) -> None:
    """Write a prediction that is its input."""
    save(folder / f"{stem}.tif", np.random.default_rng(0).normal(200, 10, (64, 80)).astype(np.float32))


def no_detections(folder: Path, stem: str) -> None:
    table(folder / "detections", stem, "plane,class,confidence,x_min_px,y_min_px,x_max_px,y_max_px", "")


def one_localisation(folder: Path, stem: str) -> None:
    table(folder / "localisations", stem, "plane,frame,x [nm],y [nm]", "0,1,500.0,500.0")


def reconstructed(folder: Path, stem: str) -> None:
    one_localisation(folder, stem)
    save(folder / f"{stem}.tif", np.zeros([UPSAMPLING * length for length in STACK[1:]], np.float32))


def table(folder: Path, stem: str, head: str, row: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.csv").write_text(f"{head}\n{row}\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("method", "kind", "predict", "size"),
    [
        ("residuals", "paired", copied_sources, SOURCE),
        ("translation-unpaired", "unpaired", copied_sources, SOURCE),
        ("detection", "boxes", no_detections, SOURCE),
        ("localisation", "coordinates", one_localisation, FRAMES),
        ("localisation", "coordinates", reconstructed, FRAMES),
        ("reconstruction", "coordinates", reconstructed, FRAMES),
        ("dataset", "paired", None, SOURCE),
        ("dataset", "boxes", None, SOURCE),
    ],
)
def test_an_image_that_does_not_fit_is_refused_before_it_is_read(
    worker: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    method: str,
    kind: str,
    predict: Callable[[Path, str], None] | None,
    size: str,
) -> None:
    folder, store = write_kind(tmp_path / "data", kind), worker.store
    publish = publish_dataset if kind == "paired" else publish_kind
    dataset = publish(store, f"room-{method}", folder, *([] if kind == "paired" else [kind]))
    spec = v1.EvaluationSpec(method=method)
    if predict is not None:
        for path in (folder / "test" / "source").iterdir():
            predict(tmp_path / "predicted", path.stem)
        spec.prediction_uri = publish_images(store, tmp_path / "predicted", input_uri=dataset, split="test")
    if method not in {"residuals", "reconstruction"}:
        spec.dataset_uri, spec.split = dataset, "test"
    monkeypatch.setattr(room, "available_memory", lambda: 30_000)
    job = worker.run(v1.StartJobRequest(evaluation=spec))
    assert (job.state, job.error.reason) == (v1.JOB_STATE_FAILED, "OUT_OF_MEMORY")
    assert mentions(job.error.text, "field0", size, "0.0 GiB are free")


@pytest.mark.parametrize(("kind", "fits"), [("paired", True), ("labels", False)])
def test_label_images_of_a_dataset_count_whole_and_grey_ones_by_bands(
    worker: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, fits: bool
) -> None:
    dataset = publish_dataset(worker.store, f"room-{kind}", write_kind(tmp_path, kind))
    monkeypatch.setattr(dataset_job, "_HELD", Held(pixels=100, planes=0))
    monkeypatch.setattr(room, "available_memory", lambda: 30_000)
    spec = v1.EvaluationSpec(method="dataset", dataset_uri=dataset, split="test")
    job = worker.run(v1.StartJobRequest(evaluation=spec))
    assert (job.state == v1.JOB_STATE_SUCCEEDED) is fits, job.error.text
    assert fits or mentions(job.error.text, "test/target/field0", SOURCE)
