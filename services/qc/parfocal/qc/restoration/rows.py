"""One row per image (and slice) and kind: the table of metrics, in memory and as a CSV file."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args

from parfocal.qc.metrics.images.restoration import RestorationScore

Kind = Literal["input", "baseline", "prediction"]
"""What was scored against the target: the model's input, what needs no training, the model's output."""

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
    more
        Further numbers by their names in `MORE_COLUMNS`; what is missing or NaN has no value. Those of a whole stack
        stand in the rows of all its slices.
    """

    image: str
    kind: Kind
    score: RestorationScore
    slice: int | None = None
    more: Mapping[str, float] = field(default_factory=dict)

    def value(self, metric: str) -> float:
        """Return a number of the score or of `more`; NaN where it has no value."""
        return float(getattr(self.score, metric)) if metric in COLUMNS else self.more.get(metric, math.nan)


COLUMNS: Final[dict[str, str]] = {
    "nrmse": "NRMSE [fraction of target range]",
    "psnr": "PSNR [dB]",
    "ssim": "SSIM [-1..1]",
    "scale": "scale a [target ranges per grey value]",
    "offset": "offset b [target ranges]",
    "pearson": "Pearson r [-1..1]",
    "nrmse_zerocost": "NRMSE of ZeroCostDL4Mic [sqrt of target range]",
    "failed": "failed because",
    "ms_ssim": "MS-SSIM [0..1]",
    "ms_ssim_inside": "MS-SSIM inside the foreground [0..1]",
    "ms_ssim_outside": "MS-SSIM outside the foreground [0..1]",
}
"""Field of `RestorationScore` and its heading, with the unit."""

MORE_COLUMNS: Final[dict[str, str]] = {
    "micro_ssim": "MicroSSIM [-1..1]",
    "foreground": "foreground [fraction of pixels]",
    "foreground_threshold": "foreground threshold [target ranges]",
    "nrmse_inside": "NRMSE inside the foreground [fraction of target range]",
    "nrmse_outside": "NRMSE outside the foreground [fraction of target range]",
    "psnr_inside": "PSNR inside the foreground [dB]",
    "psnr_outside": "PSNR outside the foreground [dB]",
    "ssim_inside": "SSIM inside the foreground [-1..1]",
    "ssim_outside": "SSIM outside the foreground [-1..1]",
    "micro_ssim_inside": "MicroSSIM inside the foreground [-1..1]",
    "micro_ssim_outside": "MicroSSIM outside the foreground [-1..1]",
    "pearson_inside": "Pearson r inside the foreground [-1..1]",
    "pearson_outside": "Pearson r outside the foreground [-1..1]",
    "snr_inside": "SNR inside the foreground [dB]",
    "snr_outside": "SNR outside the foreground [dB]",
    "resolution": "Fourier correlation resolution [pixels]",
    "resolution_um": "Fourier correlation resolution [µm]",
    "resolution_at_least": "resolution is at least that [0 or 1]",
    **{
        f"coverage_{level}{part}": f"true values within the {level} % interval{where} [0..1]"
        for level in (50, 90)
        for part, where in (("", ""), ("_inside", " inside the foreground"), ("_outside", " outside the foreground"))
    },
    "volume_nrmse": "NRMSE of the volume [fraction of target range]",
    "volume_psnr": "PSNR of the volume [dB]",
    "volume_ssim": "SSIM of the volume [-1..1]",
    **{
        f"volume_{metric}_{part}": f"{title} of the volume {part} the foreground [{unit}]"
        for metric, title, unit in (
            ("nrmse", "NRMSE", "fraction of target range"),
            ("psnr", "PSNR", "dB"),
            ("ssim", "SSIM", "-1..1"),
            ("pearson", "Pearson r", "-1..1"),
            ("snr", "SNR", "dB"),
        )
        for part in ("inside", "outside")
    },
}
"""Name in `MetricsRow.more` and its heading, with the unit."""

_HEADER: Final = ["image", "slice", "kind", *COLUMNS.values(), *MORE_COLUMNS.values()]


def write_metrics_csv(path: Path, rows: Iterable[MetricsRow]) -> None:
    """Write one line per row, UTF-8, with units in the heading.

    Numbers are written in full precision; what has no value is left empty.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_HEADER)
        for row in rows:
            index = "" if row.slice is None else row.slice
            cells = (_written(row, name) for name in (*COLUMNS, *MORE_COLUMNS))
            writer.writerow([row.image, index, row.kind, *cells])


def _written(row: MetricsRow, name: str) -> str:
    if name == "failed":
        return row.score.failed or ""
    value = row.value(name)
    return "" if math.isnan(value) else repr(value)
