"""One row per image (and slice) and kind: the table of metrics, in memory and as a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from parfocal.qc.metrics.restoration import RestorationScore
from parfocal.runtime.errors import InvalidInputError

Kind = Literal["input", "baseline", "prediction"]
"""What was scored against the target: the model's input, the Gaussian filter of it, the model's output."""

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


@dataclass(frozen=True)
class MetricsRow:
    """The score of one image, or of one slice of a stack.

    Attributes
    ----------
    image
        Name of the image, the same for its three kinds.
    kind
        "input", "baseline" or "prediction".
    score
        See `RestorationScore`.
    slice
        Index along Z from 0, or None for an image (Y, X).
    """

    image: str
    kind: Kind
    score: RestorationScore
    slice: int | None = None


COLUMNS: Final[dict[str, str]] = {
    "nrmse": "NRMSE [fraction of target range]",
    "psnr": "PSNR [dB]",
    "ssim": "SSIM [-1..1]",
    "scale": "scale a [target ranges per grey value]",
    "offset": "offset b [target ranges]",
    "pearson": "Pearson r [-1..1]",
    "nrmse_zerocost": "NRMSE of ZeroCostDL4Mic [sqrt of target range]",
    "failed": "failed because",
}
"""Field of `RestorationScore` and its heading, with the unit."""

_HEADER: Final = ["image", "slice", "kind", *COLUMNS.values()]


def write_metrics_csv(path: Path, rows: Iterable[MetricsRow]) -> None:
    """Write one line per row, UTF-8, with units in the heading; numbers are written in full precision."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_HEADER)
        for row in rows:
            values = (getattr(row.score, name) for name in COLUMNS)
            writer.writerow(
                [
                    row.image,
                    "" if row.slice is None else row.slice,
                    row.kind,
                    *(
                        "" if value is None else value if isinstance(value, str) else repr(float(value))
                        for value in values
                    ),
                ]
            )


def read_metrics_csv(path: Path) -> list[MetricsRow]:
    """Read what `write_metrics_csv` wrote.

    Raises
    ------
    InvalidInputError
        The heading or a line is not of this table; the message names file and line.
    """
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        if next(reader, None) != _HEADER:
            raise InvalidInputError(f"{path.name} is not a table of restoration metrics: its heading differs.")
        rows = []
        for cells in reader:
            try:
                rows.append(_row(cells))
            except ValueError as error:
                raise InvalidInputError(f"{path.name}, line {reader.line_num}, cannot be read: {error}.") from error
        return rows


def _row(cells: list[str]) -> MetricsRow:
    image, index, kind, *values = cells
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, not one of {', '.join(KINDS)}")
    named = dict(zip(COLUMNS, values, strict=True))
    failed = named.pop("failed") or None
    score = RestorationScore(failed=failed, **{name: float(text) for name, text in named.items()})
    return MetricsRow(image=image, kind=kind, score=score, slice=int(index) if index else None)
