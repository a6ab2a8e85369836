"""Metrics of residuals."""

from __future__ import annotations

from typing import Final

from parfocal.runtime.store.evaluations import Metric

METRICS: Final[tuple[Metric, ...]] = (
    Metric(key="agreement", title="agreement", digits=4, used_by_verdict=True),
    Metric(key="structure", title="structure", better="lower", used_by_verdict=True),
    Metric(key="sharpness", title="sharpness", better="none"),
    Metric(key="noise_left", title="noise left", better="lower", used_by_verdict=True),
    Metric(key="autocorrelation", title="autocorrelation", better="none"),
    Metric(key="scale", title="scale a", digits=6, better="none"),
    Metric(key="clipped_fraction", title="clipped fraction of the input", better="none"),
)
"""The columns of metrics.csv. Structure is in standard deviations of noise, sharpness and noise left in the input's."""

SHOWN: Final = ("agreement", "structure", "sharpness", "noise_left", "autocorrelation")
"""The metrics that tables for people have, the most important first."""

BY_KEY: Final = {metric.key: metric for metric in METRICS}
