"""Quality control of restored and translated images: predictions beside their targets, their inputs and a baseline."""

from __future__ import annotations

from parfocal import v1
from parfocal.qc.comparison.parameters import COMPARE
from parfocal.qc.restoration.parameters import (
    ImageComparisonParameters,
    RestorationComparisonParameters,
    RestorationParameters,
    TranslationParameters,
)
from parfocal.runtime.methods.service import Method, Work

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
        v1.JOB_KIND_COMPARISON: Work(RestorationComparisonParameters, COMPARE, needs_device=False),
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
        v1.JOB_KIND_COMPARISON: Work(ImageComparisonParameters, COMPARE, needs_device=False),
    },
    data="Test images with targets, which the model has not seen in training. Three at least, ten or more are better.",
    minimum_images=1,
    recommended_images=10,
    citation=RESTORATION.citation,
    licence="BSD-3-Clause",
    documentation="docs/methods/translation-qc.md",
)
