"""Class images: one class for each object, and errors that name file and cure."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from parfocal.runtime.datasets.classes import object_classes
from parfocal.runtime.datasets.labels import label_problem
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.training.label_targets import clean_label_targets

LABELS = np.array([[7, 7, 7, 0, 9, 9], [7, 7, 7, 0, 9, 9], [-4, -4, 0, 0, 30, 30]], np.int16)


def clean(folder: Path, drawn: Iterable[NDArray[Any]], classes: int = 2) -> Any:
    targets = [(LABELS, image) for image in drawn]
    names = [[f"target/{number}.tif", f"target_class/{number}.tif"] for number in range(len(targets))]
    return clean_label_targets(names, targets, np.asarray, classes, folder)


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
        (np.full(LABELS.shape, 0.5, np.float32), r"target_class/1\.tif .*float32.* 8-bit"),
        (np.full(LABELS.shape, 3, np.uint8), r"target_class/1\.tif .*class 3,.* classes is 2.* to 3"),
        (
            np.full(LABELS.shape, 255, np.uint8),
            r"target_class/1\.tif .*value 255,.* 100 classes",
        ),
        (np.full(LABELS.shape, -1, np.int16), r"target_class/1\.tif .*value -1.* from 1"),
    ],
)
def test_class_images_that_are_none_are_refused_by_name(tmp_path: Path, wrong: NDArray[Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        clean(tmp_path, [np.ones(LABELS.shape, np.uint8), wrong, wrong])
    assert [violation.field for violation in caught.value.violations] == ["target_class/1.tif", "target_class/2.tif"]


def test_classes_that_no_object_has_are_refused(tmp_path: Path) -> None:
    outside = (LABELS <= 0).astype(np.uint8)
    with pytest.raises(InvalidInputError, match=r"No object .*target_class/0\.tif"):
        clean(tmp_path, [outside, outside])


def test_a_class_without_objects_is_warned_of(tmp_path: Path) -> None:
    (warning,) = clean(tmp_path, [np.ones(LABELS.shape, np.uint8)], classes=3).warnings
    assert "class 2, 3" in warning
    assert clean(tmp_path, [np.ones(LABELS.shape, np.uint8)], classes=1).warnings == ()


def grey(sigma: float, shape: tuple[int, ...] = (64, 64)) -> NDArray[np.uint16]:
    """A background of 100 grey values with a bright square, and noise."""
    expected = np.full(shape, 100.0)
    expected[..., 20:40, 20:40] += 80
    return np.random.default_rng(0).normal(expected, sigma).round().astype(np.uint16)


@pytest.mark.parametrize(
    "image",
    [
        grey(20),
        grey(2).astype(np.uint8),  # of few grey values
        grey(20, (5, 64, 64)),
        np.arange(64 * 64, dtype=np.uint16).reshape(64, 64),  # without noise: no value comes twice
    ],
)
def test_grey_images_are_refused_by_name_with_the_cure(tmp_path: Path, image: NDArray[Any]) -> None:
    labels = np.zeros_like(image)
    labels[..., 3:9, 3:9] = 4
    names = [["target/a.tif"], ["target/b.tif"], ["target/c.tif"]]
    message = r"2 targets .* target/b\.tif .*grey values.*0 for background.* target/c\.tif"
    with pytest.raises(InvalidInputError, match=message) as caught:
        clean_label_targets(names, [(labels,), (image,), (image,)], np.asarray, 0, tmp_path)
    assert [violation.field for violation in caught.value.violations] == ["target/b.tif", "target/c.tif"]


@pytest.mark.parametrize("value", [0.25, np.nan])
def test_fractions_are_no_labels_in_whichever_plane_they_are(tmp_path: Path, value: float) -> None:
    image = np.zeros((3, 8, 8), np.float32)
    assert label_problem(image) == ""  # whole numbers, however they are stored
    image[1, 2, 2] = value
    with pytest.raises(InvalidInputError, match=r"target/a\.tif has fractions"):
        clean_label_targets([["target/a.tif"]], [(image,)], np.asarray, 0, tmp_path)


def test_labels_of_every_kind_are_taken() -> None:
    tiles = np.kron(np.arange(1, 1 + 40 * 40).reshape(40, 40), np.ones((3, 3), np.int64))  # without background
    dots = np.zeros((200, 200), np.uint32)
    dots[::2, ::2] = np.arange(1, 10_001).reshape(100, 100)  # a pixel each
    stripes = np.repeat(np.arange(1, 301, dtype=np.uint16)[:, np.newaxis], 300, axis=1)  # a pixel wide
    mask = (grey(20) > 110).astype(np.uint8) * 255
    slips = np.ones((64, 64), np.uint16)
    slips[1:-1:5, 1:-1:5] = np.arange(2, 171).reshape(13, 13)  # 4 % of the pixels
    unlabelled = np.full((64, 64), -1, np.int16)
    for labels in (tiles, np.stack([tiles] * 3), dots, stripes, mask, slips, unlabelled, np.zeros((1, 1), np.uint8)):
        assert label_problem(labels) == ""
