"""Otsu's threshold as the method without learning that a segmentation has to beat."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.filters import threshold_otsu

from parfocal.runtime.errors import InvalidInputError

TargetT = TypeVar("TargetT")
Criterion = Callable[[TargetT, npt.NDArray[Any]], tuple[float, float]]

_SMALLEST_OBJECT: Final = 10
_SIGMAS: Final = (0.0, 1.0, 2.0)


@dataclass(frozen=True)
class OtsuBaseline:
    """Objects by a threshold: smoothing, Otsu's threshold (1979), connected pixels; no learning.

    Attributes
    ----------
    bright
        Whether objects are brighter than their background.
    sigma
        Standard deviation, in pixels, of the Gaussian filter applied before the threshold.
    score
        Value of its criterion on the images it was chosen on.
    images
        Number of images it was chosen on.
    """

    bright: bool
    sigma: float
    score: float
    images: int

    def apply(self, source: npt.NDArray[Any], dimensions: int) -> npt.NDArray[np.int32]:
        """Return a label image of `dimensions` axes; of a source with channels besides the mean is taken."""
        return _otsu_labels(_grey(source, dimensions), bright=self.bright, sigma=self.sigma)

    def describe(self) -> dict[str, Any]:
        """Return what was chosen and how, as plain JSON types."""
        return {
            "name": "Otsu threshold",
            "objects": "bright" if self.bright else "dark",
            "sigma_pixels": self.sigma,
            "chosen_on": "training images",
            "images": self.images,
        }


def choose_otsu(
    pairs: Iterable[tuple[npt.NDArray[Any], TargetT]], criterion: Criterion[TargetT], *, dimensions: int | None = None
) -> OtsuBaseline:
    """Choose polarity and smoothing by a ratio over all images.

    Parameters
    ----------
    pairs
        ``(source, target)``, never test images; taken one by one. Channels of a source are the axis whose length
        differs: the first, or the last of colour images.
    criterion
        Function of target and label image of one image that returns numerator and denominator of the ratio to maximise;
        both are summed over the images, and 0 / 0 counts as 1.
    dimensions
        Number of spatial axes, where targets are no images and do not tell.

    Raises
    ------
    InvalidInputError
        There are no pairs.
    """
    totals: dict[tuple[bool, float], tuple[float, float]] = {}
    images = 0
    for source, target in pairs:
        grey = _grey(source, np.ndim(target) if dimensions is None else dimensions)  # type: ignore[arg-type]
        for bright in (True, False):
            for sigma in _SIGMAS:
                part, whole = criterion(target, _otsu_labels(grey, bright=bright, sigma=sigma))
                before = totals.get((bright, sigma), (0.0, 0.0))
                totals[bright, sigma] = before[0] + part, before[1] + whole
        images += 1
    if not totals:
        raise InvalidInputError("There are no training images to choose a threshold on.")
    ratios = {key: part / whole if whole else 1.0 for key, (part, whole) in totals.items()}
    bright, sigma = max(ratios, key=ratios.__getitem__)
    return OtsuBaseline(bright, sigma, ratios[bright, sigma], images)


def _grey(source: npt.NDArray[Any], dimensions: int) -> npt.NDArray[np.float32]:
    """Return a source without channels, scaled to 0..1: narrow contrast at large grey values would not fit float32."""
    grey = source.astype(np.float64)
    if source.ndim > dimensions:
        grey = grey.mean(axis=-1 if source.shape[-1] in (3, 4) else 0)
    if not np.isfinite(grey).all():
        raise InvalidInputError("An image has pixels that are NaN or infinite. Export it again.")
    low, high = grey.min(), grey.max()
    scaled: npt.NDArray[np.float32] = ((grey - low) / (high - low if high > low else 1)).astype(np.float32)
    return scaled


def _otsu_labels(image: npt.NDArray[np.float32], *, bright: bool, sigma: float) -> npt.NDArray[np.int32]:
    smooth = ndimage.gaussian_filter(image, sigma) if sigma else image
    if smooth.min() == smooth.max():
        return np.zeros(image.shape, np.int32)
    threshold = threshold_otsu(smooth)
    labels, count = ndimage.label(smooth > threshold if bright else smooth <= threshold)
    large = np.bincount(labels.ravel(), minlength=count + 1) >= _SMALLEST_OBJECT
    large[0] = False
    renumbered = np.where(large, np.cumsum(large), 0).astype(np.int32)
    result: npt.NDArray[np.int32] = renumbered[labels]
    return result
