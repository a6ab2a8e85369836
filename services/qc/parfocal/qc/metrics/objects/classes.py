"""Whether found objects have the right class: a confusion table of objects, and what follows from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from parfocal.qc.metrics.objects.instances import Counts, Matches
from parfocal.runtime.datasets.classes import MOST_CLASSES, class_problem, object_classes
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.methods.objects import compact_labels

NO_CLASS: Final = 0
"""In a target: of unknown class. In a prediction: an object that is most probably of none."""


@dataclass(frozen=True)
class ClassCounts:
    """Objects by the class they have and the class they were given, in one image or in several added up.

    Attributes
    ----------
    found
        By class of the target (from 1) and of the prediction (`NO_CLASS` or from 1): objects found.
    missed
        By class of the target: objects missed.
    invented
        By class of the prediction: objects invented.
    unknown
        Targets of unknown class. Neither they nor what was found of them is counted above.
    """

    found: Mapping[tuple[int, int], int] = field(default_factory=dict)
    missed: Mapping[int, int] = field(default_factory=dict)
    invented: Mapping[int, int] = field(default_factory=dict)
    unknown: int = 0

    def __add__(self, other: ClassCounts) -> ClassCounts:
        return ClassCounts(
            Counter(self.found) + Counter(other.found),
            Counter(self.missed) + Counter(other.missed),
            Counter(self.invented) + Counter(other.invented),
            self.unknown + other.unknown,
        )

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes that a target or a prediction has, rising."""
        seen = {number for pair in self.found for number in pair} | {*self.missed, *self.invented}
        return tuple(sorted(seen - {NO_CLASS}))

    @property
    def known(self) -> int:
        """Found objects whose class is known."""
        return sum(self.found.values())

    @property
    def right(self) -> int:
        """Found objects that were given their class."""
        return sum(number for (mine, given), number in self.found.items() if mine == given)

    @property
    def accuracy(self) -> float | None:
        """Part of the found objects of known class that were given it; None where none was found."""
        return self.right / self.known if self.known else None

    @property
    def commonest(self) -> tuple[int, float] | None:
        """The most frequent class among the found objects and its part: how often one answer for all were right."""
        by_class: Counter[int] = Counter()
        for (mine, _), number in self.found.items():
            by_class[mine] += number
        if not by_class:
            return None
        most = max(sorted(by_class), key=lambda number: by_class[number])
        return most, by_class[most] / self.known

    def targets(self, number: int) -> int:
        """Return how many targets are of a class."""
        return self.missed.get(number, 0) + sum(count for (mine, _), count in self.found.items() if mine == number)

    def counts(self, number: int) -> Counts:
        """Return the objects of a class that were found and given it, and those that were not.

        An object found but given another class is missed in its own and invented in the other.
        """
        right = self.found.get((number, number), 0)
        given = self.invented.get(number, 0) + sum(count for (_, other), count in self.found.items() if other == number)
        return Counts(right, given - right, self.targets(number) - right)


def count_classes(matches: Matches, target: Mapping[int, int], prediction: Mapping[int, int]) -> ClassCounts:
    """Count the objects of one image by class.

    An image with objects of which no class is known says nothing about classes: what was invented in it is not counted
    either.

    Parameters
    ----------
    matches
        Which objects belong together.
    target, prediction
        By label: the class of each object, or `NO_CLASS`.
    """
    unknown = sum(number == NO_CLASS for number in target.values())
    if target and unknown == len(target):
        return ClassCounts(unknown=unknown)
    pairs = ((target[mine], prediction[theirs]) for mine, theirs, _ in matches.pairs)
    return ClassCounts(
        found=Counter(pair for pair in pairs if pair[0] != NO_CLASS),
        missed=Counter(target[label] for label in matches.missed if target[label] != NO_CLASS),
        invented=Counter(prediction[label] for label in matches.spurious),
        unknown=unknown,
    )


def classes_of_objects(labels: npt.NDArray[Any], drawn: npt.NDArray[Any], *, name: str) -> dict[int, int]:
    """Return by label the class of each object: the most frequent number above 0 inside it, as in training.

    Parameters
    ----------
    labels
        Label image; what is not above 0 is no object.
    drawn
        Class image of its shape.
    name
        Of the class image, for errors.

    Raises
    ------
    InvalidInputError
        The shapes differ, or the class image has values that are no classes.
    """
    if drawn.shape != labels.shape:
        raise InvalidInputError(
            f"{name} has shape {drawn.shape} and its label image {labels.shape}. Draw the classes on the label image."
        )
    if problem := class_problem(drawn, MOST_CLASSES):
        raise InvalidInputError(f"{name} {problem}.")
    found = object_classes(compact_labels(labels), drawn, MOST_CLASSES)
    ids = np.unique(labels[labels > 0])
    return dict(zip(ids.astype(np.int64).tolist(), found[1:].tolist(), strict=True))
