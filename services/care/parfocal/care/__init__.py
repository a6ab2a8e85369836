"""CARE: content-aware restoration of microscopy images (Weigert et al., 2018), on csbdeep."""

from __future__ import annotations

from parfocal import v1
from parfocal.care.parameters import Care2DParameters, CarePredictionParameters, check_dataset
from parfocal.runtime.service import Method, Service, Work

CARE_2D = Method(
    name="care-2d",
    title="CARE 2D",
    task=v1.TASK_RESTORATION,
    summary="""
        Learns from pairs of images, one of poor and one of good quality of the same field, how to restore further
        poor images of the same kind: less light, shorter exposure, less bleaching. It cannot restore what the poor
        image does not contain, and it will invent structure when it is applied to other samples than it has seen:
        check it with quality control on images of your own.
    """,
    axes="YX",
    target=v1.TARGET_KIND_PAIRED_IMAGE,
    work={
        v1.JOB_KIND_TRAINING: Work(Care2DParameters, "parfocal.runtime.training:train"),
        v1.JOB_KIND_PREDICTION: Work(CarePredictionParameters, "parfocal.runtime.prediction:predict"),
    },
    data="""
        Pairs of two-dimensional grey images with the same name and size: source (poor, for example short exposure)
        and target (good, for example long exposure or an average), registered to each other. At least two pairs;
        20 or more fields that show the variety of your sample give good results.
    """,
    minimum_images=2,
    recommended_images=20,
    augmentations={
        "augment_flip": "Mirrors patches. Safe whenever left and right mean the same in your images.",
        "augment_rotate": "Turns patches by quarter turns. Safe whenever your microscope has no preferred direction.",
    },
    citation=(
        "Weigert M, Schmidt U, Boothe T, et al. Content-aware image restoration: pushing the limits of fluorescence "
        "microscopy. Nature Methods 15, 1090-1097 (2018). doi:10.1038/s41592-018-0216-7"
    ),
    licence="BSD-3-Clause",
    documentation="docs/methods/care-2d.md",
    implementation="parfocal.care.network:Care2D",
    validate=check_dataset,
)

SERVICE = Service(
    name="care",
    methods=(CARE_2D,),
    packages=("csbdeep", "tensorflow-cpu", "tensorflow", "keras"),
)
