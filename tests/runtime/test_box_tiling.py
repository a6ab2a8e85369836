"""Boxes found tile by tile are those found in the whole image, each once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.ndimage import find_objects, label

from parfocal.runtime.errors import OutOfMemoryError
from parfocal.runtime.methods.outputs import Detections
from parfocal.runtime.prediction.box_tiling import find_boxes, suppress_overlaps
from parfocal.runtime.prediction.tiling import Tiling


def found_in(tile: Any) -> Detections:
    """Return the boxes around what hangs together, as sure as it is bright, but for what the border cuts off."""
    boxes, confidence = [], []
    labels, _ = label(tile[..., 0] > 0.2)
    for y, x in find_objects(labels):
        boxes.append([y.start, x.start, y.stop, x.stop])
        confidence.append(tile[y, x, 0].max())
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.zeros(len(boxes), np.int64),
        np.array(confidence, np.float32),
    )


def squares(*corners: tuple[int, int], side: int = 20, shape: tuple[int, int] = (130, 260)) -> Any:
    image = np.zeros((*shape, 1), np.float32)
    for number, (y, x) in enumerate(corners):
        image[y : y + side, x : x + side] = 0.9 - 0.01 * number
    return image


# Across the seams at x = 80 and 160, at a corner of four tiles, and at the borders of the image.
PLACES = [(0, 0), (10, 70), (40, 88), (70, 150), (105, 240), (60, 4), (110, 110), (52, 208)]


@pytest.mark.parametrize("most_pixels", [1, 96 * 96, 96 * 160, 10**6])
def test_every_object_is_found_once_whatever_the_tiles(most_pixels: int) -> None:
    calls: list[tuple[int, int]] = []
    tiling = Tiling(most_pixels, lambda done, total: calls.append((done, total)))
    found = find_boxes(found_in, squares(*PLACES), tiling, divisor=16, margin=32, most_overlap=0.3)
    expected = [[y, x, y + 20, x + 20] for y, x in PLACES]
    assert found.corners.tolist() == expected  # in the order of their brightness
    assert calls[-1][0] == calls[-1][1] == len(calls)
    assert (len(calls) > 1) == (most_pixels < 10**6)


def test_an_object_that_two_tiles_see_in_different_places_is_neither_lost_nor_doubled() -> None:
    image = squares((50, 70))
    for jitter in (-3.0, 3.0):

        def shifted(tile: Any, jitter: float = jitter) -> Detections:
            found = found_in(tile)
            # What lies in the left part of a tile is seen further right, and the other way round.
            move = np.where(found.corners[:, 1] < tile.shape[1] / 2, jitter, -jitter)
            corners = found.corners + np.stack([0 * move, move, 0 * move, move], axis=1)
            return Detections(corners.astype(np.float32), found.classes, found.confidence)

        found = find_boxes(shifted, image, Tiling(80 * 96), divisor=16, margin=32, most_overlap=0.3)
        assert len(found.corners) == 1


def test_what_lies_beyond_the_image_is_not_found() -> None:
    def everywhere(tile: Any) -> Detections:
        corners = [[y, x, y + 12, x + 12] for y in range(0, tile.shape[0], 16) for x in range(0, tile.shape[1], 16)]
        return Detections(
            np.array(corners, np.float32), np.zeros(len(corners), np.int64), np.ones(len(corners), np.float32)
        )

    found = find_boxes(
        everywhere, np.zeros((37, 25, 2), np.float32), Tiling(10**6), divisor=32, margin=32, most_overlap=1
    )
    assert sorted(found.corners.tolist()) == [
        [0, 0, 12, 12],
        [0, 16, 12, 25],
        [16, 0, 28, 12],
        [16, 16, 28, 25],
    ]


def test_tiles_are_filled_up_with_the_median_and_not_with_mirrored_objects() -> None:
    seen: list[Any] = []

    def watch(tile: Any) -> Detections:
        seen.append(tile)
        return found_in(tile)

    image = squares((20, 20), shape=(41, 41))
    find_boxes(watch, image, Tiling(10**6), divisor=32, margin=32, most_overlap=0.3)
    (tile,) = seen
    assert tile.shape == (64, 64, 1)
    np.testing.assert_array_equal(tile[:41, :41], image)
    assert not tile[41:].any()
    assert not tile[:, 41:].any()


def test_tiles_become_smaller_when_memory_runs_out() -> None:
    sizes: list[tuple[int, ...]] = []

    def greedy(tile: Any) -> Detections:
        sizes.append(tile.shape)
        if tile.shape[0] * tile.shape[1] > 100 * 100:
            raise OutOfMemoryError("too large")
        return found_in(tile)

    found = find_boxes(greedy, squares(*PLACES), Tiling(10**6), divisor=16, margin=32, most_overlap=0.3)
    assert len(found.corners) == len(PLACES)
    assert sizes[0][0] * sizes[0][1] > sizes[-1][0] * sizes[-1][1]

    def hopeless(tile: Any) -> Detections:
        raise MemoryError

    with pytest.raises(OutOfMemoryError):
        find_boxes(hopeless, squares(*PLACES), Tiling(10**6), divisor=16, margin=32, most_overlap=0.3)


def test_the_most_certain_of_overlapping_boxes_of_a_class_survives() -> None:
    corners = np.array([[0, 0, 10, 10], [0, 2, 10, 12], [0, 2, 10, 12], [0, 30, 10, 40], [0, 5, 10, 15]], np.float32)
    classes, confidence = np.array([0, 0, 1, 0, 0]), np.array([0.7, 0.9, 0.8, 0.2, 0.6], np.float32)
    found = suppress_overlaps(Detections(corners, classes, confidence), 0.5)
    # The first overlaps the second by 2/3, the last by 7/13.
    assert found.confidence.tolist() == pytest.approx([0.9, 0.8, 0.2])
    loose = suppress_overlaps(Detections(corners, classes, confidence), 0.6)
    assert loose.confidence.tolist() == pytest.approx([0.9, 0.8, 0.6, 0.2])
    exact = suppress_overlaps(Detections(corners, classes, confidence), 7 / 13)
    assert exact.confidence.tolist() == pytest.approx([0.9, 0.8, 0.2])


def test_suppression_of_nothing() -> None:
    none = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32))
    assert suppress_overlaps(none, 0.3).corners.shape == (0, 4)
