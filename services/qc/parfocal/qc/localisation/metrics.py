"""Metrics of localisations."""

from __future__ import annotations

from typing import Final

from parfocal.runtime.store.evaluations import Metric

METRICS: Final[tuple[Metric, ...]] = (
    Metric(key="efficiency", title="efficiency", unit="%", digits=1, best=100, used_by_verdict=True),
    Metric(key="jaccard", title="Jaccard index", best=1, used_by_verdict=True),
    Metric(key="recall", title="recall"),
    Metric(key="precision", title="precision"),
    Metric(key="rmse_nm", title="lateral RMSE", unit="nm", digits=1, better="lower", used_by_verdict=True),
    Metric(key="target_emitters", title="true emitters", digits=0, better="none"),
    Metric(key="localisations", title="localisations", digits=0, better="none"),
    Metric(key="true_positives", title="true positives", digits=0),
    Metric(key="false_negatives", title="false negatives", digits=0, better="lower"),
    Metric(key="false_positives", title="false positives", digits=0, better="lower"),
    Metric(key="image_ssim", title="SSIM of the image"),
    Metric(key="image_psnr", title="PSNR of the image", unit="dB", digits=2, best=100),
    Metric(key="image_nrmse_zerocost", title="root of the mean absolute error of the image", better="lower"),
)
"""The columns of metrics.csv."""

SHOWN: Final = ("efficiency", "jaccard", "recall", "precision", "rmse_nm")
"""The metrics that tables for people have, the most important first."""

COUNTED: Final = ("true_positives", "false_negatives", "false_positives")
"""Counts that are shown to people, stack by stack."""

BY_KEY: Final = {metric.key: metric for metric in METRICS}

BLIND_METRICS: Final[tuple[Metric, ...]] = (
    Metric(key="rsp", title="correlation with the frames (RSP)", best=1, used_by_verdict=True),
    Metric(key="rse", title="difference from the frames (RSE)", digits=2, better="lower"),
    Metric(key="frc_nm", title="resolution (FRC)", unit="nm", digits=0, better="lower", used_by_verdict=True),
    Metric(key="blur_nm", title="blur that fits the frames", unit="nm", digits=0, better="none"),
    Metric(key="localisations", title="localisations", digits=0, better="none"),
)
"""The columns of metrics.csv where there is no ground truth."""

BLIND_SHOWN: Final = ("rsp", "rse", "frc_nm")
BLIND_BY_KEY: Final = {metric.key: metric for metric in BLIND_METRICS}
