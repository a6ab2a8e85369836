"""Quality control without targets: what a restoration removed from its input should be noise."""

from __future__ import annotations

from parfocal import v1
from parfocal.qc.residuals.parameters import ResidualParameters
from parfocal.runtime.methods.service import Method, Work

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
