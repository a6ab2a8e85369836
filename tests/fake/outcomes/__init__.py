"""Tiny methods in plain numpy, one for each kind of output, to test what prediction owes to all of them.

None of them needs a training: their models are published as they are, with one number for weights.
"""

from __future__ import annotations

from parfocal import v1
from parfocal.runtime.methods.parameters import ImagePredictionParameters, PredictionParameters, TrainingParameters
from parfocal.runtime.methods.service import Method, Parameters, Service, Work


def _method(
    kind: str,
    task: v1.Task.ValueType,
    implementation: str,
    *,
    axes: str = "YX",
    channel_axes: str = "",
    prediction: type[Parameters] = PredictionParameters,
    divisible: bool = True,
) -> Method:
    return Method(
        name=f"gives-{kind}",
        title=f"Gives {kind}",
        task=task,
        summary=f"Gives {kind}, to test what the runtime does with them.",
        axes=axes,
        channel_axes=channel_axes,
        divisible=divisible,
        target=v1.TARGET_KIND_PAIRED_IMAGE,
        work={
            v1.JOB_KIND_TRAINING: Work(TrainingParameters, "parfocal.runtime.training.loop:train"),
            v1.JOB_KIND_PREDICTION: Work(prediction, "parfocal.runtime.prediction.job:predict"),
        },
        data="Small images.",
        minimum_images=2,
        recommended_images=2,
        citation="None.",
        licence="BSD-3-Clause",
        documentation="docs/adding-a-method.md",
        implementation=f"fake.outcomes.{implementation}",
    )


_IMAGES = ImagePredictionParameters
SERVICE = Service(
    name="outcomes",
    methods=(
        _method("larger", v1.TASK_RESTORATION, "images:Larger", prediction=_IMAGES),
        _method("colours", v1.TASK_TRANSLATION, "images:Colours", channel_axes="S", prediction=_IMAGES),
        _method("blends", v1.TASK_TRANSLATION, "images:Blended", prediction=_IMAGES),
        _method("means", v1.TASK_RESTORATION, "images:Mean", axes="TYX", prediction=_IMAGES),
        _method("classes", v1.TASK_SEMANTIC_SEGMENTATION, "images:Classes"),
        _method("objects", v1.TASK_INSTANCE_SEGMENTATION, "findings:Connected"),
        _method("boxes", v1.TASK_DETECTION, "findings:Boxed"),
        _method("places", v1.TASK_LOCALISATION, "findings:Placed", axes="TYX", divisible=False),
    ),
)
