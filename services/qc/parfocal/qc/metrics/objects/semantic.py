"""Metrics of semantic segmentation: foreground against background, pixel by pixel, and along the outlines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from parfocal.qc.metrics.bands import bands, blocks
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.pixel_values import value_range
from parfocal.runtime.images.scratch import release

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Areas:
    """Numbers of pixels of one image, or summed over several.

    Ratios are 1 if there is no foreground and none was predicted.

    Attributes
    ----------
    tp, fp, fn
        True positive, false positive and false negative pixels of the foreground.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __add__(self, other: Areas) -> Areas:
        return Areas(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def iou(self) -> float:
        """Intersection over union: tp / (tp + fp + fn) (Jaccard 1912)."""
        return self._ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def dice(self) -> float:
        """Dice coefficient: 2 tp / (2 tp + fp + fn) (Dice 1945); also called F1 of the pixels."""
        return self._ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def precision(self) -> float:
        """Part of the predicted foreground that is foreground: tp / (tp + fp); 1 where none was predicted or is."""
        return self._ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Part of the foreground that was predicted: tp / (tp + fn)."""
        return self._ratio(self.tp, self.tp + self.fn)

    def _ratio(self, part: int, whole: int) -> float:
        if whole:
            return part / whole
        return 1.0 if not self.tp + self.fp + self.fn else 0.0


def foreground(labels: npt.NDArray[Any], *, name: str) -> Mask:
    """Return what is foreground in a mask or label image: every pixel above 0.

    Raises
    ------
    InvalidInputError
        The image has no pixels, or values that are not whole numbers.
    """
    if labels.size == 0:
        raise InvalidInputError(f"{name} has no pixels.")
    if labels.dtype.kind not in "buif" or (
        labels.dtype.kind == "f" and not (np.isfinite(labels).all() and np.array_equal(labels, np.floor(labels)))
    ):
        raise InvalidInputError(
            f"{name} holds values that are not whole numbers, so that it is neither a mask nor a label image. Save 0 "
            "for background and whole numbers for foreground."
        )
    mask: Mask = labels > 0
    return mask


def is_probability(image: npt.NDArray[Any], *, name: str) -> bool:
    """Return whether an image holds the probability of foreground: floating, from 0 to 1, not only whole numbers.

    Raises
    ------
    InvalidInputError
        A floating image with other values; the message names the image and says what is expected.
    """
    if image.dtype.kind != "f":
        return False
    whole = image.size > 0
    finite = whole
    for window in blocks(image.shape):
        finite = finite and bool(np.isfinite(image[window]).all())
        whole = whole and np.array_equal(image[window], np.floor(image[window]))
        release(image)
    if not finite:
        raise InvalidInputError(f"{name} has no pixels, or pixels that are NaN or infinite. Export it again.")
    if whole:
        return False
    lowest, highest = value_range(image)
    if lowest < 0 or highest > 1:
        raise InvalidInputError(
            f"{name} holds values from {lowest:g} to {highest:g}. A prediction is a mask (0 and whole "
            "numbers) or the probability of foreground from 0 to 1."
        )
    return True


def areas(target: Mask, prediction: Mask) -> Areas:
    """Count the pixels of two masks of one shape."""
    both = int(np.count_nonzero(target & prediction))
    return Areas(both, int(np.count_nonzero(prediction)) - both, int(np.count_nonzero(target)) - both)


def boundary_f(target: Mask, prediction: Mask, tolerance: float) -> float:
    """Return how well outlines agree: F1 of their pixels, where `tolerance` pixels off still counts as agreeing.

    Precision is the part of the predicted outline within `tolerance` of the target's, recall the part of the target's
    within `tolerance` of the predicted, and the value 2 P R / (P + R) (Csurka et al., BMVC 2013). An outline are the
    foreground pixels next to background along an axis; the edge of the image is no outline.

    Parameters
    ----------
    target, prediction
        Masks of one shape, (Y, X) or (Z, Y, X), which need not be in memory.
    tolerance
        Tolerance in pixels, the same along every axis.

    Returns
    -------
    float
        0 to 1; 1 where neither has an outline, 0 where only one has.
    """
    reach = math.ceil(tolerance)
    found, near = np.zeros(2, np.int64), np.zeros(2, np.int64)
    for band in bands(target.shape, reach + 1):
        outlines = [_outline(mask[band.padded]) for mask in (target, prediction)]
        for outline in outlines:
            # The next one beyond the context is not known, so neither is the outline there.
            for edge, context in zip((0, -1), band.context, strict=True):
                if context > reach:
                    outline[edge] = False
        release(target)
        release(prediction)
        for number, (mine, other) in enumerate(zip(outlines, outlines[::-1], strict=True)):
            here = mine[band.core]
            found[number] += np.count_nonzero(here)
            if here.any() and other.any():
                distance = ndimage.distance_transform_edt(~other)[band.core]
                near[number] += np.count_nonzero(distance[here] <= tolerance)
    if not found.all():
        return float(not found.any())
    recall, precision = (float(near[number]) / float(found[number]) for number in range(2))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def iou_parts(target: npt.NDArray[Any], prediction: npt.NDArray[Any]) -> tuple[float, float]:
    """Return numerator and denominator of the IoU of two masks or label images, which can be added up over images."""
    counted = areas(target > 0, prediction > 0)
    return counted.tp, counted.tp + counted.fp + counted.fn


def _outline(mask: Mask) -> Mask:
    # Beyond the image lies more of the same, so that its edge is no outline.
    outline: Mask = mask & ~ndimage.binary_erosion(mask, border_value=1)
    return outline
