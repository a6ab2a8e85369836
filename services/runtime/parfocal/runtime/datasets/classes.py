"""Class images: the number of a class in each pixel, as a target or beside a label image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.errors import InvalidInputError

CLASS_ROLE: Final = "target_class"
"""The role of class images beside label images: the class of each object inside it."""

MOST_CLASSES: Final = 100
"""Classes of objects that a model can tell apart."""

UNANNOTATED: Final = -1
"""Value of a pixel of unknown class in images of class indices."""


def class_problem(drawn: NDArray[Any], classes: int) -> str:
    """Return what is wrong with a class image and how to put it right; "" if nothing is.

    Parameters
    ----------
    drawn
        The class image: in each object the number of its class, 0 where it is unknown.
    classes
        Number of classes.
    """
    if drawn.dtype.kind not in "iu":
        return f"has values of type {drawn.dtype}: save classes as 8-bit whole numbers, 0 where they are unknown"
    lowest, highest = int(drawn.min(initial=0)), int(drawn.max(initial=0))
    if lowest < 0:
        return f"has the value {lowest}: classes are numbers from 1, and 0 where they are unknown"
    if highest > MOST_CLASSES:
        return (
            f"has the value {highest}, and there can be {MOST_CLASSES} classes: inside each object draw the number of "
            "its class, not that of the object or a grey value"
        )
    if highest > classes:
        return f"has the class {highest}, and classes is {classes}: set classes to {highest} or correct the image"
    return ""


def object_classes(labels: NDArray[Any], drawn: NDArray[Any], classes: int) -> NDArray[np.uint8]:
    """Return the class of each object: the most frequent number above 0 that was drawn inside it.

    Parameters
    ----------
    labels
        Label image whose objects are numbered from 1 without gaps; what is not above 0 is no object.
    drawn
        Class image of the same shape, see `class_problem`.
    classes
        Number of classes.

    Returns
    -------
    NDArray
        uint8, one more than there are objects: at the place of a label its class, 0 where nothing was drawn and at
        place 0. Of numbers that are equally frequent it is the lowest.
    """
    inside = (labels > 0) & (drawn > 0)
    objects = int(labels.max(initial=0))
    cells = labels[inside].astype(np.int64) * (classes + 1) + drawn[inside].astype(np.int64)
    votes = np.bincount(cells, minlength=(objects + 1) * (classes + 1)).reshape(objects + 1, classes + 1)
    # Where nothing was drawn all are 0, and the first one, unknown, wins.
    found: NDArray[np.uint8] = np.argmax(votes, axis=1).astype(np.uint8)
    return found


def class_indices(image: NDArray[Any], values: Sequence[int], ignored: int | None = None) -> NDArray[np.int8]:
    """Return the index of the class of each pixel, or `UNANNOTATED`.

    Parameters
    ----------
    image
        A class image; or a label image, which tells foreground from background.
    values
        The value in the image of each class, `DatasetManifest.class_values`; empty: of a label image 0 is background,
        all above is foreground, and what is below belongs to neither.
    ignored
        The value of pixels that are not annotated; None if all are.

    Returns
    -------
    NDArray
        int8 of the same shape: the place of the pixel's value among `values`, at most `MOST_CLASSES`; `UNANNOTATED`
        where it is not known.

    Raises
    ------
    InvalidInputError
        A pixel has another value.
    """
    unannotated = image < 0 if not values else np.zeros(image.shape, bool) if ignored is None else image == ignored
    if not values:
        return np.where(unannotated, UNANNOTATED, image > 0).astype(np.int8)
    known = np.asarray(values, dtype=np.int64)
    order = np.argsort(known)
    found = np.searchsorted(known, image, sorter=order)
    indices = order[np.minimum(found, len(known) - 1)]
    if (wrong := (image != known[indices]) & ~unannotated).any():
        listed = ", ".join(map(str, values))
        raise InvalidInputError(
            f"A class image has the value {image[wrong][0]}, which is not among the classes of the dataset ({listed}): "
            "correct the image."
        )
    return np.where(unannotated, UNANNOTATED, indices).astype(np.int8)
