"""U-Net: the class of each pixel, for images and volumes (Ronneberger et al., 2015; Çiçek et al., 2016)."""

from __future__ import annotations

from parfocal import v1
from parfocal.runtime.methods.service import Method, Parameters, Service, Work, quick
from parfocal.unet.parameters import Unet2DParameters, Unet3DParameters, UnetPredictionParameters, check_dataset


def _method(
    name: str,
    title: str,
    axes: str,
    parameters: type[Parameters],
    implementation: str,
    summary: str,
    data: str,
    citation: str,
    **presets: object,
) -> Method:
    return Method(
        name=name,
        title=title,
        task=v1.TASK_SEMANTIC_SEGMENTATION,
        summary=summary,
        axes=axes,
        channel_axes="CS" if axes == "YX" else "C",
        target=v1.TARGET_KIND_CLASSES,
        work={
            v1.JOB_KIND_TRAINING: Work(parameters, "parfocal.runtime.training.loop:train"),
            v1.JOB_KIND_PREDICTION: Work(UnetPredictionParameters, "parfocal.runtime.prediction.job:predict"),
        },
        data=data,
        minimum_images=1,
        recommended_images=20,
        presets=quick(**presets),
        citation=citation,
        licence="BSD-3-Clause",
        documentation=f"docs/methods/{name}.md",
        implementation=f"parfocal.unet.network:{implementation}",
        validate=check_dataset,
    )


UNET_2D = _method(
    "unet-2d",
    "U-Net 2D",
    "YX",
    Unet2DParameters,
    "UnetOfImages",
    """
        Assigns each pixel to a class, for example membrane or cell, nucleus or background, or one of several tissues.
        With the two classes foreground and background it can also number the connected regions and list their sizes.
        Touching objects are separated better by StarDist.
    """,
    """
        Two-dimensional images, grey or with channels or colours, and under the same names images of the class of each
        pixel: masks such as 0 and 255, numbers of up to 100 classes, or label images, whose objects are all foreground.
        Pixels that are not annotated may have a value of their own. Twenty or more images from several samples give a
        model that can be trusted.
    """,
    "Ronneberger O, Fischer P, Brox T. U-Net: convolutional networks for biomedical image segmentation. MICCAI 2015, "
    "LNCS 9351, 234-241 (2015). doi:10.1007/978-3-319-24574-4_28",
    epochs=20,
    patch_size=96,
    patches_per_image=6,
    batch_size=4,
    first_filters=16,
    learning_rate=0.002,
    plateau_patience=5,
)
UNET_3D = _method(
    "unet-3d",
    "U-Net 3D",
    "ZYX",
    Unet3DParameters,
    "UnetOfVolumes",
    """
        U-Net for volumes: says of each voxel which class it belongs to, using what lies above and below its plane.
        Slower than U-Net 2D, and the better choice where single planes do not show what belongs together.
    """,
    """
        Volumes (planes, height, width), perhaps with channels, and under the same names volumes of the class of each
        voxel: masks such as 0 and 255, numbers of up to 100 classes, or label images, whose objects are all foreground.
        Voxels that are not annotated may have a value of their own.
    """,
    "Çiçek Ö, Abdulkadir A, Lienkamp SS, Brox T, Ronneberger O. 3D U-Net: learning dense volumetric segmentation from "
    "sparse annotation. MICCAI 2016, LNCS 9901, 424-432 (2016). doi:10.1007/978-3-319-46723-8_49",
    epochs=20,
    patch_size=48,
    patch_depth=8,
    patches_per_image=8,
    first_filters=8,
    poolings=2,
    learning_rate=0.002,
    plateau_patience=5,
)

SERVICE = Service(name="unet", methods=(UNET_2D, UNET_3D), packages=("torch", "safetensors"), framework="torch")
