"""The scores of single images, read back from the `metrics.csv` that every evaluation publishes."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from parfocal.runtime.errors import InvalidInputError

Scores = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Values by kind ("input", "baseline", "prediction"), image and metric, averaged over the slices of a stack.

A metric is left out where an image does not have it, as a score inside the foreground of an empty field."""


def read_scores(text: str, metrics: Sequence[str], name: str = "metrics.csv") -> Scores:
    """Return the scores in the text of a metrics.csv, whatever kind of evaluation wrote it.

    Parameters
    ----------
    metrics
        Keys of the metrics wanted, which are the names of their columns. The table may have others besides.
    name
        Name of the table, for error messages.

    Raises
    ------
    InvalidInputError
        A column is missing, or a cell that is not empty holds no number; the message names them.
    """
    try:
        return _read(csv.DictReader(io.StringIO(text, newline="")), metrics, name)
    except csv.Error as error:
        raise InvalidInputError(f"{name} is no table that can be read: {error}. Evaluate again.") from error


def _read(reader: csv.DictReader[str], metrics: Sequence[str], name: str) -> Scores:
    missing = [column for column in ("image", "kind", *metrics) if column not in (reader.fieldnames or ())]
    if missing:
        raise InvalidInputError(f"{name} has no column {missing[0]!r}. Evaluate again.")
    collected: dict[str, dict[str, dict[str, list[float]]]] = {}
    for row in reader:
        values = collected.setdefault(row["kind"], {}).setdefault(row["image"], {})
        for metric in metrics:
            cell = row[metric]
            if cell == "":
                continue  # this image has no such number
            try:
                values.setdefault(metric, []).append(float(cell))
            except (TypeError, ValueError) as error:
                raise InvalidInputError(
                    f"{name}, line {reader.line_num}: {cell or ''!r} is not a number ({metric}). Evaluate again."
                ) from error
    return {
        kind: {
            image: {metric: sum(numbers) / len(numbers) for metric, numbers in by_metric.items()}
            for image, by_metric in images.items()
        }
        for kind, images in collected.items()
    }
