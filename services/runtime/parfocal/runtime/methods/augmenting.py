"""Parameters of augmentation: one mixin for each thing that may be changed of a patch.

Every change has a strength, at which 0 switches it off, and a probability for each patch.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from parfocal.runtime.methods.roles import TrainingBase


def _strength(title: str, description: str, *, most: float, default: float = 0.0) -> Any:
    return Field(
        default=default, ge=0, le=most, title=f"Augment: {title}", description=f"{description} 0 switches it off."
    )


def _probability(title: str, default: float = 0.5) -> Any:
    return Field(
        default=default,
        ge=0,
        le=1,
        title=f"Augment: probability of {title}",
        description="Probability that a patch is changed in this way: 0.5 changes every second patch on average.",
    )


class Flips(TrainingBase):
    """Changes of view that are exact."""

    augment_flip: bool = Field(
        default=True,
        title="Augment by flipping",
        description="Mirror patches at random. Switch it off only if left and right differ in your images.",
    )
    augment_rotate: bool = Field(
        default=True,
        title="Augment by rotating",
        description="Turn patches by 0, 90, 180 or 270 degrees at random.",
    )


class FlipZ(TrainingBase):
    """Volumes turned over."""

    augment_flip_z: bool = Field(
        default=False,
        title="Augment by flipping Z",
        description="Turn volumes over at random, so that their first plane becomes the last. Leave it off if light "
        "comes from one side or the sample lies on glass, because up and down differ then.",
    )


class Warps(TrainingBase):
    """Changes of view that are interpolated, for methods that are not trained on the noise itself."""

    changes: ClassVar[tuple[str, ...]] = ("angle", "zoom", "shear", "shift", "elastic")

    augment_angle: float = _strength(
        "angle [degrees]", "Turn patches by any angle up to this one, in the plane of Y and X.", most=180
    )
    augment_angle_probability: float = _probability("an angle")
    augment_zoom: float = _strength(
        "zoom", "Magnify or reduce patches by up to this fraction: 0.2 means a factor of up to 1.2.", most=1
    )
    augment_zoom_probability: float = _probability("zoom")
    augment_shear: float = _strength("shear [degrees]", "Slant patches by up to this angle.", most=45)
    augment_shear_probability: float = _probability("shear")
    augment_shift: float = _strength(
        "shift",
        "Move patches by up to this fraction of their side length. Patches are cut at random positions anyway; a shift "
        "matters if they are as large as the images.",
        most=0.5,
    )
    augment_shift_probability: float = _probability("a shift")
    augment_elastic: float = _strength(
        "elastic deformation [pixels]",
        "Bend patches by displacements up to this many pixels, at most a 24th of the side length of a patch.",
        most=100,
    )
    augment_elastic_probability: float = _probability("elastic deformation")


class Intensity(TrainingBase):
    """Changes of brightness, contrast, sharpness and noise, for targets that do not depend on them."""

    changes: ClassVar[tuple[str, ...]] = ("scale", "offset", "gamma", "noise", "blur")

    augment_scale: float = _strength(
        "brightness",
        "Multiply or divide intensities by up to 1 plus this number: 1 makes patches up to twice as bright or dark. "
        "Switch it off if objects are told apart by their brightness alone.",
        most=9,
        default=1.0,
    )
    augment_scale_probability: float = _probability("brightness", 1.0)
    augment_offset: float = _strength(
        "offset",
        "Add or subtract up to this fraction of the range between the dark and the bright pixels of an image.",
        most=1,
        default=0.2,
    )
    augment_offset_probability: float = _probability("an offset", 1.0)
    augment_gamma: float = _strength(
        "gamma", "Raise intensities to a power between 1 plus this number and its inverse: changes contrast.", most=4
    )
    augment_gamma_probability: float = _probability("gamma")
    augment_noise: float = _strength(
        "noise",
        "Add noise with a standard deviation of up to this fraction of the range between the dark and the bright "
        "pixels of an image.",
        most=1,
        default=0.02,
    )
    augment_noise_probability: float = _probability("noise", 1.0)
    augment_blur: float = _strength(
        "blur [pixels]", "Blur by a Gaussian with a standard deviation of up to this many pixels.", most=20
    )
    augment_blur_probability: float = _probability("blur")
