"""Metrics of detections."""

from __future__ import annotations

from typing import Final

from parfocal.runtime.store.evaluations import Metric

METRICS: Final[tuple[Metric, ...]] = (
    Metric(key="f1", title="F1", best=1, used_by_verdict=True),
    Metric(key="precision", title="precision"),
    Metric(key="recall", title="recall"),
    Metric(key="mean_matched_iou", title="mean IoU of found objects"),
    Metric(key="centre_distance_px", title="distance of centres", unit="px", digits=2, better="lower"),
    Metric(key="centre_distance_um", title="distance of centres", unit="µm", better="lower"),
    Metric(key="target_objects", title="objects in the target", digits=0, better="none"),
    Metric(key="predicted_objects", title="predicted objects", digits=0, better="none"),
    Metric(key="true_positives", title="true positives", digits=0),
    Metric(key="false_negatives", title="false negatives", digits=0, better="lower"),
    Metric(key="false_positives", title="false positives", digits=0, better="lower"),
    Metric(key="wrong_class", title="objects of the wrong class", digits=0, better="lower"),
)
"""The columns of metrics.csv."""

SHOWN: Final = ("f1", "precision", "recall", "mean_matched_iou")
"""The metrics that tables for people have, the most important first."""

COUNTED: Final = ("true_positives", "false_negatives", "false_positives")
"""Counts that are shown to people, image by image."""

BY_KEY: Final = {metric.key: metric for metric in METRICS}
