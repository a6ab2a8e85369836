"""From the label and class images that people draw to those that a training learns: checked, cleaned, of one type."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.datasets.findings import count, some
from parfocal.runtime.errors import InvalidInputError, Violation
from parfocal.runtime.images.files import write_memmap
from parfocal.runtime.methods.implementation import ObjectImplementation
from parfocal.runtime.methods.objects import compact_labels
from parfocal.runtime.methods.parameters import MOST_CLASSES

# Of pixels amid others, those unlike all neighbours: 0.02 % at most in label images of cells and nuclei, 10 % at least
# in grey images of microscopes, and 2 to 70 % once these are blurred and rounded to 8 bit.
_LONELY: Final = 0.05
# Fewer may be slips of the pen, whatever their share.
_FEWEST_LONELY: Final = 100
# Pixels that are looked at of an image: an edge of a plane, and planes.
_LOOKED_AT: Final = 2048
_PLANES: Final = 8
_CURE: Final = (
    "A label image has whole numbers, 0 for background and one number for all pixels of an object: put such images "
    "into target, or choose a method that learns grey images"
)


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
        if problem := label_problem(labels):
            problems.append(Violation(files[0], problem))
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
        raise InvalidInputError(
            f"{count(len(problems), 'target')} cannot be learnt from: {_listed(problems)}.", problems
        )
    if not objects:
        raise InvalidInputError("No target shows an object: every label image is 0 everywhere. Check the targets.")
    return LabelTargets(cleaned, _class_warnings(seen, classes, names[0][-1]))


def _listed(problems: Sequence[Violation]) -> str:
    """Say what is wrong once for all files of which it is, and name some of them."""
    alike: dict[str, list[str]] = {}
    for problem in problems:
        alike.setdefault(problem.description, []).append(problem.field)
    return "; ".join(
        f"{files[0]} {text}{f' (likewise {some(files[1:])})' if files[1:] else ''}"
        for text, files in list(alike.items())[:5]
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
