"""The parameters of pix2pix and CycleGAN; the defaults are those of the publications' code."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from parfocal.runtime.methods.augmenting import Flips, Warps
from parfocal.runtime.methods.parameters import (
    Arithmetic,
    Epochs,
    ImagePredictionParameters,
    LinearDecayRate,
    Patches,
    Validation,
    check_patch_fits,
    inherited,
)
from parfocal.runtime.methods.service import Parameters
from parfocal.runtime.store.manifests import DatasetManifest


class GanParameters(Arithmetic, Warps, Flips, LinearDecayRate, Validation, Patches, Epochs):
    """Common parameters of trainings of both methods."""

    epochs: int = inherited(
        Epochs,
        "epochs",
        default=200,
        description="How many times the training goes through all images. The losses (training errors) of these "
        "networks do not fall steadily: judge by the scores and by looking at images.",
    )
    patch_size: int = Field(
        default=256,
        ge=32,
        le=2048,
        multiple_of=4,
        title="Patch size",
        description="Side length of the square training patches, in pixels; not larger than your images.",
    )
    batch_size: int = inherited(
        Patches,
        "batch_size",
        default=1,
        description="Number of patches in one training step. The publications use 1; more patches make training "
        "steadier and require more memory.",
    )
    patches_per_image: int = inherited(Patches, "patches_per_image", default=16)
    augment_flip: bool = inherited(
        Flips,
        "augment_flip",
        description="Mirror patches at random. Switch it off for oblique illumination and differential interference "
        "contrast, whose shadows have a direction.",
    )
    augment_rotate: bool = inherited(Flips, "augment_rotate", default=False)
    first_filters: int = Field(
        default=64,
        ge=4,
        le=256,
        title="First filters",
        description="Number of filters (pattern detectors) of the first level of each network; deeper levels have up "
        "to eight times as many. More filters can show finer detail and are slower.",
    )
    score_every: int = Field(
        default=5,
        ge=1,
        le=100_000,
        title="Score every",
        description="Number of epochs between two scorings of the whole validation images. The weights of the best "
        "scored epoch are kept, and those of the last epoch.",
    )


class Pix2PixParameters(GanParameters):
    """Parameters of a pix2pix training."""

    patch_size: int = inherited(
        GanParameters,
        "patch_size",
        description="Side length of the square training patches, in pixels; a multiple of 2 to the power of "
        "network_depth (256 for 8), not larger than your images.",
    )
    network_depth: int = Field(
        default=8,
        ge=3,
        le=8,
        title="Network depth",
        description="How many times the network (a U-Net) halves the image. A deeper network takes more of the "
        "surroundings into account and requires larger patches.",
    )
    l1_weight: float = Field(
        default=100.0,
        ge=0,
        le=1e6,
        title="Weight of the difference",
        description="How much the mean absolute difference from the target (L1) counts beside the judgement of the "
        "discriminator, the network that tells generated from real images. A lower weight gives sharper images with "
        "more detail that is not real.",
    )


class CycleGanParameters(GanParameters):
    """Parameters of a CycleGAN training."""

    residual_blocks: int = Field(
        default=9,
        ge=1,
        le=32,
        title="Residual blocks",
        description="Number of blocks in the middle of both generators (the networks that generate images). More "
        "blocks can change more and are slower. The publication uses 9 for patches of 256 pixels and 6 for smaller "
        "ones.",
    )
    cycle_weight: float = Field(
        default=10.0,
        ge=0,
        le=1e6,
        title="Weight of the cycle",
        description="How much it counts that an image is the same again after it was turned into the other kind and "
        "back. A higher weight keeps more of the content.",
    )
    identity_weight: float = Field(
        default=0.5,
        ge=0,
        le=1e3,
        title="Weight of the identity",
        description="How much it counts, as a fraction of the weight of the cycle, that an image that already is of "
        "the target kind stays as it is. It keeps brightness and colours; it is ignored if the two kinds have "
        "different numbers of channels.",
    )
    pool_size: int = Field(
        default=50,
        ge=0,
        le=1000,
        title="Image pool",
        description="Number of earlier generated images of each kind that the discriminators (the networks that tell "
        "generated from real images) are shown again, which keeps the training from oscillating; 0: none.",
    )


class Pix2PixPredictionParameters(ImagePredictionParameters):
    """Parameters of a prediction with a pix2pix model."""

    dropout: bool = Field(
        default=False,
        title="Dropout as published",
        description="Predict as the publication's code does: a random half of some features inside the network is left "
        "out (dropout), and features are normalised by the statistics of each tile. Whatever differs from seed to seed "
        "is not determined by your image. If this is off, a prediction has no random part.",
    )
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**31,
        title="Seed",
        description="Number from which the random choices of dropout follow; the same seed gives the same prediction. "
        "It is ignored without dropout.",
    )


class CycleGanPredictionParameters(ImagePredictionParameters):
    """Parameters of a prediction with a CycleGAN model."""

    direction: Literal["source-to-target", "target-to-source"] = Field(
        default="source-to-target",
        title="Direction",
        description="Which kind of image is turned into which. A CycleGAN is trained on both directions at once.",
    )

    turned_back: bool = Field(
        default=False,
        title="Turn back as well",
        description="Also turn the prediction back into the original kind, as a further image. Where it differs from "
        "your image, content was lost; where it agrees, this does not prove that the prediction is right.",
    )

    @property
    def backwards(self) -> bool:
        """Whether images of the target kind are turned into images of the source kind."""
        return self.direction == "target-to-source"


def check_pix2pix(parameters: Parameters, dataset: DatasetManifest) -> None:
    """Raise InvalidInputError if the patches do not fit the images or the network."""
    assert isinstance(parameters, Pix2PixParameters)
    depth = parameters.network_depth
    check_patch_fits(parameters, "YX", dataset, divisor=(2**depth,) * 2, because=f"network_depth {depth}")


def check_cyclegan(parameters: Parameters, dataset: DatasetManifest) -> None:
    """Raise InvalidInputError if an image of either kind is smaller than a patch."""
    assert isinstance(parameters, CycleGanParameters)
    for role in ("source", "target"):
        check_patch_fits(parameters, "YX", dataset, role)
