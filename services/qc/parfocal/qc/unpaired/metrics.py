"""Metrics of translated images without pairs."""

from __future__ import annotations

from typing import Final

from parfocal.runtime.store.evaluations import Metric

METRICS: Final[tuple[Metric, ...]] = (
    Metric(key="distance", title="distance", digits=1, better="lower", used_by_verdict=True),
    Metric(key="intensity_distance", title="intensity distance", better="lower"),
    Metric(key="cycle_correlation", title="cycle correlation", used_by_verdict=True),
    Metric(key="cycle_error", title="cycle error", better="lower"),
)
"""The columns of metrics.csv. The last two are of predictions that were turned back, where there are such."""

SHOWN: Final = ("distance", "intensity_distance")
"""The metrics that tables for people have, the most important first."""

BY_KEY: Final = {metric.key: metric for metric in METRICS}
