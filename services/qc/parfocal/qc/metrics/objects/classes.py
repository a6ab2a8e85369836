"""Whether found objects have the right class: a confusion table of objects, and what follows from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from parfocal.qc.metrics.objects.instances import Counts, Matches, overlap
from parfocal.runtime.datasets.classes import MOST_CLASSES, class_problem
from parfocal.runtime.errors import InvalidInputError

NO_CLASS: Final = 0
"""Class 0. In a target: of unknown class. In a prediction: most probably of no class."""


@dataclass(frozen=True)
class ClassCounts:
    """Objects by the class they have and the class they were given, in one image or in several added up.

    Attributes
    ----------
    found
        By class of the target (from 1) and of the prediction (`NO_CLASS` or from 1): number of objects found.
    false_negatives
        By class of the target: number of targets that were not found.
    false_positives
        By class of the prediction: number of predicted objects that match no target.
    unknown
        Number of targets of unknown class. Neither they nor the predictions that match them are counted above.
    """

    found: Mapping[tuple[int, int], int] = field(default_factory=dict)
    false_negatives: Mapping[int, int] = field(default_factory=dict)
    false_positives: Mapping[int, int] = field(default_factory=dict)
    unknown: int = 0

    def __add__(self, other: ClassCounts) -> ClassCounts:
        return ClassCounts(
            Counter(self.found) + Counter(other.found),
            Counter(self.false_negatives) + Counter(other.false_negatives),
            Counter(self.false_positives) + Counter(other.false_positives),
            self.unknown + other.unknown,
        )

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes that a target or a prediction has, rising."""
        seen = {number for pair in self.found for number in pair} | {*self.false_negatives, *self.false_positives}
        return tuple(sorted(seen - {NO_CLASS}))

    @property
    def known(self) -> int:
        """Number of found objects whose class is known."""
        return sum(self.found.values())

    @property
    def right(self) -> int:
        """Number of found objects that were given their class."""
        return sum(number for (mine, given), number in self.found.items() if mine == given)

    @property
    def accuracy(self) -> float | None:
        """Part of the found objects of known class that were given it; None where none was found."""
        return self.right / self.known if self.known else None

    @property
    def most_frequent(self) -> tuple[int, float] | None:
        """The most frequent class of the found objects, and its fraction of them: the accuracy of always naming it."""
        by_class: Counter[int] = Counter()
        for (mine, _), number in self.found.items():
            by_class[mine] += number
        if not by_class:
            return None
        most = max(sorted(by_class), key=lambda number: by_class[number])
        return most, by_class[most] / self.known

    def targets(self, number: int) -> int:
        """Return how many targets are of a class."""
        return self.false_negatives.get(number, 0) + sum(
            count for (mine, _), count in self.found.items() if mine == number
        )

    def counts(self, number: int) -> Counts:
        """Return the objects of a class that were found and given it, and those that were not.

        An object that was found but given another class is a false negative of its own class and a false positive of
        the other.
        """
        right = self.found.get((number, number), 0)
        given = self.false_positives.get(number, 0) + sum(
            count for (_, other), count in self.found.items() if other == number
        )
        return Counts(right, given - right, self.targets(number) - right)


def count_classes(matches: Matches, target: Mapping[int, int], prediction: Mapping[int, int]) -> ClassCounts:
    """Count the objects of one image by class.

    An image with objects of which no class is known says nothing about classes: its false positives are not counted
    either.

    Parameters
    ----------
    matches
        Matched objects.
    target, prediction
        By label: class of the object, or `NO_CLASS`.
    """
    unknown = sum(number == NO_CLASS for number in target.values())
    if target and unknown == len(target):
        return ClassCounts(unknown=unknown)
    pairs = ((target[mine], prediction[theirs]) for mine, theirs, _ in matches.pairs)
    return ClassCounts(
        found=Counter(pair for pair in pairs if pair[0] != NO_CLASS),
        false_negatives=Counter(target[label] for label in matches.false_negatives if target[label] != NO_CLASS),
        false_positives=Counter(prediction[label] for label in matches.false_positives),
        unknown=unknown,
    )


def classes_of_objects(labels: npt.NDArray[Any], drawn: npt.NDArray[Any], *, name: str) -> dict[int, int]:
    """Return by label the class of each object: the most frequent number above 0 inside it, as in training.

    Parameters
    ----------
    labels
        Label image of whole numbers; pixels of 0 or less are background.
    drawn
        Class image of its shape.
    name
        Name of the class image, for error messages.

    Raises
    ------
    InvalidInputError
        The shapes differ, or the class image holds values that are not class numbers.
    """
    if drawn.shape != labels.shape:
        raise InvalidInputError(
            f"{name} has shape {drawn.shape} and its label image {labels.shape}. Draw the classes on the label image."
        )
    if problem := class_problem(drawn, MOST_CLASSES):
        raise InvalidInputError(f"{name} {problem}.")
    inside = overlap(labels, drawn, name=name)
    numbers = inside.prediction_ids[inside.columns]
    # The most frequent one of each object comes first; of several the lowest.
    order = np.lexsort((numbers, -inside.shared, inside.rows))
    objects, first = np.unique(inside.rows[order], return_index=True)
    found = np.full(len(inside.target_ids), NO_CLASS)
    found[objects] = numbers[order][first]
    return dict(zip(inside.target_ids.tolist(), found.tolist(), strict=True))
