"""The parameters of YOLOv2; differences from the original are argued in the methods' pages."""

from __future__ import annotations

from pydantic import Field

from parfocal.runtime.errors import InvalidInputError, Violation
from parfocal.runtime.methods.augmenting import Intensity, Warps
from parfocal.runtime.methods.parameters import (
    PredictionParameters,
    TrainingParameters,
    check_patch_fits,
    inherited,
)
from parfocal.runtime.methods.service import Parameters
from parfocal.runtime.store.manifests import DatasetManifest

CELL = 32
"""Side length in pixels of a cell of the grid on which both networks predict."""


class YoloParameters(Intensity, TrainingParameters):
    """Parameters of a YOLOv2 training."""

    classes: str = Field(
        default="",
        max_length=10_000,
        title="Classes",
        description="Which classes of the dataset to find, separated by commas, for example dividing,apoptotic. Boxes "
        "of other classes are then ignored, and the annotations stay as they are. Empty: all.",
    )
    patch_size: int = Field(
        default=416,
        ge=CELL,
        le=4096,
        multiple_of=CELL,
        title="Patch size",
        description="Side length in pixels of the square training patches, cut at full resolution; a multiple of 32, "
        "not larger than your images, and ideally twice as large as your objects.",
    )
    patches_per_image: int = inherited(TrainingParameters, "patches_per_image", default=8)
    learning_rate: float = inherited(TrainingParameters, "learning_rate", default=1e-4)
    validation_fraction: float = inherited(TrainingParameters, "validation_fraction", default=0.2)
    augment_zoom: float = inherited(Warps, "augment_zoom", default=0.1)
    anchors: int = Field(
        default=5,
        ge=1,
        le=20,
        title="Anchors",
        description="Number of typical box sizes (anchors) that the network starts from; they are measured on your "
        "boxes. More anchors help if objects differ much in size and shape.",
    )
    warmup_epochs: int = Field(
        default=3,
        ge=0,
        le=1000,
        title="Warm-up epochs",
        description="Number of epochs at the start in which boxes without an object are pulled to the anchors as well, "
        "which stabilises the first steps. They count as epochs.",
    )
    smallest_box: float = Field(
        default=2.0,
        ge=0,
        le=1000,
        title="Smallest box",
        description="Shortest side, in pixels, of a box that takes part in the training. Smaller boxes are left out, "
        "and a warning names their images.",
    )
    map_every: int = Field(
        default=5,
        ge=1,
        le=10_000,
        title="Score every",
        description="Number of epochs between two measurements of the mean average precision (mAP, 0 to 1: how "
        "completely and exactly objects are found) on the validation images. The weights with the highest mAP are "
        "kept.",
    )
    first_filters: int = Field(
        default=32,
        ge=4,
        le=64,
        title="First filters",
        description="Number of filters (pattern detectors) of the network's first layer; the other layers have "
        "proportionally more. The original has 32. Fewer filters are faster and require less memory.",
    )

    def chosen_classes(self, known: tuple[str, ...]) -> tuple[str, ...]:
        """Return the classes to train on, in the order of the dataset, which knows these.

        Raises
        ------
        InvalidInputError
            A class is not among them.
        """
        asked = [" ".join(name.split()) for name in self.classes.split(",") if name.strip()]
        if wrong := [name for name in asked if name not in known]:
            raise InvalidInputError(
                f"classes: the dataset has no class {', '.join(map(repr, wrong))}; it has {', '.join(known)}.",
                [Violation("classes", f"{name!r} is not a class of the dataset") for name in wrong],
            )
        return tuple(name for name in known if name in asked) if asked else known


class TinyYoloParameters(YoloParameters):
    """Parameters of a Tiny YOLOv2 training."""

    first_filters: int = inherited(
        YoloParameters,
        "first_filters",
        default=16,
        description="Number of filters (pattern detectors) of the network's first layer; the other layers have "
        "proportionally more. The original has 16. Fewer filters are faster and require less memory.",
    )


class YoloPredictionParameters(PredictionParameters):
    """Parameters of a prediction with YOLOv2."""

    weights: str = inherited(
        PredictionParameters,
        "weights",
        description="Which of the saved weights (states of the network) to use. best: those with the highest mean "
        "average precision on the validation images; best-loss: those with the lowest validation loss; last: those of "
        "the last epoch.",
    )
    confidence_threshold: float = Field(
        default=0.3,
        gt=0,
        lt=1,
        title="Confidence threshold",
        description="Lowest confidence, 0 to 1, of a box that is kept: how certain the network is that there is an "
        "object of this class. A lower threshold finds more objects and gives more false positives (boxes without an "
        "object).",
    )
    overlap_threshold: float = Field(
        default=0.3,
        gt=0,
        le=1,
        title="Overlap threshold",
        description="Two boxes of one class are taken for the same object if their common area divided by the area of "
        "both together (intersection over union) reaches this value; the one with the lower confidence is left out. "
        "Raise it if objects overlap.",
    )


def check_dataset(parameters: Parameters, dataset: DatasetManifest) -> None:
    """Raise InvalidInputError if images are smaller than a patch or a class is not in the dataset."""
    assert isinstance(parameters, YoloParameters)
    check_patch_fits(parameters, "YX", dataset, parameters.roles(dataset).source)
    parameters.chosen_classes(dataset.classes)
