"""What a training leaves for people."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake import SERVICE
from matplotlib.figure import Figure

from parfocal.runtime.methods.implementation import Example
from parfocal.runtime.store.manifests import KeptWeights, ModelManifest
from parfocal.runtime.training.report import loss_figure, methods_paragraph, write_training_report

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
    weights={"best": KeptWeights(epoch=2, metric="val_loss", value=0.0)},
    training_seconds=4.5,
)


def examples(source: Any, target: Any, *, labels: bool = False) -> tuple[Example, Example]:
    return Example("a", "source", source), Example("a", "target", target, labels=labels)


@pytest.mark.parametrize("source_shape", [(16, 16), (3, 16, 16), (2, 3, 16, 16)])
def test_table_curve_and_report_are_written(tmp_path: Path, source_shape: tuple[int, ...]) -> None:
    image = np.arange(256, dtype=np.uint16).reshape(16, 16)
    source = np.broadcast_to(image, source_shape)
    write_training_report(tmp_path, MODEL, SERVICE.method("fake-2d"), ROWS, examples(source, image))
    with (tmp_path / "training.csv").open() as file:
        assert [float(row["loss"]) for row in csv.DictReader(file)] == [row["loss"] for row in ROWS]
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "training_report.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("source_shape", [(16, 16), (16, 16, 3), (4, 16, 16)])
def test_labels_and_colour_images_are_drawn(tmp_path: Path, source_shape: tuple[int, ...]) -> None:
    labels = np.repeat(np.arange(16, dtype=np.uint16), 16).reshape(16, 16)
    labels = np.broadcast_to(labels, source_shape) if source_shape[0] == 4 else labels
    source = np.random.default_rng(0).integers(0, 255, source_shape).astype(np.uint8)
    given = examples(source, labels, labels=True)
    write_training_report(tmp_path, MODEL, SERVICE.method("fake-2d"), ROWS, given)
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


def test_several_losses_and_scores_are_columns_and_curves(tmp_path: Path) -> None:
    rows: list[dict[str, float]] = [
        {"epoch": n, "cycle": 1 / n, "judge": 0.5, "val_cycle": 2 / n, "learning_rate": 0.1, "seconds": 1.0}
        for n in (1, 2, 3)
    ]
    rows[1]["map"] = 0.25
    model = MODEL.model_copy(update={"weights": {"best-map": KeptWeights(epoch=2, metric="map", value=0.25)}})
    write_training_report(tmp_path, model, SERVICE.method("fake-2d"), rows, ())
    with (tmp_path / "training.csv").open() as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["epoch", "cycle", "judge", "val_cycle", "map", "learning_rate", "seconds"]
    assert [row["map"] for row in table] == ["", "0.25", ""]
    panels = loss_figure(rows, model).axes
    drawn = [[line.get_label() for line in panel.get_lines()] for panel in panels]
    assert drawn[:2] == [["training", "validation"], ["judge", "map", "best-map: epoch 2, 0.25"]]
    assert "best map (0.25, epoch 2)" in methods_paragraph(model, SERVICE.method("fake-2d"))


def test_a_method_draws_pages_of_its_own(tmp_path: Path) -> None:
    image = np.arange(256, dtype=np.uint16).reshape(16, 16)
    method, given = SERVICE.method("fake-2d"), examples(image, image)

    def pictures() -> int:
        return (tmp_path / "training_report.pdf").read_bytes().count(b"/Subtype /Image")

    assert not write_training_report(tmp_path, MODEL, method, ROWS, given)
    before = pictures()
    assert before >= 2  # the curves and the training image
    assert not write_training_report(tmp_path, MODEL, method, ROWS, given, lambda: {"overlays": Figure()})
    assert (tmp_path / "overlays.png").read_bytes().startswith(b"\x89PNG")
    assert pictures() > before


def test_a_warning_longer_than_a_page_is_whole_in_the_report(tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(3000)]
    model = MODEL.model_copy(update={"warnings": (" ".join(words),)})
    assert not write_training_report(tmp_path, model, SERVICE.method("fake-2d"), ROWS, ())
    assert (tmp_path / "training_report.pdf").read_bytes().count(b"/Type /Page\n") > 3


def test_what_a_method_cannot_draw_costs_no_model(tmp_path: Path) -> None:
    image = np.arange(256, dtype=np.uint16).reshape(16, 16)

    def broken() -> dict[str, Figure]:
        raise ZeroDivisionError

    problem = write_training_report(tmp_path, MODEL, SERVICE.method("fake-2d"), ROWS, examples(image, image), broken)
    assert "ZeroDivisionError" in problem
    assert [path.name for path in tmp_path.iterdir()] == ["training.csv"]
