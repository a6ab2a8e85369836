"""The parameters of Deep-STORM; differences from the publication and the notebook are argued in the method's page."""

from __future__ import annotations

from pydantic import Field, field_validator

from parfocal.runtime.errors import InvalidInputError, Violation
from parfocal.runtime.methods.augmenting import Flips
from parfocal.runtime.methods.parameters import (
    Arithmetic,
    Epochs,
    Patches,
    PlateauRate,
    PredictionParameters,
    Validation,
    check_patch_fits,
    inherited,
)
from parfocal.runtime.methods.service import Parameters
from parfocal.runtime.store.manifests import DatasetManifest

_DIVISOR = 8


class _NetworkParameters(Arithmetic, PlateauRate, Patches, Epochs):
    """Common parameters of trainings on localisations and on simulated frames."""

    patch_size: int = Field(
        default=26,
        ge=8,
        le=512,
        title="Patch size",
        description="Side length of the square training patches, in pixels of the camera; not larger than your frames. "
        "Its product with the upsampling must be a multiple of 8.",
    )
    patches_per_epoch: int = Field(
        default=6400,
        ge=1,
        le=1_000_000,
        title="Patches per epoch",
        description="Number of patches in one epoch, after which the error on the validation frames is measured.",
    )
    learning_rate: float = inherited(PlateauRate, "learning_rate", default=1e-3)
    plateau_patience: int = inherited(PlateauRate, "plateau_patience", default=5)
    plateau_factor: float = inherited(PlateauRate, "plateau_factor", default=0.1)
    upsampling: int = Field(
        default=8,
        ge=1,
        le=16,
        title="Upsampling",
        description="Number of pixels of the super-resolved image along the side of a camera pixel: 8 turns pixels of "
        "100 nm into pixels of 12.5 nm. Time and memory grow with its square.",
    )
    first_filters: int = Field(
        default=32,
        ge=2,
        le=256,
        title="First filters",
        description="Number of filters (pattern detectors) of the network's first stage. 32 is the published network; "
        "fewer filters are faster and separate fewer emitters.",
    )


class DeepStormParameters(Flips, Validation, _NetworkParameters):
    """Parameters of a training on frames with localisations."""

    validation_fraction: float = inherited(
        Validation,
        "validation_fraction",
        default=0.2,
        description="Fraction of the data that is held out to measure progress (the validation set): whole stacks, or "
        "the last frames of each stack if there are only few stacks.",
    )
    patches_per_image: int = Field(
        default=500,
        ge=1,
        le=100_000,
        title="Patches per frame",
        description="Number of patches cut from each frame in every epoch, at random positions that change from epoch "
        "to epoch; fewer if that would be more than the patches per epoch.",
    )


class SimulationParameters(_NetworkParameters):
    """Parameters of a training on simulated frames that resemble the user's stacks."""

    pixel_size_nm: float = Field(
        default=0,
        ge=0,
        le=10_000,
        title="Pixel size (nm)",
        description="Side length of a camera pixel in the sample, in nanometres. 0: taken from the stacks.",
    )
    psf_sigma_nm: float = Field(
        default=0,
        ge=0,
        le=10_000,
        title="Spot width (nm)",
        description="Standard deviation of the image of one emitter (the point spread function), about its full width "
        "at half maximum divided by 2.35. 0: estimated from your stacks.",
    )
    psf_sigma_spread_nm: float = Field(
        default=5,
        ge=0,
        le=1000,
        title="Spread of the spot width (nm)",
        description="Standard deviation of the spot width from emitter to emitter.",
    )
    photons: float = Field(
        default=0,
        ge=0,
        le=1e7,
        title="Photons",
        description="Mean number of photons that one emitter sends to the camera in one frame. 0: estimated from your "
        "stacks.",
    )
    photons_spread: float = Field(
        default=0.2,
        ge=0,
        le=2,
        title="Spread of the photons",
        description="Standard deviation of the number of photons from emitter to emitter, as a fraction of its mean.",
    )
    density: float = Field(
        default=0,
        ge=0,
        le=1000,
        title="Density (1/µm²)",
        description="Mean number of emitters in a square micrometre of one frame. 0: estimated from your stacks.",
    )
    density_spread: float = Field(
        default=0.7,
        ge=0,
        le=1,
        title="Spread of the density",
        description="Largest deviation of a patch's density from the mean, as a fraction of the mean: real structures "
        "are crowded in some places and sparse in others.",
    )
    adc_per_photon: float = Field(
        default=0,
        ge=0,
        le=1e6,
        title="Grey values per photon",
        description="Gain of the camera: by how many grey values one photon raises a pixel. 0: estimated from your "
        "stacks.",
    )
    read_noise: float = Field(
        default=0,
        ge=0,
        le=1e5,
        title="Background noise",
        description="Standard deviation of the grey values where no emitter is active. 0: estimated from your stacks.",
    )
    offset: float = Field(
        default=0,
        ge=0,
        le=65535,
        title="Background",
        description="Mean grey value where no emitter is active: offset of the camera and background light together. "
        "0: estimated from your stacks.",
    )


class DeepStormPredictionParameters(PredictionParameters):
    """Parameters of a prediction with a Deep-STORM model."""

    threshold: float = Field(
        default=0,
        ge=0,
        le=2,
        title="Threshold",
        description="Lowest confidence of a localisation that is kept, where 1 is an emitter that the network is sure "
        "of. 0: the threshold that gave the best result on the model's validation frames.",
    )
    neighbourhood: int = Field(
        default=3,
        ge=3,
        le=31,
        title="Neighbourhood",
        description="Side length, in pixels of the super-resolved image, of the square in which at most one emitter is "
        "located. An odd number.",
    )

    @field_validator("neighbourhood")
    @classmethod
    def _odd(cls, value: int) -> int:
        if not value % 2:
            raise ValueError("must be odd")
        return value

    centroid: bool = Field(
        default=True,
        title="Centre of gravity",
        description="Locate emitters at the centre of gravity of 3 x 3 pixels of the super-resolved image. If this is "
        "off, they are located at the centre of the brightest pixel.",
    )
    drift_correction: bool = Field(
        default=False,
        title="Drift correction",
        description="Measure how the sample moved during the recording by comparing parts of the stack "
        "(cross-correlation), and correct the image and the localisations.",
    )
    drift_segments: int = Field(
        default=10,
        ge=2,
        le=100,
        title="Drift segments",
        description="Number of parts of equal length into which the stack is divided to measure the drift. More parts "
        "follow faster movements and require enough localisations in each part.",
    )


def check_dataset(parameters: Parameters, dataset: DatasetManifest) -> None:
    """Raise InvalidInputError if a patch does not suit the network or is larger than a frame."""
    assert isinstance(parameters, _NetworkParameters)
    if parameters.patch_size * parameters.upsampling % _DIVISOR:
        raise InvalidInputError(
            f"patch_size {parameters.patch_size} times upsampling {parameters.upsampling} is not a multiple of "
            f"{_DIVISOR}, as the network requires. Change one of them.",
            [Violation("patch_size", f"its product with upsampling must be a multiple of {_DIVISOR}")],
        )
    check_patch_fits(parameters, "YX", dataset, "source")
