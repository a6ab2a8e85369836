"""What a training leaves for people."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake import SERVICE

from parfocal import v1
from parfocal.runtime.store.manifests import ModelManifest
from parfocal.runtime.training.report import methods_paragraph, write_training_report

ROWS = [
    {"epoch": n, "loss": 1 / n, "val_loss": 2 / n - (n == 2), "learning_rate": 1e-3, "seconds": 1.5} for n in (1, 2, 3)
]
MODEL = ModelManifest(
    project="p",
    model="beads",
    version=3,
    service="fake",
    method="fake-2d",
    job="j",
    parameters={"patch_size": 16, "batch_size": 4, "learning_rate": 0.02},
    axes="YX",
    normaliser={"rule": "percentile"},
    dataset_uri="s3://d/p/beads/1",
    split={"by": "image", "training": [{"stem": "a"}, {"stem": "b"}], "validation": [{"stem": "c"}]},
    environment={"packages": {"numpy": "2.4.6"}},
    epochs=3,
    best_epoch=2,
    training_seconds=4.5,
)


@pytest.mark.parametrize("source_shape", [(16, 16), (3, 16, 16), (2, 3, 16, 16)])
def test_table_curve_and_report_are_written(tmp_path: Path, source_shape: tuple[int, ...]) -> None:
    image = np.arange(256, dtype=np.uint16).reshape(16, 16)
    source = np.broadcast_to(image, source_shape)
    write_training_report(tmp_path, MODEL, SERVICE.method("fake-2d"), ROWS, ("a", source, image))
    with (tmp_path / "training.csv").open() as file:
        assert [float(row["loss"]) for row in csv.DictReader(file)] == [row["loss"] for row in ROWS]
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "training_report.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("source_shape", [(16, 16), (16, 16, 3), (4, 16, 16)])
def test_labels_and_colour_images_are_drawn(tmp_path: Path, source_shape: tuple[int, ...]) -> None:
    method = replace(SERVICE.method("fake-2d"), target=v1.TARGET_KIND_LABELS)
    labels = np.repeat(np.arange(16, dtype=np.uint16), 16).reshape(16, 16)
    labels = np.broadcast_to(labels, source_shape) if source_shape[0] == 4 else labels
    source = np.random.default_rng(0).integers(0, 255, source_shape).astype(np.uint8)
    write_training_report(tmp_path, MODEL, method, ROWS, ("a", source, labels))
    assert (tmp_path / "training_report.pdf").read_bytes().startswith(b"%PDF")


def test_the_methods_paragraph_says_what_a_reader_needs() -> None:
    text = methods_paragraph(MODEL, SERVICE.method("fake-2d"))
    for part in (
        "3 epochs",
        "2 image pair",
        "1 further image",
        "size 16",
        "batch size 4",
        "0.02",
        "numpy 2.4.6",
        "epoch 2",
    ):
        assert part in text
