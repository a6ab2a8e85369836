"""fnet: fluorescence predicted from transmitted light (Ounkomol et al., 2018), written here for PyTorch."""

from __future__ import annotations

from parfocal import v1
from parfocal.fnet.parameters import Fnet2DParameters, Fnet3DParameters, FnetPredictionParameters, check_dataset
from parfocal.runtime.methods.service import Method, Parameters, Service, Work, quick


def _method(name: str, title: str, axes: str, parameters: type[Parameters], summary: str, data: str) -> Method:
    return Method(
        name=name,
        title=title,
        task=v1.TASK_TRANSLATION,
        summary=summary,
        axes=axes,
        channel_axes="CZ" if axes == "YX" else "C",
        target=v1.TARGET_KIND_PAIRED_IMAGE,
        work={
            v1.JOB_KIND_TRAINING: Work(parameters, "parfocal.runtime.training.loop:train"),
            v1.JOB_KIND_PREDICTION: Work(FnetPredictionParameters, "parfocal.runtime.prediction.job:predict"),
        },
        data=data,
        minimum_images=1,
        recommended_images=30,
        presets=quick(
            epochs=10,
            patches_per_image=48,
            batch_size=8,
            first_filters=16,
            learning_rate=0.001,
            plateau_patience=2,
        ),
        citation=(
            "Ounkomol C, Seshamani S, Maleckar MM, et al. Label-free prediction of three-dimensional fluorescence "
            "images from transmitted-light microscopy. Nature Methods 15, 917-920 (2018). "
            "doi:10.1038/s41592-018-0111-2"
        ),
        licence="BSD-3-Clause",
        documentation=f"docs/methods/{name}.md",
        implementation=f"parfocal.fnet.network:Fnet{len(axes)}D",
        validate=check_dataset,
    )


FNET_2D = _method(
    "fnet-2d",
    "fnet 2D",
    "YX",
    Fnet2DParameters,
    """
        Predicts fluorescence images from transmitted light (brightfield, phase contrast), and in general one kind of
        image from another of the same field of view. One model can predict several stains at once. It shows what is
        likely, not what is there: it does not know rare or new events that its training images lack.
    """,
    """
        Pairs of two-dimensional images with the same name and size, registered to each other: source (transmitted
        light; several planes of a focus series may be given as one stack) and target (fluorescence). Further stains
        go into folders target_NAME. Thirty or more fields from several samples give a model that can be trusted.
    """,
)
FNET_3D = _method(
    "fnet-3d",
    "fnet 3D",
    "ZYX",
    Fnet3DParameters,
    """
        fnet for volumes: predicts fluorescence stacks from transmitted-light stacks, using what lies above and below
        every plane. Slower than fnet 2D and the better choice where focus matters. It shows what is likely, not what
        is there.
    """,
    """
        Pairs of volumes (planes, height, width) with the same name and size, at least 16 planes, registered to each
        other in all three directions: source (transmitted light) and target (fluorescence); further stains go into
        folders target_NAME.
    """,
)

SERVICE = Service(name="fnet", methods=(FNET_2D, FNET_3D), packages=("torch", "safetensors"), framework="torch")
