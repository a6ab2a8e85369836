"""Metrics of predicted objects."""

from __future__ import annotations

from typing import Final

from parfocal.runtime.store.evaluations import Metric

METRICS: Final[tuple[Metric, ...]] = (
    Metric(key="f1", title="F1", best=1, used_by_verdict=True),
    Metric(key="precision", title="precision"),
    Metric(key="recall", title="recall"),
    Metric(key="accuracy", title="accuracy"),
    Metric(key="mean_accuracy", title="mean accuracy"),
    Metric(key="mean_matched_iou", title="mean IoU of found objects"),
    Metric(key="panoptic_quality", title="panoptic quality"),
    Metric(key="aggregated_jaccard", title="aggregated Jaccard index"),
    Metric(key="foreground_iou", title="IoU of the foreground"),
    Metric(key="boundary_distance_px", title="distance of outlines", unit="px", digits=2, better="lower"),
    Metric(key="hausdorff_95_px", title="95 % Hausdorff distance", unit="px", digits=2, better="lower"),
    Metric(key="boundary_distance_um", title="distance of outlines", unit="µm", better="lower"),
    Metric(key="hausdorff_95_um", title="95 % Hausdorff distance", unit="µm", better="lower"),
    Metric(key="target_objects", title="objects in the target", digits=0, better="none"),
    Metric(key="predicted_objects", title="predicted objects", digits=0, better="none"),
    Metric(key="true_positives", title="true positives", digits=0),
    Metric(key="false_negatives", title="false negatives", digits=0, better="lower"),
    Metric(key="false_positives", title="false positives", digits=0, better="lower"),
    Metric(key="split", title="split objects", digits=0, better="lower"),
    Metric(key="merged", title="merged objects", digits=0, better="lower"),
)
"""The columns of metrics.csv."""

CLASS_METRICS: Final[tuple[Metric, ...]] = (
    Metric(key="class_accuracy", title="class accuracy"),
    Metric(key="class_known", title="found objects of known class", digits=0, better="none"),
    Metric(key="class_correct", title="found objects of the right class", digits=0),
)
"""Further columns, where classes are scored."""

SHOWN: Final = ("f1", "precision", "recall", "mean_accuracy", "panoptic_quality")
"""The metrics that tables for people have, the most important first."""

COUNTED: Final = ("true_positives", "false_negatives", "false_positives")
"""Counts that are shown to people, image by image."""

BY_KEY: Final = {metric.key: metric for metric in METRICS}
