"""Class images: one class for each object, and errors that name file and cure."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.label_targets import clean_label_targets, object_classes
from parfocal.runtime.learning import Arrays, Channels, Learner, ObjectImplementation, Tiling
from parfocal.runtime.objects import Objects
from parfocal.runtime.parameters import PredictionParameters


class Plain(ObjectImplementation):
    """Learns labels as they are drawn; what is not asked here has no part in it."""

    def build(self, parameters: Any, channels: Channels) -> Learner:
        raise NotImplementedError

    def save(self, folder: Path, parameters: Any, channels: Channels, best: Arrays, last: Arrays) -> None:
        raise NotImplementedError

    def load(self, folder: Path, parameters: Any, channels: Channels, weights: str) -> Learner:
        raise NotImplementedError

    def find_objects(
        self, learner: Learner, image: NDArray[np.float32], parameters: PredictionParameters, tiling: Tiling
    ) -> Objects:
        raise NotImplementedError


LABELS = np.array([[7, 7, 7, 0, 9, 9], [7, 7, 7, 0, 9, 9], [-4, -4, 0, 0, 30, 30]], np.int16)


def clean(folder: Path, drawn: Iterable[NDArray[Any]], classes: int = 2) -> Any:
    targets = [(LABELS, image) for image in drawn]
    names = [[f"target/{number}.tif", f"target_class/{number}.tif"] for number in range(len(targets))]
    return clean_label_targets(names, targets, Plain(), classes, folder)


def test_an_object_has_the_class_that_is_most_frequent_in_it() -> None:
    labels = np.array([1, 1, 1, 1, 2, 2, 3, 0, -1])
    drawn = np.array([0, 0, 0, 2, 2, 1, 0, 2, 2])
    np.testing.assert_array_equal(object_classes(labels, drawn, 2), [0, 2, 1, 0])


def test_all_of_an_object_is_of_its_class_and_nothing_else_is(tmp_path: Path) -> None:
    drawn = np.zeros(LABELS.shape, np.uint8)
    drawn[0, 0], drawn[:, 3:5] = 2, 1
    ((labels, classes),) = clean(tmp_path, [drawn]).images
    np.testing.assert_array_equal(labels, [[1, 1, 1, 0, 2, 2], [1, 1, 1, 0, 2, 2], [-1, -1, 0, 0, 3, 3]])
    np.testing.assert_array_equal(classes, [[2, 2, 2, 0, 1, 1], [2, 2, 2, 0, 1, 1], [0, 0, 0, 0, 1, 1]])
    assert classes.dtype == np.uint8


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.full(LABELS.shape, 0.5, np.float32), r"target_class/1\.tif has values of type float32: save .* 8-bit"),
        (np.full(LABELS.shape, 3, np.uint8), r"target_class/1\.tif has the class 3, and classes is 2: set .* to 3"),
        (
            np.full(LABELS.shape, 255, np.uint8),
            r"target_class/1\.tif has the value 255, and there can be 100 classes: ",
        ),
        (np.full(LABELS.shape, -1, np.int16), r"target_class/1\.tif has the value -1: classes are numbers from 1"),
    ],
)
def test_class_images_that_are_none_are_refused_by_name(tmp_path: Path, wrong: NDArray[Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        clean(tmp_path, [np.ones(LABELS.shape, np.uint8), wrong, wrong])
    assert [violation.field for violation in caught.value.violations] == ["target_class/1.tif", "target_class/2.tif"]


def test_classes_that_no_object_has_are_refused(tmp_path: Path) -> None:
    outside = (LABELS <= 0).astype(np.uint8)
    with pytest.raises(InvalidInputError, match=r"No object has a class.*target_class/0\.tif.*inside each object"):
        clean(tmp_path, [outside, outside])


def test_a_class_without_objects_is_warned_of(tmp_path: Path) -> None:
    (warning,) = clean(tmp_path, [np.ones(LABELS.shape, np.uint8)], classes=3).warnings
    assert "class 2, 3" in warning
    assert clean(tmp_path, [np.ones(LABELS.shape, np.uint8)], classes=1).warnings == ()
