"""Label images as targets: whole numbers, 0 for background and one number for all pixels of an object."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# Of pixels amid others, those unlike all neighbours: 0.02 % at most in label images of cells and nuclei, 10 % at least
# in grey images of microscopes, and 2 to 70 % once these are blurred and rounded to 8 bit.
_LONELY: Final = 0.05
# Fewer may be slips of the pen, whatever their share.
_FEWEST_LONELY: Final = 100
# Pixels that are looked at of an image: an edge of a plane, and planes.
_LOOKED_AT: Final = 2048
_PLANES: Final = 8
# Neighbours inside objects are of one object; in grey images they mostly differ.
_EVEN: Final = 0.6
_CURE: Final = (
    "A label image has whole numbers, 0 for background and one number for all pixels of an object: put such images "
    "into target, or choose a method that learns grey images"
)


def label_problem(labels: NDArray[Any]) -> str:
    """Return why an image cannot be a label image and how to put it right; "" if it can.

    In an image of grey values, unlike in one of objects, many pixels differ from all their neighbours. Only pixels
    whose four neighbours in their plane are no background count, so that marks of a pixel each are labels too.

    Parameters
    ----------
    labels
        Image (Y, X) or (Z, Y, X); of a large one the middle and some planes are looked at.
    """
    if labels.dtype.kind == "f" and not all(np.array_equal(part, np.floor(part)) for part in _parts(labels)):
        return f"has fractions, as grey values and probabilities do. {_CURE}"
    if labels.dtype.kind not in "iu":
        return f"has values of type {labels.dtype}: save labels as 16-bit whole numbers, 0 for background"
    amid = lonely = 0
    for plane in _parts(labels):
        middle = plane[1:-1, 1:-1]
        neighbours = plane[:-2, 1:-1], plane[2:, 1:-1], plane[1:-1, :-2], plane[1:-1, 2:]
        inside = np.logical_and.reduce([each > 0 for each in (middle, *neighbours)])
        amid += int(np.count_nonzero(inside))
        lonely += int(np.count_nonzero(np.logical_and.reduce([inside, *(each != middle for each in neighbours)])))
    if lonely < max(_FEWEST_LONELY, _LONELY * amid):
        return ""
    return f"has grey values instead of labels: its numbers change from one pixel to the next. {_CURE}"


def _parts(image: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield the middle of some planes, which is enough to see what kind of image it is."""
    window = tuple(
        slice(max(0, (length - _LOOKED_AT) // 2), max(0, (length - _LOOKED_AT) // 2) + _LOOKED_AT)
        for length in image.shape[-2:]
    )
    planes = image.reshape(-1, *image.shape[-2:])
    for number in sorted({*np.linspace(0, len(planes) - 1, _PLANES).round().astype(int).tolist()}):
        yield np.asarray(planes[number][window])


def looks_like_labels(image: NDArray[Any]) -> bool:
    """Return whether an image is one of objects or of classes, rather than one of grey values.

    Beside what `label_problem` looks at, which large even parts of a grey image pass, neighbours along X above 0 must
    mostly be equal; the most frequent value, which may be a background that is not 0, does not count.

    Parameters
    ----------
    image
        Image (Y, X) or (Z, Y, X); of a large one the middle and some planes are looked at.
    """
    if label_problem(image):
        return False
    pairs = even = 0
    parts = list(_parts(image))
    values, counts = np.unique(np.concatenate([part.ravel() for part in parts]), return_counts=True)
    frequent = values[np.argmax(counts)]
    for part in parts:
        left, right = part[:, :-1], part[:, 1:]
        inside = (left > 0) & (right > 0) & ((left != frequent) | (right != frequent))
        pairs += int(np.count_nonzero(inside))
        even += int(np.count_nonzero(inside & (left == right)))
    return even >= _EVEN * pairs
