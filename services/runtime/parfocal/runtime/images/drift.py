"""Whether an image resembles those that a model was trained on: a model is only as good as its check on such images.

Absolute grey values are no matter, because every image is normalised by itself. What is compared is what a network
sees besides: how noisy the image is, how its grey values are spread between dark and bright, and how large its pixels
are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from parfocal.runtime.images.files import PixelSize
from parfocal.runtime.images.noise import noise_sigma

_LARGEST_SIDE: Final = 1024
# Span of these percentiles in a normal distribution with standard deviation 1.
_SPAN_OF_NORMAL: Final = 4.932
_MOST_CONTRAST: Final = 1e4

# How far beyond the training images an image may lie. Noise is compared as a ratio: twice the noise of the noisiest
# training image is what half the exposure gives, about as much as settings vary unnoticed. Levels lie between 0 and 1.
_NOISE_FACTOR: Final = 2.0
_LEVEL_MARGIN: Final = 0.15
_PIXEL_SIZE_FACTOR: Final = 1.25
# Of fewer images the range of levels says nothing: fields of one sample differ more than their noise does.
_FEWEST_FOR_LEVELS: Final = 3


class ImageStatistics(BaseModel):
    """What one image, or the range over several, looks like besides its grey values.

    Attributes
    ----------
    contrast_to_noise
        The span from the 2nd to the 99.8th percentile, less in squares what noise alone would span, in standard
        deviations of the noise: 0 for noise without structure, at most 10000, for an image without noise.
    median_level, bright_level
        Where the median and the 90th percentile lie between the 2nd (0) and the 99.8th percentile (1).
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    contrast_to_noise: float
    median_level: float
    bright_level: float


class TrainingStatistics(BaseModel):
    """The smallest and the largest value of each statistic over the training images, and how many these are."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    images: int
    lowest: ImageStatistics
    highest: ImageStatistics


def image_statistics(pixels: NDArray[Any]) -> ImageStatistics | None:
    """Return the statistics of an image, or None if it has no contrast.

    Parameters
    ----------
    pixels
        Grey values, (…, Y, X) or (Y, X, colours); finite. Of planes and channels the middle one is looked at,
        of a large image the centre.
    """
    if pixels.ndim > 2 and pixels.shape[-1] in (3, 4):
        pixels = pixels[..., 1]
    while pixels.ndim > 2:
        pixels = pixels[pixels.shape[0] // 2]
    window = tuple(
        slice(max(0, (length - _LARGEST_SIDE) // 2), max(0, (length - _LARGEST_SIDE) // 2) + _LARGEST_SIDE)
        for length in pixels.shape
    )
    plane = pixels[window].astype(np.float64)
    low, median, bright, top = np.percentile(plane, (2, 50, 90, 99.8))
    if not top > low:
        return None
    noise = noise_sigma(plane) if min(plane.shape) >= 3 else 0.0
    signal = math.sqrt(max(0.0, (top - low) ** 2 - (_SPAN_OF_NORMAL * noise) ** 2))
    contrast = signal / noise if noise > 0 else _MOST_CONTRAST
    return ImageStatistics(
        contrast_to_noise=float(min(contrast, _MOST_CONTRAST)),
        median_level=float((median - low) / (top - low)),
        bright_level=float((bright - low) / (top - low)),
    )


def training_statistics(images: Sequence[NDArray[Any]]) -> TrainingStatistics | None:
    """Return the range of the statistics over the training images; None where none of them has contrast."""
    found = [values.model_dump() for values in map(image_statistics, images) if values is not None]
    if not found:
        return None
    lowest = {name: min(values[name] for values in found) for name in ImageStatistics.model_fields}
    highest = {name: max(values[name] for values in found) for name in ImageStatistics.model_fields}
    return TrainingStatistics(images=len(found), lowest=ImageStatistics(**lowest), highest=ImageStatistics(**highest))


def find_small(lengths: Sequence[int], patch: Sequence[int]) -> list[str]:
    """Return that an image is smaller than the patches of the training, as a part of a sentence; nothing if not.

    Such an image is padded by its own reflection, which no training image ever was.

    Parameters
    ----------
    lengths, patch
        Pixels of the image and of a training patch along the method's axes.
    """
    if all(length >= least for length, least in zip(lengths, patch, strict=True)):
        return []
    size, trained = ("x".join(map(str, each)) for each in (lengths, patch))
    return [f"it is smaller ({size} pixels) than the patches the model was trained on ({trained})"]


def find_drift(
    pixels: NDArray[Any],
    pixel_size: PixelSize | None,
    training: TrainingStatistics | None,
    training_pixel_size: Sequence[float | None] | None,
    axes: str = "YX",
) -> list[str]:
    """Return how an image differs from all training images, as parts of a sentence; nothing where it resembles them.

    Parameters
    ----------
    pixels, pixel_size
        Of the image; see `image_statistics`.
    training
        Of the model's training images; None where it was not recorded, which leaves only the pixel size.
    training_pixel_size
        Distance of the pixels along X, Y and Z in micrometres, None where unknown.
    axes
        Axes of one image of the method: the distance of planes counts where it sees several of them.
    """
    drift = _scale_drift(pixel_size, training_pixel_size or (None, None, None), axes)
    values = image_statistics(pixels)
    if training is None or values is None:
        return drift
    lowest, highest = training.lowest, training.highest
    contrast = values.contrast_to_noise
    low, high = lowest.contrast_to_noise, highest.contrast_to_noise
    seen = f"contrast to noise {contrast:.3g}, in training {low:.3g} to {high:.3g}"
    if contrast * _NOISE_FACTOR < low:
        drift.append(f"it is noisier than any training image ({seen})")
    elif contrast > _NOISE_FACTOR * high:
        drift.append(f"it is less noisy than any training image ({seen})")
    for name, what in (("median_level", "median"), ("bright_level", "90th percentile")):
        if training.images < _FEWEST_FOR_LEVELS:
            break
        level, low, high = (float(getattr(each, name)) for each in (values, lowest, highest))
        if not low - _LEVEL_MARGIN <= level <= high + _LEVEL_MARGIN:
            drift.append(
                f"its grey values are spread otherwise ({what} at {level:.2f} between dark and bright, in training "
                f"{low:.2f} to {high:.2f})"
            )
            break
    return drift


def _scale_drift(pixel_size: PixelSize | None, training: Sequence[float | None], axes: str) -> list[str]:
    """Return along which axes the distance of pixels is another one than in training."""
    if pixel_size is None:
        return []
    drift: list[str] = []
    told: set[float] = set()
    for axis, length, trained, what in zip(
        "XYZ",
        (pixel_size.x, pixel_size.y, pixel_size.z),
        training,
        ("pixels are {} µm wide, those", "pixels are {} µm high, those", "planes are {} µm apart, those"),
        strict=True,
    ):
        if axis not in axes or not length or not trained:
            continue
        ratio = length / trained
        if 1 / _PIXEL_SIZE_FACTOR <= ratio <= _PIXEL_SIZE_FACTOR or (axis == "Y" and round(ratio, 2) in told):
            continue
        told.add(round(ratio, 2))
        size = f"{ratio:.2g} times smaller" if ratio > 1 else f"{1 / ratio:.2g} times larger"
        along = "" if axis == "X" else f" along {axis}"
        drift.append(
            f"its {what.format(f'{length:.3g}')} of the training images {trained:.3g} µm, so that everything looks "
            f"{size}{along} to the model"
        )
    return drift
