"""Metrics of restored and translated images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from parfocal.qc.evaluation.rows import ScoreRow
from parfocal.qc.metrics.images.foreground import RegionScore
from parfocal.qc.metrics.images.restoration import RestorationScore
from parfocal.runtime.store.evaluations import Kind, Metric

_PARTS: Final = {"inside": "inside the foreground", "outside": "outside the foreground"}
_REGIONAL: Final = {
    "nrmse": Metric(key="nrmse", title="NRMSE", digits=4, better="lower"),
    "psnr": Metric(key="psnr", title="PSNR", unit="dB", digits=2, best=100, used_by_verdict=True),
    "ssim": Metric(key="ssim", title="SSIM", best=1, used_by_verdict=True),
    "micro_ssim": Metric(key="micro_ssim", title="MicroSSIM"),
    "pearson": Metric(key="pearson", title="Pearson correlation", digits=4),
    "snr": Metric(key="snr", title="SNR", unit="dB", digits=2),
}
_JUDGED_INSIDE: Final = frozenset({"snr", "ssim"})


def _regional(names: tuple[str, ...], prefix: str = "", what: str = "") -> tuple[Metric, ...]:
    """Return metrics inside and outside the foreground."""
    return tuple(
        _REGIONAL[name].model_copy(
            update={
                "key": f"{prefix}{name}_{part}",
                "title": f"{_REGIONAL[name].title}{what} {where}",
                "used_by_verdict": part == "inside" and not prefix and name in _JUDGED_INSIDE,
            }
        )
        for name in names
        for part, where in _PARTS.items()
    )


def _volume(name: str) -> Metric:
    metric = _REGIONAL[name]
    title = f"{metric.title} of the volume"
    return metric.model_copy(update={"key": f"volume_{name}", "title": title, "used_by_verdict": False})


METRICS: Final[tuple[Metric, ...]] = (
    _REGIONAL["nrmse"],
    _REGIONAL["psnr"],
    _REGIONAL["ssim"],
    Metric(key="scale", title="scale a", digits=6, better="none"),
    Metric(key="offset", title="offset b", better="none"),
    _REGIONAL["pearson"],
    Metric(key="nrmse_zerocost", title="NRMSE of ZeroCostDL4Mic", digits=4, better="lower"),
    Metric(key="ms_ssim", title="MS-SSIM"),
    Metric(key="ms_ssim_inside", title="MS-SSIM inside the foreground"),
    Metric(key="ms_ssim_outside", title="MS-SSIM outside the foreground"),
    _REGIONAL["micro_ssim"],
    Metric(key="foreground_fraction", title="foreground fraction", better="none"),
    Metric(key="foreground_threshold", title="foreground threshold", better="none"),
    *_regional(("nrmse", "psnr", "ssim", "micro_ssim", "pearson", "snr")),
    Metric(key="resolution_px", title="Fourier correlation resolution", unit="px", digits=2, better="lower"),
    Metric(key="resolution_um", title="Fourier correlation resolution", unit="µm", better="lower"),
    Metric(key="resolution_at_limit", title="resolution at the limit of the pixels", digits=0, better="none"),
    *(
        Metric(key=f"coverage_{level}{key}", title=f"coverage of the {level} % interval{where}", better="none")
        for level in (50, 90)
        for key, where in (("", ""), *((f"_{part}", f" {where}") for part, where in _PARTS.items()))
    ),
    *(_volume(name) for name in ("nrmse", "psnr", "ssim")),
    *_regional(("nrmse", "psnr", "ssim", "pearson", "snr"), "volume_", " of the volume"),
)
"""The columns of metrics.csv. Scale a is in target ranges per grey value, offset b and threshold in target ranges."""

PRIMARY: Final = "psnr"
"""The metric by which images are called best, median and worst, in figures, tables and sentences alike.

It is also what the sigma of the Gaussian filter is chosen by, and every image has it. It is the first of `SHOWN`, as in
every kind of quality control the first metric shown is the one that ranks.
"""

SHOWN: Final = (PRIMARY, "ssim", "nrmse", "pearson", "ssim_inside")
"""The metrics that tables for people have, the most important first."""

REGIONS: Final = (
    *("psnr", "snr", "ssim", "ms_ssim", "micro_ssim", "nrmse", "pearson"),
    *(f"volume_{name}" for name in ("psnr", "snr", "ssim", "nrmse", "pearson")),
)
"""The metrics that have values inside and outside the foreground."""

BY_KEY: Final = {metric.key: metric for metric in METRICS}

_FIELDS: Final = tuple(name for name in RestorationScore.__dataclass_fields__ if name in BY_KEY)


def score_row(
    image: str, kind: Kind, score: RestorationScore, plane: int | None = None, more: Mapping[str, float] | None = None
) -> ScoreRow:
    """Return the row of one image, or of one plane of a stack; `more` are metrics that are no fields of the score."""
    values = {name: float(getattr(score, name)) for name in _FIELDS}
    return ScoreRow(image, kind, values | dict(more or {}), plane, score.failed)


def score_of(row: ScoreRow) -> RestorationScore:
    """Return the score that a row was made of."""
    return RestorationScore(**{name: row.values[name] for name in _FIELDS}, failed=row.failed)


def region_of(row: ScoreRow) -> RegionScore:
    """Return the scores inside the foreground that a row has."""
    return RegionScore(**{name: row.values[f"{name}_inside"] for name in RegionScore.__dataclass_fields__})
