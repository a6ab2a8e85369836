"""The parameters of Cellpose; differences from the original are argued in the methods' pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from parfocal.cellpose.operator_weights import find_weights, licence_of
from parfocal.runtime.methods.augmenting import Flips, FlipZ, Intensity, Warps
from parfocal.runtime.methods.object_checks import check_labels
from parfocal.runtime.methods.parameters import (
    Arithmetic,
    Epochs,
    Foreground,
    Patches,
    PredictionParameters,
    Validation,
    check_patch_fits,
    inherited,
)
from parfocal.runtime.methods.schedule import Schedule
from parfocal.runtime.methods.service import Parameters
from parfocal.runtime.store.manifests import DatasetManifest

DIVISOR = 8
"""Divisor of the side lengths of a tile: the network halves it three times."""
USUAL_THRESHOLDS = {"cell_threshold": 0.0, "flow_threshold": 0.4}
"""Cellpose's own thresholds, by the names they have in a model's facts."""


@dataclass(frozen=True)
class WarmUpAndHalvings(Schedule):
    """A rate that rises over the first epochs, stays, and is halved several times at regular intervals at the end.

    That of Cellpose (`train_seg`), where it is halved ten times over the last 50 or 100 epochs, but for two things: its
    rise begins with a rate of 0 there, so that the first epoch has no effect, and in trainings of up to 100 epochs the
    rate never falls. Here it is halved five times over their second half.
    """

    epochs: int
    peak: float = 0.0

    _WARM: ClassVar[int] = 10

    @classmethod
    def of(cls, peak: float, epochs: int) -> Self:
        """Return the schedule before the first epoch."""
        schedule = cls(peak, epochs, peak)
        return replace(schedule, learning_rate=schedule.rate(0))

    def rate(self, epoch: int) -> float:
        """Return the rate of an epoch, counted from 0."""
        warm = min(self._WARM, self.epochs // 10)
        last = 100 if self.epochs > 300 else 50 if self.epochs > 100 else self.epochs // 2
        if epoch < warm:
            return self.peak * (epoch + 1) / (warm + 1)
        halvings = 10 if self.epochs > 100 else 5
        since = epoch - (self.epochs - last)
        return float(self.peak * 0.5 ** (1 + since * halvings // last)) if since >= 0 and last else self.peak

    def after_epoch(self, epoch: int, metrics: Mapping[str, float]) -> Self:  # noqa: ARG002
        """Return the schedule with the rate of the next epoch."""
        return replace(self, learning_rate=self.rate(epoch))


class CellposeParameters(Intensity, Foreground, Arithmetic, Flips, Validation, Patches, Epochs):
    """Common parameters of Cellpose trainings on images and volumes; the defaults are those for images."""

    epochs: int = inherited(Epochs, "epochs", default=200)
    patch_size: int = Field(
        default=224,
        ge=32,
        le=1024,
        multiple_of=16,
        title="Patch size",
        description="Side length of the square training patches, in pixels; a multiple of 16, and not larger than your "
        "images. A patch should hold several objects.",
    )
    batch_size: int = inherited(Patches, "batch_size", default=8)
    patches_per_image: int = inherited(Patches, "patches_per_image", default=4)
    learning_rate: float = Field(
        default=0.005,
        gt=0,
        le=1,
        title="Learning rate",
        description="How strongly each training step changes the network. The rate rises to this value during the "
        "first epochs and is halved several times in the last ones.",
    )
    weight_decay: float = Field(
        default=1e-5,
        ge=0,
        le=1,
        title="Weight decay",
        description="How strongly large weights (numbers inside the network) are reduced in each training step "
        "(AdamW), which makes the network simpler and keeps it from memorising the training images.",
    )
    augment_scale: float = inherited(Intensity, "augment_scale", default=0.5)
    augment_scale_probability: float = inherited(Intensity, "augment_scale_probability", default=0.5)
    diameter: float = Field(
        default=0.0,
        ge=0,
        le=10_000,
        title="Diameter [pixels]",
        description="Diameter of a typical object in the training images. 0 measures it on the label images: the "
        "diameter of a disc with the median area of the objects.",
    )
    mean_diameter: float = Field(
        default=30.0,
        ge=5,
        le=200,
        title="Mean diameter [pixels]",
        description="Diameter to which a typical object is scaled before the network sees it: 30 for cells, as in "
        "Cellpose, whose published models for nuclei use 17.",
    )
    first_filters: int = Field(
        default=32,
        ge=2,
        le=128,
        title="First filters",
        description="Number of filters (pattern detectors) of the network's first level, doubled at each of the three "
        "further levels. Only networks with 32 can be opened in Cellpose itself; fewer filters are faster and tell "
        "fewer differences apart.",
    )
    initial_weights: str = Field(
        default="",
        max_length=128,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$|^$",
        title="Initial weights",
        description="Name of a file of Cellpose weights (the state of a trained network, versions 1 to 3) that the "
        "operator of this installation has provided, for example cyto3. Mind its licence, which is shown and recorded: "
        "the published weights must not be used commercially. Empty: training starts from random weights.",
    )

    def schedule(self) -> Schedule:
        """Return the schedule."""
        return WarmUpAndHalvings.of(self.learning_rate, self.epochs)


class Cellpose2DParameters(Warps, CellposeParameters):
    """Parameters of a Cellpose 2D training."""

    augment_angle: float = inherited(Warps, "augment_angle", default=180)
    augment_angle_probability: float = inherited(Warps, "augment_angle_probability", default=1.0)
    augment_zoom: float = inherited(Warps, "augment_zoom", default=0.25)
    augment_zoom_probability: float = inherited(Warps, "augment_zoom_probability", default=1.0)


class Cellpose3DParameters(FlipZ, CellposeParameters):
    """Parameters of a Cellpose 3D training."""

    patch_size: int = Field(
        default=128,
        ge=32,
        le=1024,
        multiple_of=16,
        title="Patch size",
        description="Side length of the square planes that the network is trained on, in pixels; a multiple of 16, not "
        "larger than your volumes in Y and X.",
    )
    patch_depth: int = Field(
        default=16,
        ge=1,
        le=512,
        title="Patch depth",
        description="Number of planes of the block from which one plane of each orientation (YX, ZY and ZX) is cut; "
        "not more than your volumes have.",
    )
    batch_size: int = inherited(
        Patches,
        "batch_size",
        default=4,
        description="Number of blocks in one training step; each gives three planes. Fewer blocks require less memory.",
    )
    patches_per_image: int = inherited(
        Patches,
        "patches_per_image",
        default=16,
        description="Number of blocks cut from each volume in every epoch, at random positions that change from epoch "
        "to epoch.",
    )
    anisotropy: float = Field(
        default=0.0,
        ge=0,
        le=100,
        title="Anisotropy",
        description="Distance between planes divided by the size of a pixel in Y and X. 0 takes it from the pixel size "
        "of the images, or 1 if that is unknown.",
    )


class CellposePredictionParameters(PredictionParameters):
    """Parameters of a prediction with a Cellpose model."""

    diameter: float = Field(
        default=0.0,
        ge=0,
        le=10_000,
        title="Diameter [pixels]",
        description="Diameter of a typical object in the images to be predicted, where it differs from the training "
        "images, for example because of another magnification. 0 takes that of the training images.",
    )
    cell_threshold: float | None = Field(
        default=None,
        ge=-10,
        le=10,
        title="Cell threshold",
        description="Lowest output of the network (a logit: 0 is a probability of one half, -6 to 6 is nearly 0 to 1) "
        "at which a pixel belongs to an object. A lower threshold finds more and larger objects. Not set: the "
        "threshold that gave the best result on the model's validation images.",
    )
    flow_threshold: float | None = Field(
        default=None,
        ge=0,
        le=10,
        title="Flow threshold",
        description="Objects are discarded if their predicted flows (arrows that point to the centre of the object) "
        "differ by more than this from the flows that an object of their shape should have (mean squared difference). "
        "A higher threshold keeps more objects, 0 keeps all. Not set: the threshold that gave the best result on the "
        "model's validation images.",
    )
    minimum_size: int = Field(
        default=15,
        ge=0,
        le=10_000_000,
        title="Minimum size [pixels]",
        description="Objects with fewer pixels are discarded.",
    )
    largest_fraction: float = Field(
        default=0.4,
        gt=0,
        le=1,
        title="Largest fraction",
        description="Objects that cover more than this fraction of the image are discarded, as in Cellpose. 1 keeps "
        "all.",
    )


class Cellpose3DPredictionParameters(CellposePredictionParameters):
    """Parameters of a prediction of volumes."""

    assembly: Literal["orthogonal", "stitched"] = Field(
        default="orthogonal",
        title="Assembly",
        description="How the objects of a volume are assembled from planes. orthogonal: the network sees planes of all "
        "three orientations, and their flows in three dimensions give the objects; flow_threshold is ignored. "
        "stitched: objects are found in each YX plane and joined where those of neighbouring planes overlap; this is "
        "faster and suits few planes that are far apart.",
    )
    stitch_threshold: float = Field(
        default=0.25,
        gt=0,
        le=1,
        title="Stitch threshold",
        description="For stitched volumes: objects of neighbouring planes are joined where their overlap divided by "
        "their union (IoU) is at least this.",
    )
    anisotropy: float = Field(
        default=0.0,
        ge=0,
        le=100,
        title="Anisotropy",
        description="Distance between planes divided by the size of a pixel in Y and X. 0 takes it from the pixel size "
        "of the volume, or of the training volumes if that is unknown.",
    )


def check_dataset(parameters: Parameters, dataset: DatasetManifest) -> None:
    """Raise InvalidInputError if patches do not fit, targets cannot be labels, or the initial weights are missing."""
    assert isinstance(parameters, CellposeParameters)
    check_labels(parameters, dataset)
    check_patch_fits(parameters, "ZYX" if isinstance(parameters, Cellpose3DParameters) else "YX", dataset)
    if parameters.initial_weights:
        find_weights(parameters.initial_weights)


def advise(parameters: Parameters, dataset: DatasetManifest) -> list[str]:  # noqa: ARG001
    """Return the licence of the initial weights, so that it is known before they are used."""
    assert isinstance(parameters, CellposeParameters)
    name = parameters.initial_weights
    return [f"The training starts from the weights {name!r}. {licence_of(find_weights(name))}"] if name else []


def usual_thresholds(measured: Mapping[str, Any]) -> dict[str, float]:
    """Return the thresholds of a model, Cellpose's own where none were chosen."""
    return {name: float(measured.get(name, usual)) for name, usual in USUAL_THRESHOLDS.items()}
