"""The numbers of an evaluation by kind, image and metric: as a table, as statistics, and compared in a sentence."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from parfocal.qc.evaluation.statistics import Comparison, ImageScore, compare, statistics

Values = Mapping[str, float]
"""The numbers of one image by metric; without those it does not have, as distances where nothing was found."""

Table = Mapping[str, Mapping[str, Values]]
"""By kind ("baseline", "prediction") and image."""


def write_values_csv(path: Path, table: Table, columns: Mapping[str, str]) -> None:
    """Write one line for each image and kind; `columns` gives the heading of each metric."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "slice", "kind", *columns.values()])
        for image in table["prediction"]:
            for kind, rows in table.items():
                writer.writerow([image, "", kind, *(rows[image].get(name, "") for name in columns)])


def summarise_values(table: Table, columns: Mapping[str, str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return by kind and metric the statistics over the images that have the metric."""
    return {
        kind: {
            metric: asdict(statistics([row[metric] for row in rows.values() if metric in row]))
            for metric in columns
            if any(metric in row for row in rows.values())
        }
        for kind, rows in table.items()
    }


def compare_with_baseline(table: Table, metric: str) -> Comparison:
    """Compare prediction and baseline, image by image, in a metric of which more is better."""
    prediction, baseline = (
        [ImageScore(name, row, 1, 0, ()) for name, row in sorted(table[kind].items())]
        for kind in ("prediction", "baseline")
    )
    return compare(prediction, baseline, "baseline", metric)
