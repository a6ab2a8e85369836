"""A classifier of single pixels: what can be had without a deep network where a threshold is too simple."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from parfocal.qc.metrics._arrays import percentiles
from parfocal.qc.metrics.bands import bands
from parfocal.qc.metrics.objects.confusion import confusion_matrix, mean_over_classes
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.scratch import IN_MEMORY, Scratch, release

_SIGMAS: Final = (1.0, 2.0, 4.0)
_TRUNCATED: Final = 4.0
_FROM_EACH_IMAGE: Final = 5000
_RIDGE: Final = 1e-4


@dataclass(frozen=True)
class PixelClassifier:
    """Linear discriminant analysis (Fisher 1936) of what a few filters see around a pixel.

    Attributes
    ----------
    weights, offsets
        (features, classes) and (classes,): the class of a pixel is that with the highest sum. Classes that no training
        image has are never chosen.
    by_frequency
        Whether frequent classes are preferred, as they are in the training images; else all have the same chance.
    score
        Mean IoU of all classes but the background on a sample of the pixels it was fitted to.
    images
        Number of images it was chosen on.
    """

    weights: npt.NDArray[np.float64]
    offsets: npt.NDArray[np.float64]
    by_frequency: bool
    score: float
    images: int

    def apply(self, source: npt.NDArray[Any], dimensions: int, scratch: Scratch = IN_MEMORY) -> npt.NDArray[np.int8]:
        """Return the class of each pixel of an image; channels, if it has more axes than `dimensions`, come first.

        It lies in `scratch`; neither it nor the image need be in memory.
        """
        channels = _Channels(source, dimensions)
        found: npt.NDArray[np.int8] = scratch.zeros(channels.shape, np.int8)
        for band in bands(channels.shape, math.ceil(_TRUNCATED * _SIGMAS[-1])):
            shape = *found[band.rows].shape, len(self.offsets)
            scores = np.broadcast_to(self.offsets.astype(np.float32), shape).copy()
            for feature, weight in zip(channels.features(band.padded), self.weights.astype(np.float32), strict=True):
                scores += feature[band.core][..., np.newaxis] * weight
            found[band.rows] = np.argmax(scores, axis=-1)
            release(source)
            release(found)
        return found

    def describe(self) -> dict[str, Any]:
        """Return what was fitted and to what, as plain JSON types."""
        return {
            "name": "pixel classifier",
            "features": "grey value, and at sigma 1, 2 and 4 px Gaussian, gradient and Laplacian",
            "classes": "by frequency" if self.by_frequency else "of equal chance",
            "chosen_on": "training images",
            "images": self.images,
        }


def fit_pixel_classifier(pairs: Iterable[tuple[npt.NDArray[Any], npt.NDArray[Any]]], classes: int) -> PixelClassifier:
    """Fit the classifier to a sample of the annotated pixels.

    Parameters
    ----------
    pairs
        ``(source, target)``, never test images; channels of a source come first. Targets are indices of classes, below
        0 where they are not known.
    classes
        Number of classes.

    Raises
    ------
    InvalidInputError
        No pixel is annotated.
    """
    seen, known = [], []
    rng = np.random.default_rng(0)
    images = 0
    for source, target in pairs:
        images += 1
        places = np.flatnonzero(target >= 0)
        if len(places) > _FROM_EACH_IMAGE:
            places = rng.choice(places, _FROM_EACH_IMAGE, replace=False)
        seen.append(
            np.stack([feature.ravel()[places] for feature in _Channels(source, target.ndim).features()], axis=-1)
        )
        known.append(target.ravel()[places])
    if not sum(map(len, known)):
        raise InvalidInputError(
            "No pixel of the training images is annotated, so no classifier can be fitted to them. Annotate some of "
            "their pixels, or correct ignore_value."
        )
    features, labels = np.concatenate(seen).astype(np.float64), np.concatenate(known)
    counts = np.bincount(labels, minlength=classes)
    there = counts > 0
    means = np.stack(
        [
            features[labels == number].mean(axis=0) if there[number] else np.zeros(features.shape[1])
            for number in range(classes)
        ]
    )
    centred = features - means[labels]
    spread = centred.T @ centred / len(features)
    spread += _RIDGE * np.eye(len(spread)) * max(float(np.trace(spread)) / len(spread), 1e-12)
    weights = np.linalg.solve(spread, means.T)
    plain = np.where(there, -0.5 * np.einsum("cf,fc->c", means, weights), -np.inf)
    fitted = []
    for by_frequency in (False, True):
        offsets = plain + np.log(np.maximum(counts, 1) / counts.sum()) if by_frequency else plain
        found = np.argmax(features @ weights + offsets, axis=-1)
        score = mean_over_classes(confusion_matrix(labels, found, classes), lambda areas: areas.iou)
        fitted.append(PixelClassifier(weights, offsets, by_frequency, score, images))
    return max(fitted, key=lambda each: each.score)


class _Channels:
    """The channels of an image, each scaled by its own percentiles, and what is seen around their pixels."""

    def __init__(self, source: npt.NDArray[Any], dimensions: int) -> None:
        self.shape = source.shape[-dimensions:]
        single = source.ndim == dimensions
        self._channels = source[np.newaxis] if single else source.reshape(-1, *self.shape)
        self._limits = [percentiles(channel, 2, 99.8) for channel in self._channels]

    def features(self, rows: slice = slice(None)) -> Iterator[npt.NDArray[np.float32]]:
        """Yield images of what is seen around each pixel, of some places along the first axis."""
        for channel, (low, high) in zip(self._channels, self._limits, strict=True):
            grey = channel[rows].astype(np.float64)
            image = ((grey - low) / (high - low if high > low else 1)).astype(np.float32)
            yield image
            for sigma in _SIGMAS:
                yield ndimage.gaussian_filter(image, sigma, truncate=_TRUNCATED)
                yield ndimage.gaussian_gradient_magnitude(image, sigma, truncate=_TRUNCATED)
                yield ndimage.gaussian_laplace(image, sigma, truncate=_TRUNCATED)
