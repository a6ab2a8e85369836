"""Tiny methods in plain numpy, one for each kind of data, to test what the training loop owes to all of them.

They are real methods: they are trained on real files, get better, checkpoint and resume, in seconds and without any
framework.
"""

from __future__ import annotations

from fake.kinds.parameters import LabelParameters, SmallParameters, SourceParameters, UnpairedParameters
from parfocal import v1
from parfocal.runtime.methods.parameters import PredictionParameters
from parfocal.runtime.methods.service import Method, Parameters, Service, Work, quick


def _method(
    name: str,
    target: v1.TargetKind.ValueType,
    parameters: type[Parameters],
    implementation: str,
) -> Method:
    return Method(
        name=name,
        title=name.capitalize(),
        task=v1.TASK_RESTORATION,
        summary=f"Is trained on {name.partition('-')[2]}, to test what the runtime does with them.",
        axes="YX",
        target=target,
        work={
            v1.JOB_KIND_TRAINING: Work(parameters, "parfocal.runtime.training.loop:train"),
            v1.JOB_KIND_PREDICTION: Work(PredictionParameters, "parfocal.runtime.prediction.job:predict"),
        },
        data="Small images.",
        minimum_images=2,
        recommended_images=2,
        presets=quick(epochs=4),
        citation="None.",
        licence="BSD-3-Clause",
        documentation="docs/adding-a-method.md",
        implementation=f"fake.kinds.{implementation}",
    )


SERVICE = Service(
    name="kinds",
    methods=(
        _method("tiny-labels", v1.TARGET_KIND_LABELS, LabelParameters, "labels:TinyLabels"),
        _method("tiny-boxes", v1.TARGET_KIND_BOXES, SmallParameters, "annotated:TinyBoxes"),
        _method("tiny-classes", v1.TARGET_KIND_CLASSES, SmallParameters, "classes:TinyClasses"),
        _method("tiny-coordinates", v1.TARGET_KIND_COORDINATES, SmallParameters, "annotated:TinyCoordinates"),
        _method("tiny-sources", v1.TARGET_KIND_NONE, SourceParameters, "sources:TinySources"),
        _method("tiny-unpaired", v1.TARGET_KIND_UNPAIRED_IMAGE, UnpairedParameters, "unpaired:TinyUnpaired"),
    ),
)
