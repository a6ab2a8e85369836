"""One row per image (and slice) and kind: the table of metrics, in memory and as a CSV file."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from parfocal.runtime.store.evaluations import Kind, Metric


@dataclass(frozen=True)
class ScoreRow:
    """The score of one image, or of one slice of a stack: a line of metrics.csv.

    Attributes
    ----------
    image
        Name of the image, the same for its kinds.
    kind
        "input", "baseline" or "prediction".
    values
        By metric: its value; missing or NaN where there is none. Values of a whole stack are repeated in the rows of
        its slices.
    slice
        Index along Z from 0, or None for an image (Y, X).
    failed
        Reason why the prediction failed outright; None if it did not.
    """

    image: str
    kind: Kind
    values: Mapping[str, float] = field(default_factory=dict)
    slice: int | None = None
    failed: str | None = None

    def value(self, metric: str) -> float:
        """Return a number; NaN where it has no value."""
        return self.values.get(metric, math.nan)


def write_metrics_csv(path: Path, rows: Iterable[ScoreRow], metrics: Sequence[Metric]) -> None:
    """Write one line per row, UTF-8: image, slice, kind, why it failed, and the metrics under their keys.

    Numbers are written in full precision; what has no value is left empty.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "slice", "kind", "failed", *(metric.key for metric in metrics)])
        for row in rows:
            cells = ("" if math.isnan(value := row.value(metric.key)) else repr(value) for metric in metrics)
            writer.writerow([row.image, "" if row.slice is None else row.slice, row.kind, row.failed or "", *cells])
