"""Quality control of a dataset, before a model is trained on it.

`images` measures each image by itself, `checks` and `duplicates` find what is wrong with them together, `purpose` says
what they are good for, `thumbnails` and `sheets` draw them, and `job` is what a worker runs.
"""

from __future__ import annotations

from parfocal import v1
from parfocal.qc.dataset.parameters import DatasetParameters
from parfocal.runtime.methods.service import Method, Work

DATASET = Method(
    name="dataset",
    title="Dataset QC",
    task=v1.TASK_DATASET,
    summary="""
        Looks at the images of a dataset before anything is trained on them: shift between source and target, noise,
        saturation, empty, blurred and duplicate images, the same field in training and test, faults of label images,
        unusual brightness; sheets of thumbnails with what was found, and a sentence on what the data are good for.
    """,
    axes="YX",
    target=v1.TARGET_KIND_NONE,
    work={
        v1.JOB_KIND_EVALUATION: Work(
            DatasetParameters, "parfocal.qc.dataset.job:evaluate", needs_device=False, needs_prediction=False
        ),
    },
    data="Any dataset: pairs of images, label images or masks, in two or three dimensions. No model is needed.",
    minimum_images=1,
    recommended_images=10,
    citation=(
        "Pertuz S, Puig D, Garcia MA. Analysis of focus measure operators for shape-from-focus. Pattern Recognition "
        "46, 1415-1432 (2013). doi:10.1016/j.patcog.2012.11.011"
    ),
    licence="BSD-3-Clause",
    documentation="docs/methods/dataset-qc.md",
)
