"""Quality control: metrics, error maps, reports and a verdict on any prediction, whoever made it.

Each kind has a room with what workers run (`job.py`), its parameters and its figures: `restoration/` (translation
too), `instances/`, `semantic/`, `residuals/`, `dataset/` and `comparison/`. They share `evaluation/`, `report/` and
`metrics/`, which are pure functions on arrays.
"""

from __future__ import annotations

from parfocal import v1
from parfocal.qc.comparison.parameters import (
    ImageComparisonParameters,
    InstanceComparisonParameters,
    SemanticComparisonParameters,
)
from parfocal.qc.dataset.parameters import DatasetParameters
from parfocal.qc.instances.parameters import InstanceParameters
from parfocal.qc.residuals.parameters import ResidualParameters
from parfocal.qc.restoration.parameters import RestorationParameters, TranslationParameters
from parfocal.qc.semantic.parameters import SemanticParameters
from parfocal.runtime.methods.service import Method, Service, Work

_COMPARE = "parfocal.qc.comparison.job:compare"

RESTORATION = Method(
    name="restoration",
    title="Restoration QC",
    task=v1.TASK_RESTORATION,
    summary="""
        Compares restored images with their targets: NRMSE, PSNR, SSIM and Pearson correlation for the prediction, for
        the input, and for the Gaussian filter that suits the validation images best; error maps; a verdict in words.
    """,
    axes="YX",
    target=v1.TARGET_KIND_PAIRED_IMAGE,
    work={
        v1.JOB_KIND_EVALUATION: Work(RestorationParameters, "parfocal.qc.restoration.job:evaluate", needs_device=False),
        v1.JOB_KIND_COMPARISON: Work(ImageComparisonParameters, _COMPARE, needs_device=False),
    },
    data="Test images with targets, which the model has not seen in training. Three at least, ten or more are better.",
    minimum_images=1,
    recommended_images=10,
    citation=(
        "von Chamier L, Laine RF, Jukkala J, et al. Democratising deep learning for microscopy with ZeroCostDL4Mic. "
        "Nature Communications 12, 2276 (2021). doi:10.1038/s41467-021-22518-0"
    ),
    licence="BSD-3-Clause",
    documentation="docs/methods/restoration-qc.md",
)

RESIDUALS = Method(
    name="residuals",
    title="Residual QC",
    task=v1.TASK_RESTORATION,
    summary="""
        Looks at restored images without targets: what was taken away from each input should be noise and nothing else.
        Whiteness of the residual, structures in it, where prediction and input contradict each other, and how much
        noise is left, beside the Gaussian filter that suits the images best; maps; a verdict in words. It can refute
        a restoration, but not prove it.
    """,
    axes="YX",
    target=v1.TARGET_KIND_NONE,
    work={
        v1.JOB_KIND_EVALUATION: Work(
            ResidualParameters, "parfocal.qc.residuals.job:evaluate", needs_device=False, needs_targets=False
        ),
    },
    data="""
        Restored images and the grey images they were made from. The noise of neighbouring pixels must be independent,
        as it is in raw images of a camera or detector.
    """,
    minimum_images=1,
    recommended_images=3,
    citation=(
        "Batson J, Royer L. Noise2Self: blind denoising by self-supervision. Proceedings of the 36th International "
        "Conference on Machine Learning, PMLR 97, 524-533 (2019). http://proceedings.mlr.press/v97/batson19a.html"
    ),
    licence="BSD-3-Clause",
    documentation="docs/methods/residuals-qc.md",
)

TRANSLATION = Method(
    name="translation",
    title="Translation QC",
    task=v1.TASK_TRANSLATION,
    summary="""
        Compares images predicted from images of another kind with their targets, each target by itself: NRMSE, PSNR,
        SSIM and Pearson correlation for the prediction, for the input, and for the best linear function of the
        input's pixels, which is all that grey values alone can tell; error maps; a verdict in words.
    """,
    axes="YX",
    target=v1.TARGET_KIND_PAIRED_IMAGE,
    work={
        v1.JOB_KIND_EVALUATION: Work(TranslationParameters, "parfocal.qc.restoration.job:evaluate", needs_device=False),
        v1.JOB_KIND_COMPARISON: Work(ImageComparisonParameters, _COMPARE, needs_device=False),
    },
    data="Test images with targets, which the model has not seen in training. Three at least, ten or more are better.",
    minimum_images=1,
    recommended_images=10,
    citation=RESTORATION.citation,
    licence="BSD-3-Clause",
    documentation="docs/methods/translation-qc.md",
)

INSTANCES = Method(
    name="instances",
    title="Instance QC",
    task=v1.TASK_INSTANCE_SEGMENTATION,
    summary="""
        Compares found objects with labelled ones, one to one: how many were found, missed, invented, cut in pieces or
        merged, and how well they are outlined, for the prediction and for Otsu's threshold; how often classes are
        right where objects have them; pictures of every image with its mistakes; a verdict in words.
    """,
    axes="YX",
    target=v1.TARGET_KIND_LABELS,
    work={
        v1.JOB_KIND_EVALUATION: Work(InstanceParameters, "parfocal.qc.instances.job:evaluate", needs_device=False),
        v1.JOB_KIND_COMPARISON: Work(InstanceComparisonParameters, _COMPARE, needs_device=False),
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
        v1.JOB_KIND_COMPARISON: Work(SemanticComparisonParameters, _COMPARE, needs_device=False),
    },
    data="Test images with masks, which the model has not seen in training. Three at least, ten or more are better.",
    minimum_images=1,
    recommended_images=10,
    citation=RESTORATION.citation,
    licence="BSD-3-Clause",
    documentation="docs/methods/semantic-qc.md",
)

DATASET = Method(
    name="dataset",
    title="Dataset QC",
    task=v1.TASK_DATASET,
    summary="""
        Looks at the images of a dataset before anything is learnt from them: shift between source and target, noise,
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

SERVICE = Service(
    name="qc",
    methods=(RESTORATION, RESIDUALS, TRANSLATION, INSTANCES, SEMANTIC, DATASET),
    packages=("scikit-image", "scipy", "matplotlib"),
)
