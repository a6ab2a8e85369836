"""Summaries of restorations made from rows, without a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parfocal.qc.evaluation.rows import ScoreRow
from parfocal.qc.evaluation.statistics import INTERVAL, image_scores, summarise_scores
from parfocal.qc.restoration.judge import DEFINITION, judge, summarise
from parfocal.qc.restoration.metrics import METRICS, SHOWN
from parfocal.runtime.store.evaluations import KINDS, EvaluationSummary


def summary_of(
    rows: Sequence[ScoreRow],
    baseline: Mapping[str, Any] | None = None,
    targets: Mapping[str, EvaluationSummary] | None = None,
) -> EvaluationSummary:
    """Return what an evaluation of these rows says."""
    metrics = summarise_scores(image_scores(rows, KINDS))
    found = summarise(rows)
    judgement = judge(found)
    return EvaluationSummary(
        task="restoration",
        definition=DEFINITION,
        verdict=judgement.verdict,
        reasons=judgement.reasons,
        remarks=judgement.remarks,
        images=found.images,
        columns=tuple(metric for metric in METRICS if metric.key in metrics["prediction"]),
        shown=tuple(key for key in SHOWN if key in metrics["prediction"]),
        metrics=metrics,
        comparisons=found.comparisons,
        worst_image=found.worst.defined(),
        interval=dict(INTERVAL),
        thresholds={},
        baseline=dict(baseline or {"name": "Gaussian filter"}),
        targets=dict(targets or {}),
    )
