"""Quality control of classes of pixels: foreground masks, probabilities of foreground, and several classes."""

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
        Compares predicted foreground, or several predicted classes, with the annotated ones, pixel by pixel, along the
        outlines, and by what they separate: IoU, Dice, boundary F, confusion, splits and merges, for the prediction and
        for baselines (Otsu's threshold, a pixel classifier); how IoU depends on the threshold of
        probabilities, which is never chosen on the test images; error maps; a verdict in words.
    """,
    axes="YX",
    target=v1.TARGET_KIND_LABELS,
    work={
        v1.JOB_KIND_EVALUATION: Work(SemanticParameters, "parfocal.qc.semantic.job:evaluate", needs_device=False),
        v1.JOB_KIND_COMPARISON: Work(SemanticComparisonParameters, COMPARE, needs_device=False),
    },
    data="""
        Test images with masks, label images or class images, which the model has not seen in training. Three at least,
        ten or more are better.
    """,
    minimum_images=1,
    recommended_images=10,
    citation=(
        "von Chamier L, Laine RF, Jukkala J, et al. Democratising deep learning for microscopy with ZeroCostDL4Mic. "
        "Nature Communications 12, 2276 (2021). doi:10.1038/s41467-021-22518-0"
    ),
    licence="BSD-3-Clause",
    documentation="docs/methods/semantic-qc.md",
)
