"""Scores and confusion of single classes, as tables and in the report."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from parfocal.qc.metrics.objects.confusion import Matrix, class_areas
from parfocal.runtime.report.content import Block, Heading, Table, Text
from parfocal.runtime.store.evaluations import EvaluationSummary

_MOST_SHOWN = 12


def class_rows(names: Sequence[str], pixels: Matrix) -> list[dict[str, Any]]:
    """Return the scores of each class over all pixels together, the background among them."""
    return [
        {
            "class": name,
            "iou": areas.iou,
            "dice": areas.dice,
            "precision": areas.precision,
            "recall": areas.recall,
            "target_pixels": areas.tp + areas.fn,
            "predicted_pixels": areas.tp + areas.fp,
        }
        for name, areas in zip(names, class_areas(pixels), strict=True)
    ]


def write_class_tables(folder: Path, names: Sequence[str], pixels: Matrix) -> None:
    """Write `classes.csv`, a line for each class, and `confusion.csv`, which class was taken for which."""
    rows = class_rows(names, pixels)
    with (folder / "classes.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with (folder / "confusion.csv").open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["target_class", *(f"predicted_{name}" for name in names)])
        lines.writerows([name, *numbers] for name, numbers in zip(names, pixels.tolist(), strict=True))


def class_tables(summary: EvaluationSummary) -> Iterator[Block]:
    """Yield the scores of each class and of the baselines, the confusion of classes, and the agreement of areas."""
    details = summary.details
    yield Heading("Classes")
    columns = ("Class", "IoU", "Dice", "Precision", "Recall", "Pixels of the target", "Predicted", "Predicted / target")
    rows = [
        [str(row["class"])]
        + [f"{row[name]:.3f}" for name in ("iou", "dice", "precision", "recall")]
        + [str(row["target_pixels"]), str(row["predicted_pixels"])]
        + [f"{row['predicted_pixels'] / row['target_pixels']:.3f}" if row["target_pixels"] else ""]
        for row in details["classes"]
    ]
    yield Table(columns, rows, frozenset(columns[1:]), "Over all pixels of all images together.")
    names, pixels = details["confusion"]["classes"], details["confusion"]["pixels"]
    if 2 < len(names) <= _MOST_SHOWN:
        given = ("Class of the target", *(f"Predicted {name}" for name in names))
        rows = [[name, *map(str, numbers)] for name, numbers in zip(names, pixels, strict=True)]
        yield Table(given, rows, frozenset(given[1:]), "Pixels of all images by their class.")
    tried = ("Baseline", "IoU", "Dice")
    rows = [[name, f"{each['iou']:.3f}", f"{each['dice']:.3f}"] for name, each in details["baselines"].items()]
    yield Table(
        tried,
        rows,
        frozenset(tried[1:]),
        "Baselines, over all pixels of the test images. The prediction is compared with the first, which did best on "
        "the training images.",
    )
    agreement = details["agreement"]
    limits = ""
    if agreement["lower"] is not None:
        limits = f"; 95 % of the differences lie between {agreement['lower']:+.4f} and {agreement['upper']:+.4f}"
    yield Text(
        f"The foreground fraction of an image is predicted {agreement['bias']:+.4f} off on average{limits} (Bland and "
        "Altman 1986). The error of areas and volumes is as large."
    )
