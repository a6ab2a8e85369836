"""Defects of label images: holes, objects in several regions, small fragments, and objects truncated by the border."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.measure import label as connected_parts

from parfocal.qc.metrics.bands import bands, sample_windows
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.pixel_values import value_range
from parfocal.runtime.images.scratch import release

Kind = Literal["labels", "mask", "image"]

_SMALLEST: Final = 5
_EVEN: Final = 0.6


@dataclass(frozen=True)
class LabelSanity:
    """The objects of one label image.

    Attributes
    ----------
    sizes
        uint32: pixels of each object, in the order of the numbers.
    with_holes
        Objects that enclose background: a part of it (neighbours along the axes) that does not reach the image's border
        and has no other neighbour than this object.
    fragmented
        Numbers whose pixels are not connected, not even across corners.
    at_border
        Objects with a pixel on the border of the image; of volumes the four sides count, not top and bottom.
    labelled
        Fraction of pixels that belong to objects.
    """

    sizes: npt.NDArray[np.uint32]
    with_holes: tuple[int, ...]
    fragmented: tuple[int, ...]
    at_border: tuple[int, ...]
    labelled: float

    @property
    def objects(self) -> int:
        """How many objects there are."""
        return len(self.sizes)


def kind_of_target(image: npt.NDArray[Any]) -> Kind:
    """Tell label images, masks and grey images apart by their pixels.

    A mask has one or two values, of which one is 0. A label image has whole numbers from 0, and where two neighbours
    along X are above 0 they are mostly equal, because objects are even: in 60 % of such pairs at least. Noise leaves 0
    to 50 % in grey images of microscopes. Few photons leave more, but not together: connected pixels of one value are
    5 or more in a label image, in the median; of a large image that of its `sample_windows`, unless those are empty.

    Parameters
    ----------
    image
        Finite values (Y, X) or (Z, Y, X), which need not be in memory.
    """
    if image.dtype.kind == "f" and not all(np.array_equal(part, np.round(part)) for part in _rows(image)):
        return "image"
    lowest, highest = value_range(image)
    if lowest != 0:
        return "image"
    if sum(np.count_nonzero((part == highest) | (part == 0)) for part in _rows(image)) >= image.size:
        return "mask"
    pairs = even = 0
    for part in _rows(image):
        inside = (part[..., 1:] > 0) & (part[..., :-1] > 0)
        pairs += int(np.count_nonzero(inside))
        even += int(np.count_nonzero(inside & (part[..., 1:] == part[..., :-1])))
    if not pairs or even < _EVEN * pairs:
        return "image"
    sizes = _region_sizes(image[window] for window in sample_windows(image.shape))
    if not sizes.size:  # few objects, all of them between the windows
        sizes = _region_sizes(_rows(image))
    return "labels" if np.median(sizes) >= _SMALLEST else "image"


def _region_sizes(parts: Iterable[npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
    """Return the numbers of connected pixels of one value above 0, in each part by itself."""
    found = [np.bincount(connected_parts(part.astype(np.int64), background=0).ravel())[1:] for part in parts]
    return np.concatenate(found)


def _rows(image: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Yield an image along its first axis, part by part."""
    for band in bands(image.shape):
        yield image[band.rows]
        release(image)


def check_labels(labels: npt.NDArray[Any]) -> LabelSanity:
    """Look at the objects of a label image; see `LabelSanity`.

    Parameters
    ----------
    labels
        Whole numbers (Y, X) or (Z, Y, X); pixels of 0 and below are background.

    Raises
    ------
    InvalidInputError
        Other axes, no pixels, or values that are not whole numbers.
    """
    if labels.ndim not in (2, 3) or labels.size == 0:
        raise InvalidInputError(f"A label image has axes (Y, X) or (Z, Y, X) and pixels; this one has {labels.shape}.")
    if labels.dtype.kind not in "bui" and not np.array_equal(labels, np.round(labels)):
        raise InvalidInputError("A label image holds whole numbers; this one holds fractions, NaN or infinite values.")
    numbers, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    background = int(np.searchsorted(numbers, 0, side="right"))
    # Numbered from 1 without gaps, so that they can be indices.
    compact = np.maximum(inverse.reshape(labels.shape).astype(np.int64) - background + 1, 0)
    objects = numbers[background:]
    # Of an array of several values, `label` joins only neighbours of the same value.
    parts, part_count = connected_parts(compact, background=0, connectivity=labels.ndim, return_num=True)
    owners = np.zeros(part_count + 1, np.int64)
    owners[parts] = compact
    pieces = np.bincount(owners[1:], minlength=len(objects) + 1)
    border = np.zeros(len(objects) + 1, bool)
    for axis in (-2, -1):
        for edge in (0, -1):
            border[np.take(compact, edge, axis=axis)] = True
    border[0] = False
    return LabelSanity(
        sizes=counts[background:].astype(np.uint32),
        with_holes=_named(objects, _objects_with_holes(compact, len(objects))),
        fragmented=_named(objects, pieces > 1),
        at_border=_named(objects, border),
        labelled=float(counts[background:].sum() / labels.size),
    )


def _objects_with_holes(compact: npt.NDArray[np.int64], objects: int) -> npt.NDArray[np.bool_]:
    gaps, gap_count = ndimage.label(compact == 0)
    open_ = np.zeros(gap_count + 1, bool)
    open_[0] = True
    first = np.full(gap_count + 1, objects + 1, np.int64)
    last = np.zeros(gap_count + 1, np.int64)
    for axis in range(compact.ndim):
        for edge in (0, -1):
            open_[np.take(gaps, edge, axis=axis)] = True
        for one, other in ((slice(None, -1), slice(1, None)), (slice(1, None), slice(None, -1))):
            here = (slice(None),) * axis
            gap, neighbour = gaps[(*here, one)], compact[(*here, other)]
            touching = (gap > 0) & (neighbour > 0)
            np.minimum.at(first, gap[touching], neighbour[touching])
            np.maximum.at(last, gap[touching], neighbour[touching])
    holes = ~open_ & (first == last)
    found = np.zeros(objects + 1, bool)
    found[first[holes]] = True
    return found


def _named(objects: npt.NDArray[Any], chosen: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(number) for number in objects[chosen[1:]])
