"""The table of the boxes that a model found in one image, read back."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.errors import InvalidInputError

EDGES: Final = ("x_min", "y_min", "x_max", "y_max")
"""What the columns that say where a box lies are called, without their unit."""
CORNERS: Final = tuple(f"{edge}_px" for edge in EDGES)
"""These columns in pixels."""
_REQUIRED: Final = ("class", "confidence", *CORNERS)


@dataclass(frozen=True)
class DetectionTable:
    """The boxes of one image in the order of the table.

    Attributes
    ----------
    names
        The name of the class of each box.
    corners
        float32 (N, 4): [y0, x0, y1, x1] in pixels from the upper left corner of the image, between pixels.
    confidence
        float32 (N,): how certain the model was, 0 to 1.
    """

    names: tuple[str, ...]
    corners: NDArray[np.float32]
    confidence: NDArray[np.float32]


def read_detections(path: Path, name: str = "") -> DetectionTable:
    """Return what a table of detections says; ``plane`` and the columns in micrometres are optional.

    Parameters
    ----------
    path
        A CSV file in UTF-8, as predictions have it under ``detections/``.
    name
        What messages call it; by default the name of the file.

    Raises
    ------
    InvalidInputError
        It is no such table, has values that are no numbers, or boxes in several planes.
    """
    name = name or path.name
    names: list[str] = []
    values: list[tuple[float, ...]] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if missing := [column for column in _REQUIRED if column not in (reader.fieldnames or ())]:
                raise InvalidInputError(
                    f"{name} has no column {', '.join(missing)}. A table of detections has {', '.join(_REQUIRED)}."
                )
            for number, row in enumerate(reader, start=2):
                where = f"{name}, line {number}"
                names.append(_class_of(row, where))
                values.append(_numbers(row, where))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInputError(f"{name} cannot be read as a table: {error}. Save it as CSV in UTF-8.") from error
    table = np.array(values, np.float32).reshape(-1, 5)
    return DetectionTable(tuple(names), np.ascontiguousarray(table[:, [2, 1, 4, 3]]), table[:, 0])


def _class_of(row: Mapping[str, str | None], where: str) -> str:
    found = row["class"] or ""
    if not found:
        raise InvalidInputError(f"{where}: the class is missing. Every box must have one.")
    if (row.get("plane") or "0") != "0":
        raise InvalidInputError(f"{where}: the box lies in plane {row['plane']}. Predict single images, not stacks.")
    return found


def _numbers(row: Mapping[str, str | None], where: str) -> tuple[float, ...]:
    """Return confidence, x0, y0, x1 and y1."""
    numbers = []
    for column in ("confidence", *CORNERS):
        try:
            value = float(row[column] or "")
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InvalidInputError(f"{where}: {column} is {str(row[column])[:40]!r}, which is not a number.")
        numbers.append(value)
    confidence, x0, y0, x1, y1 = numbers
    if not 0 <= confidence <= 1:
        raise InvalidInputError(f"{where}: confidence is {confidence:g} and must lie between 0 and 1.")
    if x1 < x0 or y1 < y0:
        raise InvalidInputError(f"{where}: the upper left corner lies right of or below the lower right one.")
    return tuple(numbers)
