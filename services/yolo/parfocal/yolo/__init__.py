"""YOLOv2 (Redmon and Farhadi, 2017): boxes around objects, in one pass of a network; written here for PyTorch."""

from __future__ import annotations

from parfocal import v1
from parfocal.runtime.methods.service import Method, Parameters, Service, Work, quick
from parfocal.yolo.parameters import TinyYoloParameters, YoloParameters, YoloPredictionParameters, check_dataset

_CITATION = (
    "Redmon J, Farhadi A. YOLO9000: better, faster, stronger. IEEE Conference on Computer Vision and Pattern "
    "Recognition (CVPR), 6517-6525 (2017). doi:10.1109/CVPR.2017.690"
)
_DATA = """
    Two-dimensional images, grey or with channels or colours, and in each the boxes around its objects, as PASCAL VOC,
    COCO or YOLO files. Every object of a class must have its box: one without counts as background. Fifty objects of
    each class are a beginning; several hundred in twenty or more images give a model that can be trusted.
"""


def _method(name: str, title: str, parameters: type[Parameters], implementation: str, summary: str) -> Method:
    return Method(
        name=name,
        title=title,
        task=v1.TASK_DETECTION,
        summary=summary,
        axes="YX",
        channel_axes="CS",
        target=v1.TARGET_KIND_BOXES,
        work={
            v1.JOB_KIND_TRAINING: Work(parameters, "parfocal.runtime.training.loop:train"),
            v1.JOB_KIND_PREDICTION: Work(YoloPredictionParameters, "parfocal.runtime.prediction.job:predict"),
        },
        data=_DATA,
        minimum_images=2,
        recommended_images=20,
        presets=quick(
            epochs=60,
            patch_size=128,
            patches_per_image=8,
            batch_size=8,
            first_filters=8,
            learning_rate=0.001,
            warmup_epochs=2,
            map_every=5,
            augment_zoom=0,
        ),
        citation=_CITATION,
        licence="BSD-3-Clause",
        documentation=f"docs/methods/{name}.md",
        implementation=f"parfocal.yolo.network:{implementation}",
        validate=check_dataset,
    )


YOLO_V2 = _method(
    "yolo-v2",
    "YOLOv2",
    YoloParameters,
    "YoloV2",
    """
        Finds objects, draws a box around each and tells classes apart, for example cells by their stage. Boxes are
        quickly drawn by hand and are enough to count and to locate; if outlines matter, use StarDist instead. Objects
        much smaller than 32 pixels, or so crowded that several of one size and shape have their centres within 32
        pixels, are found badly: enlarge such images beforehand.
    """,
)
TINY_YOLO_V2 = _method(
    "tiny-yolo-v2",
    "Tiny YOLOv2",
    TinyYoloParameters,
    "TinyYoloV2",
    """
        YOLOv2 with a third of the weights and a quarter of the arithmetic, and less exact. The choice for machines
        without a GPU, for large images, and for objects that are easily told from the background.
    """,
)

SERVICE = Service(name="yolo", methods=(YOLO_V2, TINY_YOLO_V2), packages=("torch", "safetensors"), framework="torch")
