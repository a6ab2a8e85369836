"""Scores of translated images without pairs, of one image and of whole sets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.correlation import pearson_of
from parfocal.runtime.images.distribution import RealImages
from parfocal.runtime.images.files import Image
from parfocal.runtime.images.pixel_values import count_unusable

MOST_COMPARED: Final = 32
"""Images of a set that are compared, drawn at random where there are more: time and memory stay bounded."""
_SMALLEST_SIDE: Final = 16
# Patches drawn of an image that is compared alone: a quarter of those of sets, and of their time.
_PATCHES_OF_ONE: Final = 32
_QUANTILES: Final = np.linspace(0.05, 99.95, 1000)
_RANGE: Final = (0.1, 99.9)


@dataclass(frozen=True)
class Sets:
    """Distances of whole sets from the real images of the training.

    Attributes
    ----------
    real, baseline, prediction
        Distances of other real images, of inputs with matched intensities, and of predictions.
    images
        Number of images in each set.
    reference
        Number of the real images that they are compared with.
    """

    real: float
    baseline: float
    prediction: float
    images: int
    reference: int

    @property
    def gap_closed(self) -> float:
        """How far predictions have come from the baseline, 0, to real images, 1; NaN where there is no way to go."""
        way = self.baseline - self.real
        return (self.baseline - self.prediction) / way if way > 0 else float("nan")

    def describe(self) -> dict[str, Any]:
        """Return everything as plain JSON types; without `gap_closed` where it is NaN."""
        gap = self.gap_closed
        return {**asdict(self), **({} if np.isnan(gap) else {"gap_closed": gap})}


def channels_last(image: Image, name: str) -> NDArray[Any]:
    """Return an image as (Y, X, channels).

    Raises
    ------
    InvalidInputError
        It is a stack, smaller than 16 pixels, or has values that are not finite.
    """
    letter = next((axis for axis in image.axes if axis in "CS"), "")
    if image.axes.replace(letter, "") != "YX":
        raise InvalidInputError(
            f"{name} has the axes {image.axes}: without pairs, only single images (YX), in colour or with channels, "
            "can be judged. Save each plane as an image of its own."
        )
    pixels = np.moveaxis(image.pixels, image.axes.index(letter), -1) if letter else image.pixels[..., np.newaxis]
    if min(pixels.shape[:2]) < _SMALLEST_SIDE:
        raise InvalidInputError(f"{name} is smaller than {_SMALLEST_SIDE} pixels. Judge larger images.")
    if count_unusable(pixels):
        raise InvalidInputError(f"{name} has values that are NaN, infinite or too large to compute with.")
    return pixels


class Real:
    """The real images of one kind, and how far others are from them.

    Parameters
    ----------
    images
        (Y, X, channels), of the training.
    smallest
        Length in pixels of the shortest side of all images that will be compared.
    """

    def __init__(self, images: Sequence[NDArray[Any]], smallest: int) -> None:
        self.count = len(images)
        self.channels = images[0].shape[2]
        self._images = RealImages(images, smallest=smallest)
        self._intensities = np.mean([_intensities(image) for image in images], axis=0)
        low, high = np.mean([np.percentile(image, _RANGE, axis=(0, 1)) for image in images], axis=0)
        self._range = np.where(high > low, high - low, 1.0)

    def score(self, image: NDArray[Any]) -> dict[str, float]:
        """Return the distances of one image (Y, X, channels), by metric."""
        difference = np.abs(_intensities(image) - self._intensities) / self._range
        distance = self._images.distance([image], _PATCHES_OF_ONE)
        return {"distance": distance, "intensity_distance": float(difference.mean())}

    def distance(self, images: Iterable[NDArray[Any]]) -> float:
        """Return the distance of a set of images, which are taken one by one."""
        return self._images.distance(images)


def score_cycle(source: NDArray[Any], back: NDArray[Any], name: str) -> dict[str, float]:
    """Return how well an image turned into the other kind and back agrees with what it was, by metric.

    The error is the mean absolute difference in parts of the range of the image, between its 0.1 and 99.9 percentiles.
    """
    if source.shape != back.shape:
        raise InvalidInputError(f"{name} (turned back) has the shape {back.shape}, and the input {source.shape}.")
    low, high = np.percentile(source, _RANGE)
    error = float(np.mean(np.abs(source.astype(np.float64) - back)))
    values = {"cycle_error": error / (high - low)} if high > low else {}
    correlation = pearson_of([(source, back)])
    return values if np.isnan(correlation) else values | {"cycle_correlation": correlation}


def drawn(count: int, most: int = MOST_COMPARED) -> Iterator[int]:
    """Yield which of so many images are compared: all, or some at random, always the same, in their order."""
    if count <= most:
        yield from range(count)
    else:
        yield from sorted(np.random.default_rng(0).choice(count, most, replace=False).tolist())


def _intensities(image: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(np.percentile(image, _QUANTILES, axis=(0, 1)))
