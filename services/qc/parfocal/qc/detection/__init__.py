"""Quality control of detection: boxes with a class and a confidence against annotated ones."""

from __future__ import annotations

from parfocal import v1
from parfocal.qc.comparison.parameters import COMPARE
from parfocal.qc.detection.parameters import DetectionComparisonParameters, DetectionParameters
from parfocal.runtime.methods.service import Method, Work

DETECTION = Method(
    name="detection",
    title="Detection QC",
    task=v1.TASK_DETECTION,
    summary="""
        Compares detected boxes with annotated ones, class by class: precision, recall, F1 and average precision by the
        rules of PASCAL VOC and of COCO, for the prediction and for Otsu's threshold; which class is taken for which;
        how far centres are off, and how well counts agree; pictures of every image with its mistakes; a verdict in
        words.
    """,
    axes="YX",
    target=v1.TARGET_KIND_BOXES,
    work={
        v1.JOB_KIND_EVALUATION: Work(DetectionParameters, "parfocal.qc.detection.job:evaluate", needs_device=False),
        v1.JOB_KIND_COMPARISON: Work(DetectionComparisonParameters, COMPARE, needs_device=False),
    },
    data="""
        Test images with boxes, which the model has not seen in training. Three at least, ten or more are better, with
        at least ten boxes of each class.
    """,
    minimum_images=1,
    recommended_images=10,
    citation=(
        "Everingham M, Van Gool L, Williams CKI, Winn J, Zisserman A. The PASCAL Visual Object Classes (VOC) "
        "Challenge. International Journal of Computer Vision 88, 303-338 (2010). doi:10.1007/s11263-009-0275-4"
    ),
    licence="BSD-3-Clause",
    documentation="docs/methods/detection-qc.md",
)
