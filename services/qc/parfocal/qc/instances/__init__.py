"""Quality control of objects: predicted ones paired one to one with those of the target."""

from __future__ import annotations

from parfocal import v1
from parfocal.qc.comparison.parameters import COMPARE
from parfocal.qc.instances.parameters import InstanceComparisonParameters, InstanceParameters
from parfocal.runtime.methods.service import Method, Work

INSTANCES = Method(
    name="instances",
    title="Instance QC",
    task=v1.TASK_INSTANCE_SEGMENTATION,
    summary="""
        Compares found objects with labelled ones, one to one: how many were found, overlooked (false negatives), not
        there (false positives), split or merged, and how well they are outlined, for the prediction and for the
        baseline (Otsu's threshold); how often classes are right if objects have classes; pictures of every image with
        its mistakes; a verdict in words.
    """,
    axes="YX",
    target=v1.TARGET_KIND_LABELS,
    work={
        v1.JOB_KIND_EVALUATION: Work(InstanceParameters, "parfocal.qc.instances.job:evaluate", needs_device=False),
        v1.JOB_KIND_COMPARISON: Work(InstanceComparisonParameters, COMPARE, needs_device=False),
    },
    data="""
        Test images with label images, which the model has not seen in training. Three at least, ten or more are better.
    """,
    minimum_images=1,
    recommended_images=10,
    citation=(
        "Caicedo JC, Goodman A, Karhohs KW, et al. Nucleus segmentation across imaging experiments: the 2018 Data "
        "Science Bowl. Nature Methods 16, 1247-1253 (2019). doi:10.1038/s41592-019-0612-7"
    ),
    licence="BSD-3-Clause",
    documentation="docs/methods/instances-qc.md",
)
