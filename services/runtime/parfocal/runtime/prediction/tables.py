"""Tables as CSV files whose rows go to disk as they come."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from parfocal.runtime.methods.outputs import Column


class TableFile:
    """A CSV file in UTF-8 that is written row by row; the first line names the columns."""

    def __init__(self, path: Path, columns: Sequence[Column]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.columns = tuple(columns)
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerow([column.name for column in columns])

    def write(self, rows: Iterable[Sequence[Any]]) -> None:
        """Append rows, each with a text or number for every column."""
        for row in rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.path.name} has {len(self.columns)} columns and this row {len(row)} values")
            self._writer.writerow(row)

    def close(self) -> None:
        """Complete the file."""
        self._file.close()
