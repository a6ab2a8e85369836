"""Metrics of predicted classes of pixels."""

from __future__ import annotations

from typing import Final

from parfocal.runtime.store.evaluations import Metric

METRICS: Final[tuple[Metric, ...]] = (
    Metric(key="iou", title="IoU", best=1, used_by_verdict=True),
    Metric(key="dice", title="Dice"),
    Metric(key="boundary_f1", title="boundary F1"),
    Metric(key="precision", title="precision"),
    Metric(key="recall", title="recall"),
    Metric(key="pixel_accuracy", title="pixel accuracy"),
    Metric(key="vi_split", title="VI split", unit="bits", better="lower"),
    Metric(key="vi_merge", title="VI merge", unit="bits", better="lower"),
    Metric(key="regions", title="regions", digits=0, better="none"),
    Metric(key="predicted_regions", title="predicted regions", digits=0, better="none"),
    Metric(key="foreground_fraction", title="foreground fraction", better="none"),
    Metric(key="predicted_fraction", title="predicted foreground fraction", better="none"),
)
"""The columns of metrics.csv."""

SHOWN: Final = ("iou", "dice", "boundary_f1", "precision", "recall", "vi_split", "vi_merge")
"""The metrics that tables for people have, the most important first."""

BY_KEY: Final = {metric.key: metric for metric in METRICS}
"""Parameters of quality control of predicted classes."""
