"""From classes of pixels to regions without specks and holes, and to single objects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import segmentation

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.scratch import IN_MEMORY, Scratch, release
from parfocal.runtime.methods.objects import Objects
from parfocal.runtime.methods.outlines import trace_outlines
from parfocal.runtime.prediction.object_tiling import plan_blocks
from parfocal.unet.parameters import UnetPredictionParameters


def smallest_dtype(values: Sequence[int]) -> np.dtype[Any]:
    """Return the smallest integer type that holds some values."""
    return np.result_type(*(np.min_scalar_type(value) for value in values))


def clean_in_blocks(
    classes: NDArray[np.uint8],
    parameters: UnetPredictionParameters,
    lengths: Sequence[float] | None,
    scratch: Scratch = IN_MEMORY,
) -> NDArray[np.uint8]:
    """Return what `clean_regions` makes of class indices of any size.

    Large images are cleaned in blocks. What a block does not see whole stays as it is, unless another one does: regions
    and holes that are longer than the blocks overlap stay, however few pixels they have.

    Parameters
    ----------
    classes, parameters, lengths
        As for `clean_regions`.
    scratch
        Where the result lies.
    """
    planned = list(plan_blocks(classes.shape))
    if len(planned) == 1 or not (parameters.smallest_object or parameters.largest_hole):
        return clean_regions(classes, parameters, lengths)
    cleaned: NDArray[np.uint8] = scratch.zeros(classes.shape, np.uint8)
    for block in planned:
        part = clean_regions(np.asarray(classes[block.window]), parameters, lengths, block.inner)
        cleaned[tuple(slice(*along) for along in block.core)] = part[
            tuple(
                slice(low - along.start, high - along.start)
                for along, (low, high) in zip(block.window, block.core, strict=True)
            )
        ]
        release(cleaned)
        release(classes)
    return cleaned


def clean_regions(
    classes: NDArray[np.uint8],
    parameters: UnetPredictionParameters,
    lengths: Sequence[float] | None,
    inner: Sequence[tuple[bool, bool]] = (),
) -> NDArray[np.uint8]:
    """Return class indices without small regions, which become background, and without small holes.

    Pixels of a class that touch, at a face, an edge or a corner, are one region. A hole is background that does not
    reach the border of the image, connected by faces; it becomes the class that most of the pixels around it have.
    Small regions go first.

    Parameters
    ----------
    classes
        (Y, X) or (Z, Y, X), 0 for the background.
    lengths
        Length of a pixel along each axis in micrometres; None where it is unknown.
    inner
        Along each axis, whether the image continues before and behind `classes`: regions that reach there are kept.

    Raises
    ------
    InvalidInputError
        Sizes are given in micrometres and the pixel size is unknown.
    """
    if not parameters.smallest_object and not parameters.largest_hole:
        return classes
    if lengths is None and parameters.size_unit == "um":
        raise InvalidInputError(
            "smallest_object and largest_hole are given in micrometres, and the image has no pixel size. Save it in "
            "the image (in Fiji: Image > Properties), or set size_unit to pixels."
        )
    unit = 1.0 if lengths is None or parameters.size_unit == "pixels" else math.prod(lengths)
    cleaned = classes.copy()
    for number in np.unique(classes[classes > 0]) if parameters.smallest_object else ():
        regions, count = ndimage.label(classes == number, structure=_touching(classes.ndim))
        small = np.bincount(regions.ravel(), minlength=count + 1) * unit < parameters.smallest_object
        small[0] = False
        for axis, ends in enumerate(inner):
            for end, goes_on in zip((0, -1), ends, strict=True):
                if goes_on:
                    small[np.unique(np.take(regions, end, axis))] = False
        cleaned[small[regions]] = 0
    if parameters.largest_hole:
        _fill_holes(cleaned, parameters.largest_hole / unit)
    return cleaned


def _fill_holes(classes: NDArray[np.uint8], largest: float) -> None:
    """Fill holes of up to so many pixels in place."""
    regions, count = ndimage.label(classes == 0)
    small = np.bincount(regions.ravel(), minlength=count + 1) <= largest
    small[0] = False
    for axis in range(classes.ndim):
        for end in (0, -1):
            small[np.unique(np.take(regions, end, axis))] = False
    boxes = ndimage.find_objects(regions)
    # None of them reaches a border, so that a pixel more belongs to the image.
    for number in np.flatnonzero(small):
        window = tuple(slice(part.start - 1, part.stop + 1) for part in boxes[number - 1])
        hole = regions[window] == number
        around = ndimage.binary_dilation(hole) & ~hole
        classes[window][hole] = np.bincount(classes[window][around]).argmax()


def find_instances(
    classes: NDArray[np.uint8],
    probability: NDArray[np.float32],
    parameters: UnetPredictionParameters,
    lengths: Sequence[float] | None,
) -> Objects:
    """Return the objects in an image: connected regions of each class but the background, perhaps cut apart.

    Parameters
    ----------
    classes
        Class indices (Y, X) or (Z, Y, X).
    probability
        Probability of each class along the last axis, 0 to 1. The probability of an object is the mean for its class.
    lengths
        Length of a pixel along each axis, in any one unit; None if all are equal.
    """
    labels = np.zeros(classes.shape, np.int32)
    owners: list[int] = []
    for number in np.unique(classes[classes > 0]).tolist():
        mask = classes == number
        if parameters.instances == "watershed":
            found, count = watershed(mask, parameters.seed_distance, lengths)
        else:
            found, count = ndimage.label(mask, structure=_touching(mask.ndim))
        labels[mask] = found[mask] + len(owners)
        owners += [number] * count
    index = np.arange(1, len(owners) + 1)
    means = np.stack(
        [np.asarray(ndimage.mean(probability[..., each], labels, index)) for each in range(probability.shape[-1])],
        axis=-1,
    ).reshape(len(owners), probability.shape[-1])
    means = means.astype(np.float32)
    return Objects(
        labels,
        means[np.arange(len(owners)), owners] if owners else np.zeros(0, np.float32),
        trace_outlines(labels) if labels.ndim == 2 else (),
        means if probability.shape[-1] > 2 else None,
    )


def watershed(
    mask: NDArray[np.bool_], seed_distance: int, lengths: Sequence[float] | None
) -> tuple[NDArray[np.int32], int]:
    """Return a label image of a mask whose regions are cut apart where they are narrow, and the number of objects.

    Objects grow from the places that are farthest from the background, level by level of this distance, and meet at the
    narrow places (Vincent and Soille, 1991, on the distance transform).

    Parameters
    ----------
    mask
        (Y, X) or (Z, Y, X).
    seed_distance
        Radius in pixels: seeds are the maxima, within this radius along each axis, of the slightly smoothed distance.
    lengths
        Length of a pixel along each axis, in any one unit; None if all are equal.
    """
    sampling = None if lengths is None else np.asarray(lengths) / min(lengths)
    distance = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=sampling)
    inside = distance > 0
    smooth = np.where(inside, ndimage.gaussian_filter(distance, 1), 0)
    peaks = inside & (smooth == ndimage.maximum_filter(smooth, 2 * seed_distance + 1))
    regions, count = ndimage.label(inside, structure=_touching(mask.ndim))
    # A region beside a larger one has no peak of its own within the distance: it is an object as it is.
    seeded = np.zeros(count + 1, bool)
    seeded[regions[peaks]] = True
    seeds, objects = ndimage.label(peaks | (inside & ~seeded[regions]), structure=_touching(mask.ndim))
    # The most distant from the background first, by half a pixel.
    levels = -np.ceil(2 * distance)
    grown = segmentation.watershed(levels, seeds, connectivity=mask.ndim, mask=inside)
    return grown[(slice(1, -1),) * mask.ndim].astype(np.int32), int(objects)


def _touching(dimensions: int) -> NDArray[np.bool_]:
    """Return the neighbourhood of pixels that touch at a face, an edge or a corner."""
    return np.ones((3,) * dimensions, bool)
