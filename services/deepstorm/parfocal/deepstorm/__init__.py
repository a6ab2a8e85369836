"""Deep-STORM: super-resolved images from crowded frames of blinking emitters (Nehme et al., 2018)."""

from __future__ import annotations

from parfocal import v1
from parfocal.deepstorm.parameters import (
    DeepStormParameters,
    DeepStormPredictionParameters,
    SimulationParameters,
    check_dataset,
)
from parfocal.runtime.methods.service import Method, Parameters, Service, Work, quick

_QUICK = {"epochs": 12, "patches_per_epoch": 160, "batch_size": 8, "upsampling": 4, "first_filters": 16}


def _method(
    name: str,
    title: str,
    parameters: type[Parameters],
    target: v1.TargetKind.ValueType,
    implementation: str,
    summary: str,
    data: str,
) -> Method:
    return Method(
        name=name,
        title=title,
        task=v1.TASK_LOCALISATION,
        summary=summary,
        axes="TYX",
        divisible=False,
        target=target,
        work={
            v1.JOB_KIND_TRAINING: Work(parameters, "parfocal.runtime.training.loop:train"),
            v1.JOB_KIND_PREDICTION: Work(DeepStormPredictionParameters, "parfocal.runtime.prediction.job:predict"),
        },
        data=data,
        minimum_images=1,
        recommended_images=1,
        presets=quick(**_QUICK),
        citation=(
            "Nehme E, Weiss LE, Michaeli T, Shechtman Y. Deep-STORM: super-resolution single-molecule microscopy by "
            "deep learning. Optica 5, 458-464 (2018). doi:10.1364/OPTICA.5.000458"
        ),
        licence="BSD-3-Clause",
        documentation=f"docs/methods/{name}.md",
        implementation=f"parfocal.deepstorm.network:{implementation}",
        validate=check_dataset,
    )


DEEP_STORM_2D = _method(
    "deep-storm-2d",
    "Deep-STORM 2D",
    DeepStormParameters,
    v1.TARGET_KIND_COORDINATES,
    "DeepStorm",
    """
        Makes a super-resolved image, and a table of localisations, from a stack of frames in which emitters blink
        (PALM, STORM, PAINT), also where so many shine at once that their spots overlap. Trained on frames with known
        localisations. For sparse frames, fits of single spots are more precise.
    """,
    """
        Stacks of frames (TIFF) that say the size of their pixels, and under the same names tables of localisations as
        ThunderSTORM exports them: frames from a simulation whose emitters are known, or from your microscope. The
        frames must be as crowded as those that you want to predict.
    """,
)
DEEP_STORM_2D_SIMULATED = _method(
    "deep-storm-2d-simulated",
    "Deep-STORM 2D, simulated training",
    SimulationParameters,
    v1.TARGET_KIND_NONE,
    "SimulatedDeepStorm",
    """
        Deep-STORM trained on simulated frames, for stacks in which nothing was localised. Width and brightness of the
        spots, their density and the noise of the camera are estimated from your stacks, or given by you.
    """,
    """
        One or more stacks of frames (TIFF) that say the size of their pixels, made with the same microscope and
        settings as those that you want to predict.
    """,
)

SERVICE = Service(
    name="deepstorm",
    methods=(DEEP_STORM_2D, DEEP_STORM_2D_SIMULATED),
    packages=("torch", "safetensors", "scikit-image"),
    framework="torch",
)
