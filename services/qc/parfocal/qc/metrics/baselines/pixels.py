"""A classifier of single pixels: what can be had without a deep network where a threshold is too simple."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from parfocal.qc.metrics.objects.confusion import confusion_matrix, mean_over_classes
from parfocal.runtime.errors import InvalidInputError

_SIGMAS: Final = (1.0, 2.0, 4.0)
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

    def apply(self, source: npt.NDArray[Any], dimensions: int) -> npt.NDArray[np.int8]:
        """Return the class of each pixel of an image; channels, if it has more axes than `dimensions`, come first."""
        scores = np.broadcast_to(
            self.offsets.astype(np.float32), (*source.shape[-dimensions:], len(self.offsets))
        ).copy()
        for feature, weight in zip(_features(source, dimensions), self.weights.astype(np.float32), strict=True):
            scores += feature[..., np.newaxis] * weight
        found: npt.NDArray[np.int8] = np.argmax(scores, axis=-1).astype(np.int8)
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
        seen.append(np.stack([feature.ravel()[places] for feature in _features(source, target.ndim)], axis=-1))
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


def _features(source: npt.NDArray[Any], dimensions: int) -> Iterator[npt.NDArray[np.float32]]:
    """Yield images of what is seen around each pixel, of each channel scaled by its own percentiles."""
    for channel in source.reshape(-1, *source.shape[-dimensions:]).astype(np.float64):
        low, high = np.percentile(channel, [2, 99.8])
        image = ((channel - low) / (high - low if high > low else 1)).astype(np.float32)
        yield image
        for sigma in _SIGMAS:
            yield ndimage.gaussian_filter(image, sigma)
            yield ndimage.gaussian_gradient_magnitude(image, sigma)
            yield ndimage.gaussian_laplace(image, sigma)
