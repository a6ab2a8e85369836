"""From the label and class images that people draw to those that a training learns: checked, cleaned, of one type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime._findings import count
from parfocal.runtime.errors import InvalidInputError, Violation
from parfocal.runtime.images import write_memmap
from parfocal.runtime.learning import ObjectImplementation
from parfocal.runtime.objects import compact_labels
from parfocal.runtime.parameters import MOST_CLASSES


@dataclass(frozen=True)
class LabelTargets:
    """The targets of each image, memory-mapped: labels, and class images where classes are learnt; and warnings."""

    images: list[tuple[NDArray[Any], ...]]
    warnings: tuple[str, ...] = ()


def clean_label_targets(
    names: Sequence[Sequence[str]],
    targets: Sequence[tuple[NDArray[Any], ...]],
    implementation: ObjectImplementation,
    classes: int,
    folder: Path,
) -> LabelTargets:
    """Return label images as the method learns them and, beside them, images of the class of each object.

    Parameters
    ----------
    names
        The files of each image's targets, for errors.
    targets
        Of each image its label image and, if there are `classes`, its class image.
    folder
        Where the results are kept.

    Raises
    ------
    InvalidInputError
        An image holds no labels or no classes, or no image shows an object, or one with a class.
    """
    problems: list[Violation] = []
    cleaned: list[tuple[NDArray[Any], ...]] = []
    seen: set[int] = set()
    objects = 0
    for number, (files, (labels, *further)) in enumerate(zip(names, targets, strict=True)):
        if labels.dtype.kind not in "iu":
            text = f"has values of type {labels.dtype}: save labels as 16-bit whole numbers, 0 for background"
            problems.append(Violation(files[0], text))
            continue
        clean = implementation.clean_labels(compact_labels(np.asarray(labels)))
        objects += int(clean.max() > 0)
        images = [clean]
        if classes:
            drawn = np.asarray(further[0])
            if problem := class_problem(drawn, classes):
                problems.append(Violation(files[1], problem))
                continue
            known = object_classes(clean, drawn, classes)
            seen |= set(known.tolist())
            images.append(known[np.maximum(clean, 0)])
        cleaned.append(tuple(write_memmap(folder / f"{number}-{place}.npy", each) for place, each in enumerate(images)))
    if problems:
        listed = "; ".join(f"{each.field} {each.description}" for each in problems[:5])
        raise InvalidInputError(f"{count(len(problems), 'target')} cannot be learnt from: {listed}.", problems)
    if not objects:
        raise InvalidInputError("No target shows an object: every label image is 0 everywhere. Check the targets.")
    return LabelTargets(cleaned, _class_warnings(seen, classes, names[0][-1]))


def class_problem(drawn: NDArray[Any], classes: int) -> str:
    """Return what is wrong with a class image and how to put it right; "" if nothing is.

    Parameters
    ----------
    drawn
        The class image: in each object the number of its class, 0 where it is unknown.
    classes
        How many classes there are.
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
        How many classes there are.

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


def _class_warnings(seen: set[int], classes: int, file: str) -> tuple[str, ...]:
    """Return what is to be said of classes without objects; raise InvalidInputError if no object has a class."""
    missing = sorted(set(range(1, classes + 1)) - seen)
    if not missing:
        return ()
    if len(missing) == classes:
        raise InvalidInputError(
            f"No object has a class: in every image like {file} all pixels inside the objects are 0. Draw the number "
            "of its class, from 1, inside each object, or set classes to 0.",
            [Violation("classes", "no object of the training images has a class")],
        )
    named = ", ".join(map(str, missing))
    return (f"No training image has an object of class {named}: the model cannot learn what such objects look like.",)
