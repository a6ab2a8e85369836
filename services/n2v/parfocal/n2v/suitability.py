"""Whether Noise2Void is the right method for images: what of their noise it could not remove."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parfocal.n2v.parameters import STRUCT
from parfocal.runtime.images.compression import blockiness
from parfocal.runtime.images.noise import noise_correlation
from parfocal.runtime.images.saturation import saturation

_MOST_IMAGES: Final = 16
# Side length of the part of an image that is looked at, and planes of a volume.
_MOST_PIXELS: Final = 1024
_MOST_PLANES: Final = 8
# White noise stays below it in images of 64 x 80 pixels. Compression by JPEG gave 1.4 or more at qualities of 50 and
# below, raw images at most 1.1.
_CORRELATED: Final = 0.15
_BLOCKY: Final = 1.25
_AT_CEILING: Final = 0.001
_AT_ZERO: Final = 0.01


@dataclass(frozen=True)
class Suitability:
    """Measurements on the training images: medians over images and channels.

    Attributes
    ----------
    correlation
        By axis ("x", "y"): correlation (-1 to 1) of the noise of pixels at distances of 1, 2, … pixels; empty for
        images that are too small.
    blockiness
        See `parfocal.runtime.images.compression.blockiness`.
    at_ceiling, at_zero
        Means of the fractions of pixels that are saturated or cut off.
    """

    correlation: dict[str, tuple[float, ...]]
    blockiness: float
    at_ceiling: float
    at_zero: float

    @property
    def mask(self) -> tuple[str, int]:
        """Direction and length in pixels of the structN2V mask that covers the correlated noise; ("", 1) for none."""
        reach = {axis: _reach(values) for axis, values in self.correlation.items()}
        direction = "".join(axis for axis in ("x", "y") if reach.get(axis, 0))
        return direction, 1 + 2 * max(reach.values(), default=0)


def measure_suitability(images: Sequence[NDArray[Any]], axes: str) -> Suitability:
    """Return what the noise of images is like; at most 16 of them are looked at.

    Parameters
    ----------
    images
        Grey values, usually memory-mapped.
    axes
        Theirs: Y and X, perhaps Z, and C or S for channels.
    """
    chosen = np.linspace(0, len(images) - 1, min(len(images), _MOST_IMAGES)).round().astype(int)
    parts = [part for number in chosen for part in _parts(images[number], axes)]
    correlation = {}
    for name, axis in (("x", -1), ("y", -2)):
        found = [values for part in parts if (values := noise_correlation(part, axis)) is not None]
        if found:
            correlation[name] = tuple(np.median(found, axis=0).tolist())
    ends = [saturation(part) for part in parts]
    return Suitability(
        correlation,
        float(np.median([blockiness(part) for part in parts])),
        float(np.mean([each.at_ceiling for each in ends])),
        float(np.mean([each.at_zero for each in ends])),
    )


def warnings_of(found: Suitability, variant: str) -> list[str]:
    """Return what a training of a variant should be warned of, in sentences."""
    warnings = []
    direction, length = found.mask
    if direction and variant != STRUCT:
        strengths = " and ".join(
            f"{found.correlation[axis][0]:.2f} between neighbours along {axis.upper()}" for axis in direction
        )
        warnings.append(
            f"The noise of the training images is correlated ({strengths}), as in deconvolved, interpolated or "
            "compressed images. Noise2Void takes such noise for structure and keeps it. Train on raw images of the "
            f"camera if you have them; otherwise try variant structn2v (it would hide {length} pixels along "
            f"{direction}) or n2v2, and judge the result by residual QC. Neither is certain to help."
        )
    if not direction and variant == STRUCT:
        warnings.append(
            "No correlated noise was found in the training images. Variant structn2v is made for such noise only; "
            "variant n2v keeps more detail if the noise of each pixel is independent."
        )
    if found.blockiness > _BLOCKY:
        warnings.append(
            "The training images show the 8 x 8 blocks of JPEG. Noise2Void keeps such artefacts. Export the images "
            "again without lossy compression."
        )
    if found.at_ceiling > _AT_CEILING:
        warnings.append(
            f"{found.at_ceiling:.1%} of the pixels of the training images are saturated. Their brightness is lost and "
            "is not restored. Record with less light or a shorter exposure."
        )
    if found.at_zero > _AT_ZERO:
        warnings.append(
            f"{found.at_zero:.1%} of the pixels of the training images are 0: the camera cut off the darker half of "
            "its noise there, and dark regions come out too bright. Record with a higher offset, and do not subtract "
            "the background before training."
        )
    return warnings


def _reach(values: Sequence[float]) -> int:
    """Return how many pixels further the noise is still correlated, without a gap."""
    return next((lag for lag, value in enumerate(values) if abs(value) < _CORRELATED), len(values))


def _parts(image: NDArray[Any], axes: str) -> list[NDArray[Any]]:
    """Return the middle of each channel, (Y, X) or (Z, Y, X)."""
    channel = next((place for place, axis in enumerate(axes) if axis in "CS"), None)
    channels = [image] if channel is None else list(np.moveaxis(image, channel, 0))
    lengths = [_MOST_PLANES if axis == "Z" else _MOST_PIXELS for axis in axes if axis not in "CS"]
    return [np.asarray(each[_middle(each.shape, lengths)]) for each in channels]


def _middle(shape: Sequence[int], lengths: Sequence[int]) -> tuple[slice, ...]:
    # From a multiple of 8 on, where JPEG's blocks begin.
    starts = (max(0, (length - most) // 2) // 8 * 8 for length, most in zip(shape, lengths, strict=True))
    return tuple(slice(start, start + most) for start, most in zip(starts, lengths, strict=True))
