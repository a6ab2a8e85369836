"""Otsu's threshold as the method without learning that a segmentation has to beat."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.filters import threshold_otsu

from parfocal.qc.metrics.bands import bands
from parfocal.qc.metrics.objects.regions import connected_regions, renumber
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.scratch import IN_MEMORY, Scratch, release

TargetT = TypeVar("TargetT")
Criterion = Callable[[TargetT, npt.NDArray[Any]], tuple[float, float]]

_SMALLEST_OBJECT: Final = 10
_SIGMAS: Final = (0.0, 1.0, 2.0)
_TRUNCATED: Final = 4.0
_BINS: Final = 256


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

    def apply(self, source: npt.NDArray[Any], dimensions: int, scratch: Scratch = IN_MEMORY) -> npt.NDArray[np.int32]:
        """Return a label image of `dimensions` axes; of a source with channels besides the mean is taken.

        It lies in `scratch`; neither it nor the source need be in memory.
        """
        return _otsu_labels(_Grey(source, dimensions), bright=self.bright, sigma=self.sigma, scratch=scratch)

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
    pairs: Iterable[tuple[npt.NDArray[Any], TargetT]],
    criterion: Criterion[TargetT],
    *,
    dimensions: int | None = None,
    scratch: Scratch = IN_MEMORY,
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
    scratch
        Where label images lie.

    Raises
    ------
    InvalidInputError
        There are no pairs.
    """
    totals: dict[tuple[bool, float], tuple[float, float]] = {}
    images = 0
    for source, target in pairs:
        grey = _Grey(source, np.ndim(target) if dimensions is None else dimensions)  # type: ignore[arg-type]
        for bright in (True, False):
            for sigma in _SIGMAS:
                part, whole = criterion(target, _otsu_labels(grey, bright=bright, sigma=sigma, scratch=scratch))
                before = totals.get((bright, sigma), (0.0, 0.0))
                totals[bright, sigma] = before[0] + part, before[1] + whole
        images += 1
    if not totals:
        raise InvalidInputError("There are no training images to choose a threshold on.")
    ratios = {key: part / whole if whole else 1.0 for key, (part, whole) in totals.items()}
    bright, sigma = max(ratios, key=ratios.__getitem__)
    return OtsuBaseline(bright, sigma, ratios[bright, sigma], images)


class _Grey:
    """A source without channels, scaled to 0..1: narrow contrast at large grey values would not fit float32.

    It is computed band by band.
    """

    def __init__(self, source: npt.NDArray[Any], dimensions: int) -> None:
        self._source = source
        self._channels: int | None = None
        if source.ndim > dimensions:
            self._channels = source.ndim - 1 if source.shape[-1] in (3, 4) else 0
        self.shape = tuple(length for axis, length in enumerate(source.shape) if axis != self._channels)
        lowest, highest = [], []
        for band in bands(self.shape):
            grey = self._mean(band.rows)
            if not np.isfinite(grey).all():
                raise InvalidInputError("An image has pixels that are NaN or infinite. Export it again.")
            lowest.append(grey.min())
            highest.append(grey.max())
        self._low, self._high = min(lowest), max(highest)

    def rows(self, rows: slice) -> npt.NDArray[np.float32]:
        """Return some places along the first axis."""
        span = self._high - self._low if self._high > self._low else 1
        scaled: npt.NDArray[np.float32] = ((self._mean(rows) - self._low) / span).astype(np.float32)
        return scaled

    def _mean(self, rows: slice) -> npt.NDArray[np.float64]:
        part = self._source[:, rows] if self._channels == 0 else self._source[rows]
        grey: npt.NDArray[np.float64] = part.astype(np.float64)
        release(self._source)
        return grey if self._channels is None else grey.mean(axis=self._channels)


def _otsu_labels(grey: _Grey, *, bright: bool, sigma: float, scratch: Scratch = IN_MEMORY) -> npt.NDArray[np.int32]:
    smooth: npt.NDArray[np.float32] = scratch.zeros(grey.shape, np.float32)
    lowest, highest = np.float32(np.inf), np.float32(-np.inf)
    for band in bands(grey.shape, math.ceil(_TRUNCATED * sigma)):
        padded = grey.rows(band.padded)
        part = ndimage.gaussian_filter(padded, sigma, truncate=_TRUNCATED)[band.core] if sigma else padded
        smooth[band.rows] = part
        lowest, highest = min(lowest, part.min()), max(highest, part.max())
        release(smooth)
    if lowest == highest:
        return scratch.zeros(grey.shape, np.int32)
    counts = np.zeros(_BINS, np.int64)
    for band in bands(grey.shape):
        # The edges of the bins are float32, as the values are.
        found, edges = np.histogram(smooth[band.rows], _BINS, (lowest, highest))  # type: ignore[arg-type]
        counts += found
        release(smooth)
    threshold = threshold_otsu(hist=(counts, (edges[:-1] + edges[1:]) / 2))

    def chosen(rows: slice) -> npt.NDArray[np.bool_]:
        inside: npt.NDArray[np.bool_] = smooth[rows] > threshold if bright else smooth[rows] <= threshold
        release(smooth)
        return inside

    labels, count = connected_regions(grey.shape, chosen, scratch)
    sizes = np.zeros(count + 1, np.int64)
    for band in bands(labels.shape):
        sizes += np.bincount(labels[band.rows].ravel(), minlength=count + 1)
        release(labels)
    large = sizes >= _SMALLEST_OBJECT
    large[0] = False
    renumber(labels, np.where(large, np.cumsum(large), 0).astype(np.int32))
    return labels
