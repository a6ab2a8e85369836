"""NAME: what it does, in one line."""

from __future__ import annotations

from parfocal import v1
from parfocal.NAME.parameters import NAMEParameters, check_dataset
from parfocal.runtime.methods.parameters import ImagePredictionParameters
from parfocal.runtime.methods.service import Method, Service, Work

NAME_2D = Method(
    name="NAME-2d",
    title="NAME 2D",
    task=v1.TASK_RESTORATION,
    summary="What it is good for and what it is not, in words a biologist understands.",
    axes="YX",
    target=v1.TARGET_KIND_PAIRED_IMAGE,
    work={
        v1.JOB_KIND_TRAINING: Work(NAMEParameters, "parfocal.runtime.training.loop:train"),
        v1.JOB_KIND_PREDICTION: Work(ImagePredictionParameters, "parfocal.runtime.prediction.job:predict"),
    },
    data="Pairs of two-dimensional grey images with the same name and size.",
    minimum_images=2,
    citation="The publication, in full, with its DOI.",
    licence="BSD-3-Clause",
    documentation="docs/methods/NAME-2d.md",
    implementation="parfocal.NAME.network:NAME2D",
    validate=check_dataset,
)

SERVICE = Service(name="NAME", methods=(NAME_2D,), packages=("torch", "safetensors"), framework="torch")
