"""From the label and class images that people draw to the targets of a training: checked, cleaned, of one dtype."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.datasets.classes import class_problem, object_classes
from parfocal.runtime.datasets.findings import count, some
from parfocal.runtime.datasets.labels import label_problem
from parfocal.runtime.errors import InvalidInputError, Violation
from parfocal.runtime.images.files import whole_numbers
from parfocal.runtime.images.memmaps import write_memmap
from parfocal.runtime.methods.objects import compact_labels


@dataclass(frozen=True)
class LabelTargets:
    """The targets of each image, memory-mapped: labels, and class images where classes are trained on; and warnings."""

    images: list[tuple[NDArray[Any], ...]]
    warnings: tuple[str, ...] = ()


def clean_label_targets(
    names: Sequence[Sequence[str]],
    targets: Sequence[tuple[NDArray[Any], ...]],
    clean: Callable[[NDArray[Any]], NDArray[Any]],
    classes: int,
    folder: Path,
) -> LabelTargets:
    """Return label images as the method is trained on them and, beside them, images of the class of each object.

    Parameters
    ----------
    names
        The files of each image's targets, for errors.
    targets
        For each image: its label image and, if there are `classes`, its class image.
    clean
        Makes of a label image, whose objects are numbered from 1, what the network is trained on.
    folder
        Folder for the results.

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
        mended = clean(compact_labels(whole_numbers(np.asarray(labels))))
        objects += int(mended.max() > 0)
        images = [mended]
        if classes:
            drawn = whole_numbers(np.asarray(further[0]))
            if problem := class_problem(drawn, classes):
                problems.append(Violation(files[1], problem))
                continue
            known = object_classes(mended, drawn, classes)
            seen |= set(known.tolist())
            images.append(known[np.maximum(mended, 0)])
        cleaned.append(tuple(write_memmap(folder / f"{number}-{place}.npy", each) for place, each in enumerate(images)))
    if problems:
        raise InvalidInputError(
            f"{count(len(problems), 'target')} cannot be trained on: {_listed(problems)}.", problems
        )
    if not objects:
        raise InvalidInputError("No target shows an object: all label images are 0 everywhere. Check the targets.")
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


def _class_warnings(seen: set[int], classes: int, file: str) -> tuple[str, ...]:
    """Return what is to be said of classes without objects; raise InvalidInputError if no object has a class."""
    missing = sorted(set(range(1, classes + 1)) - seen)
    if not missing:
        return ()
    if len(missing) == classes:
        raise InvalidInputError(
            f"No object has a class: in every image like {file} all pixels inside the objects are 0. Fill each object "
            "with the number of its class, from 1, or set classes to 0.",
            [Violation("classes", "no object of the training images has a class")],
        )
    named = ", ".join(map(str, missing))
    return (f"No training image has an object of class {named}: so that the model cannot recognise such objects.",)
