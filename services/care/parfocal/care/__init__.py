"""CARE: content-aware restoration of microscopy images (Weigert et al., 2018), on csbdeep."""

from __future__ import annotations

from parfocal import v1
from parfocal.care.parameters import Care2DParameters, Care3DParameters, CarePredictionParameters, check_dataset
from parfocal.runtime.methods.service import Method, Service, Work, quick

_CITATION = (
    "Weigert M, Schmidt U, Boothe T, et al. Content-aware image restoration: pushing the limits of fluorescence "
    "microscopy. Nature Methods 15, 1090-1097 (2018). doi:10.1038/s41592-018-0216-7"
)
_QUICK = quick(
    epochs=10,
    patches_per_image=48,
    batch_size=8,
    network_depth=2,
    first_filters=16,
    kernel_size=3,
    learning_rate=0.001,
    plateau_patience=2,
    probabilistic=False,
)

CARE_2D = Method(
    name="care-2d",
    title="CARE 2D",
    task=v1.TASK_RESTORATION,
    summary="""
        Restores noisy or poorly exposed images, so that you can record with less light, shorter exposure and less
        bleaching. It is trained on pairs of images of the same field of view, one of poor and one of good quality. It
        cannot restore what the poor image does not contain, and on samples unlike those it was trained on it may show
        structures that are not there: check it with quality control on images of your own.
    """,
    axes="YX",
    target=v1.TARGET_KIND_PAIRED_IMAGE,
    work={
        v1.JOB_KIND_TRAINING: Work(Care2DParameters, "parfocal.runtime.training.loop:train"),
        v1.JOB_KIND_PREDICTION: Work(CarePredictionParameters, "parfocal.runtime.prediction.job:predict"),
    },
    data="""
        Pairs of two-dimensional grey images with the same name and size: source (poor, for example short exposure)
        and target (good, for example long exposure or an average), registered to each other. At least two pairs;
        20 or more fields that show the variety of your sample give good results.
    """,
    minimum_images=2,
    recommended_images=20,
    presets=_QUICK,
    citation=_CITATION,
    licence="BSD-3-Clause",
    documentation="docs/methods/care-2d.md",
    implementation="parfocal.care.network:Care2D",
    validate=check_dataset,
)

CARE_3D = Method(
    name="care-3d",
    title="CARE 3D",
    task=v1.TASK_RESTORATION,
    summary="""
        CARE for volumes: restores noisy or poorly exposed stacks, using the planes above and below each plane. It is
        trained on pairs of stacks of the same field of view, one of poor and one of good quality. It is slower than
        CARE 2D, and better for structures that extend in depth. On samples unlike those it was trained on it may show
        structures that are not there: check it with quality control.
    """,
    axes="ZYX",
    target=v1.TARGET_KIND_PAIRED_IMAGE,
    work={
        v1.JOB_KIND_TRAINING: Work(Care3DParameters, "parfocal.runtime.training.loop:train"),
        v1.JOB_KIND_PREDICTION: Work(CarePredictionParameters, "parfocal.runtime.prediction.job:predict"),
    },
    data="""
        Pairs of grey volumes (planes, height, width) with the same name and size: source (poor) and target (good),
        registered to each other in all three directions. One large volume is enough to start: a block of it is held out
        for validation. Several volumes from different samples give a model that can be trusted on more images.
    """,
    minimum_images=1,
    recommended_images=5,
    presets=_QUICK,
    citation=_CITATION,
    licence="BSD-3-Clause",
    documentation="docs/methods/care-3d.md",
    implementation="parfocal.care.network:Care3D",
    validate=check_dataset,
)

SERVICE = Service(
    name="care",
    methods=(CARE_2D, CARE_3D),
    packages=("csbdeep", "tensorflow-cpu", "tensorflow", "keras"),
    framework="tensorflow",
)
