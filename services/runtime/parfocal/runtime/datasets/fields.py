"""How many fields of view the images of a dataset show, and which are in training and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.datasets.findings import count, some
from parfocal.runtime.images.similarity import alike

ALIKE: Final = 0.9
"""Correlation of two images in 32x32 blocks from which on they are taken for the same field: two stains of one field,
or neighbouring sections, stay below 0.8."""


@dataclass
class Fields:
    """Collects what source images show, in a kilobyte each.

    Images too small or too even for a comparison count as fields of their own.
    """

    _names: list[tuple[str, str]] = field(default_factory=list)
    _patterns: list[NDArray[np.float32] | None] = field(default_factory=list)

    def add(self, split: str, name: str, pattern: NDArray[np.float32] | None) -> None:
        """Take down what an image of a split shows, as `pattern_of` tells it."""
        self._names.append((split, name))
        self._patterns.append(pattern)

    def counts(self) -> dict[str, int]:
        """Return the number of fields of each split."""
        groups = self._groups()
        return {
            split: len({groups[number] for number, (each, _) in enumerate(self._names) if each == split})
            for split in dict.fromkeys(split for split, _ in self._names)
        }

    def warnings(self) -> list[str]:
        """Return a sentence on the test images that show almost the same as a training image, if there are any."""
        pairs = {
            test: train
            for first, second, _ in self._alike()
            for (train_split, train), (test_split, test) in (
                (self._names[first], self._names[second]),
                (self._names[second], self._names[first]),
            )
            if (train_split, test_split) == ("train", "test")
        }
        if not pairs:
            return []
        named = some([f"{test} like {train}" for test, train in pairs.items()])
        return [
            f"{count(len(pairs), 'test image')} and training images look almost the same: {named}. If they show the "
            "same field of view, the test proves nothing: remove it from one of the two sets."
        ]

    def _alike(self) -> Sequence[tuple[int, int, float]]:
        places = [number for number, each in enumerate(self._patterns) if each is not None]
        if len(places) < 2:
            return ()
        table = np.stack([each for each in self._patterns if each is not None])
        return [(places[first], places[second], value) for first, second, value in alike(table, ALIKE)]

    def _groups(self) -> list[int]:
        """Return for each image the first one of those that are alike, directly or over others."""
        first = list(range(len(self._names)))

        def root(number: int) -> int:
            while first[number] != number:
                first[number] = first[first[number]]
                number = first[number]
            return number

        for one, other, _ in self._alike():
            low, high = sorted((root(one), root(other)))
            first[high] = low
        return [root(number) for number in range(len(first))]
