"""Tables of results as people are shown them, whoever wrote them: a job, or another program."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass

from parfocal.runtime.errors import InvalidInputError


@dataclass(frozen=True)
class Table:
    """The beginning of a CSV file.

    Attributes
    ----------
    columns
        The names of its columns, each once.
    rows
        Cells by column; where a row is too short the rest is empty.
    total
        Number of its rows.
    remark
        What is odd about it, in a sentence; empty if nothing is.
    """

    columns: tuple[str, ...]
    rows: tuple[Mapping[str, str], ...]
    total: int
    remark: str = ""


def read_table(name: str, data: bytes, most: int) -> Table:
    """Return the first `most` rows of a CSV file; raise InvalidInputError in a sentence if it is none."""
    text = data.decode("utf-8-sig", "replace")
    if "\0" in text:
        raise InvalidInputError(f"{name} is no table of text, so it cannot be shown. Download it instead.")
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline="")) if line]
    except csv.Error as error:
        raise InvalidInputError(f"{name} is no table that can be shown here: {error}. Download it instead.") from error
    if not lines:
        return Table((), (), 0)
    columns: list[str] = []
    for number, title in enumerate(lines[0], 1):
        name_of = title.strip() or f"column {number}"
        columns.append(name_of if name_of not in columns else f"{name_of} ({number})")
    body = lines[1:]
    uneven = sum(len(line) != len(columns) for line in body)
    remark = ""
    if uneven:
        remark = f"{uneven} of {len(body)} rows have more or fewer cells than the first line names."
    rows = tuple(dict(zip(columns, line + [""] * len(columns), strict=False)) for line in body[:most])
    return Table(tuple(columns), rows, len(body), remark)


def place_of(row: Mapping[str, str]) -> dict[str, str]:
    """Return where the viewer finds what a row is about: its number and its centre in pixels, as far as it has them."""
    found = {"object": row.get("label", ""), "z": row.get("plane", "")}
    for axis in "xy":
        found[axis] = row.get(f"{axis}_px", "")
        low, high = (_number(row.get(f"{axis}_{end}_px", "")) for end in ("min", "max"))
        if not found[axis] and low is not None and high is not None:
            found[axis] = f"{(low + high) / 2:.1f}"
    return {name: value for name, value in found.items() if _number(value) is not None}


def _number(text: str) -> float | None:
    """Return the finite number that a cell holds; None if it holds none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
