"""Quality control of foreground masks and of probabilities of foreground."""

from __future__ import annotations

from parfocal import v1
from parfocal.qc.comparison.parameters import COMPARE
from parfocal.qc.semantic.parameters import SemanticComparisonParameters, SemanticParameters
from parfocal.runtime.methods.service import Method, Work

SEMANTIC = Method(
    name="semantic",
    title="Semantic QC",
    task=v1.TASK_SEMANTIC_SEGMENTATION,
    summary="""
        Compares predicted foreground with the labelled one, pixel by pixel and along the outlines: IoU, Dice and
        boundary F, for the prediction and for Otsu's threshold; how IoU depends on the threshold of probabilities,
        which is never chosen on the test images; error maps; a verdict in words.
    """,
    axes="YX",
    target=v1.TARGET_KIND_LABELS,
    work={
        v1.JOB_KIND_EVALUATION: Work(SemanticParameters, "parfocal.qc.semantic.job:evaluate", needs_device=False),
        v1.JOB_KIND_COMPARISON: Work(SemanticComparisonParameters, COMPARE, needs_device=False),
    },
    data="Test images with masks, which the model has not seen in training. Three at least, ten or more are better.",
    minimum_images=1,
    recommended_images=10,
    citation=(
        "von Chamier L, Laine RF, Jukkala J, et al. Democratising deep learning for microscopy with ZeroCostDL4Mic. "
        "Nature Communications 12, 2276 (2021). doi:10.1038/s41467-021-22518-0"
    ),
    licence="BSD-3-Clause",
    documentation="docs/methods/semantic-qc.md",
)
