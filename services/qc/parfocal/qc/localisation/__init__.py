"""Quality control of localisation: emitters against true ones, and reconstructions against their own frames."""

from __future__ import annotations

from parfocal import v1
from parfocal.qc.localisation.parameters import LocalisationParameters, ReconstructionParameters
from parfocal.runtime.methods.service import Method, Work

LOCALISATION = Method(
    name="localisation",
    title="Localisation QC",
    task=v1.TASK_LOCALISATION,
    summary="""
        Compares localisations with the true emitters, frame by frame: Jaccard index, recall, precision, lateral error
        and efficiency as in the challenge of the field, also by density, for the prediction and for fits of single
        spots; the super-resolved image against a rendering of the truth; a verdict in words.
    """,
    axes="TYX",
    target=v1.TARGET_KIND_COORDINATES,
    work={
        v1.JOB_KIND_EVALUATION: Work(
            LocalisationParameters, "parfocal.qc.localisation.job:evaluate", needs_device=False
        ),
    },
    data="""
        Test stacks with the places of their emitters, which the model has not seen in training: simulated ones, whose
        truth is known. As crowded as the frames that the model is to be used on.
    """,
    minimum_images=1,
    recommended_images=3,
    citation=(
        "Sage D, Pham T-A, Babcock H, et al. Super-resolution fight club: assessment of 2D and 3D single-molecule "
        "localization microscopy software. Nature Methods 16, 387-395 (2019). doi:10.1038/s41592-019-0364-4"
    ),
    licence="BSD-3-Clause",
    documentation="docs/methods/localisation-qc.md",
)
RECONSTRUCTION = Method(
    name="reconstruction",
    title="Reconstruction QC",
    task=v1.TASK_LOCALISATION,
    summary="""
        Looks at super-resolved images whose emitters nobody knows: blurred again, they should look like the mean of
        their frames, and two halves of the frames should show the same. A map of where image and frames contradict each
        other; the resolution; a verdict in words. It can refute a reconstruction, but not prove it.
    """,
    axes="TYX",
    target=v1.TARGET_KIND_NONE,
    work={
        v1.JOB_KIND_EVALUATION: Work(
            ReconstructionParameters,
            "parfocal.qc.localisation.blind:evaluate",
            needs_device=False,
            needs_targets=False,
        ),
    },
    data="""
        Stacks of frames that say the size of their pixels, with the super-resolved images and localisations that were
        made of them.
    """,
    minimum_images=1,
    recommended_images=3,
    citation=(
        "Culley S, Albrecht D, Jacobs C, et al. Quantitative mapping and minimization of super-resolution optical "
        "imaging artifacts. Nature Methods 15, 263-266 (2018). doi:10.1038/nmeth.4605"
    ),
    licence="BSD-3-Clause",
    documentation="docs/methods/reconstruction-qc.md",
)
