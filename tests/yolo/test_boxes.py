"""YOLOv2 without its network: anchors, assignment, and from output to boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from parfocal.runtime.datasets.boxes import Boxes
from parfocal.yolo.boxes import assign, decode, measure_anchors, size_overlaps

ANCHORS = np.array([[1.0, 1.0], [2.0, 1.0], [1.0, 3.0]])


def boxes(*corners: tuple[float, float, float, float], classes: Any = ()) -> Boxes:
    """Return boxes [y0, x0, y1, x1] in pixels."""
    count = len(corners)
    kinds = np.array(classes or [0] * count, np.int64)
    return Boxes(np.array(corners, np.float32).reshape(-1, 4), kinds, np.zeros(count, bool), np.zeros(count, bool))


def logit(value: Any) -> Any:
    return np.log(value) - np.log1p(-value)


def test_anchors_are_the_sizes_of_clusters() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[20.0, 60.0], [40.0, 20.0], [100.0, 90.0]])
    sizes = np.concatenate([centre * rng.uniform(0.95, 1.05, (50, 2)) for centre in centres])
    # Where a draw puts two centroids into one cluster the result is worse, as with every k-means; most draws do not.
    found = [measure_anchors(sizes, 3, seed) for seed in range(8)]
    good = [each for each in found if np.allclose(each, centres, rtol=0.03)]
    assert len(good) > 2
    np.testing.assert_array_equal(measure_anchors(sizes, 3, 5), found[5])
    for each in found:
        assert np.all(np.diff(each[:, 0]) >= 0)


def test_no_box_is_nearer_to_another_anchor_than_to_the_mean_of_its_own_cluster() -> None:
    sizes = np.random.default_rng(1).uniform(5, 200, (300, 2))
    anchors = measure_anchors(sizes, 5, 0)
    nearest = np.argmax(size_overlaps(sizes, anchors), axis=1)
    for number, anchor in enumerate(anchors):
        np.testing.assert_allclose(sizes[nearest == number].mean(axis=0), anchor)


def test_fewer_different_sizes_give_fewer_anchors() -> None:
    sizes = np.array([[10.0, 12.0]] * 9 + [[30.0, 30.0]])
    np.testing.assert_allclose(measure_anchors(sizes, 5, 0), [[10, 12], [30, 30]])


def test_overlaps_of_sizes() -> None:
    overlaps = size_overlaps(np.array([[2.0, 2.0]]), np.array([[2.0, 2.0], [1.0, 2.0], [4.0, 1.0]]))
    np.testing.assert_allclose(overlaps, [[1, 0.5, 2 / 6]])


def test_the_cell_of_the_middle_and_the_anchor_most_alike_answer_for_an_object() -> None:
    # 64 x 32 pixels (width x height) around (y 40, x 70): cell (1, 2), anchor 2 x 1.
    targets = assign([boxes((24, 38, 56, 102), classes=[2])], ANCHORS, (3, 4))
    assert np.argwhere(targets.responsible).tolist() == [[0, 1, 2, 1]]
    np.testing.assert_allclose(targets.boxes[0, 1, 2, 1], [70 / 32, 40 / 32, 2, 1])
    assert targets.classes[0, 1, 2, 1] == 2
    np.testing.assert_allclose(targets.truth[0], [[70 / 32, 40 / 32, 2, 1]])


def test_of_two_objects_of_one_cell_and_anchor_the_later_is_trained_on_and_both_shield() -> None:
    targets = assign([boxes((0, 0, 32, 32), (2, 2, 32, 32)), boxes()], ANCHORS, (2, 2))
    assert np.argwhere(targets.responsible).tolist() == [[0, 0, 0, 0]]
    np.testing.assert_allclose(targets.boxes[0, 0, 0, 0], [17 / 32, 17 / 32, 30 / 32, 30 / 32])
    assert (targets.truth[0, :, 2] > 0).tolist() == [True, True]
    assert not targets.truth[1].any()


def test_there_is_no_limit_of_boxes() -> None:
    many = boxes(*((y * 32 + 4, x * 32 + 4, y * 32 + 28, x * 32 + 28) for y in range(6) for x in range(5)))
    targets = assign([many], ANCHORS, (6, 5))
    assert targets.responsible.sum() == 30
    assert (targets.truth[0, :, 2] > 0).sum() == 30


def test_boxes_without_area_or_with_their_middle_outside_do_not_train() -> None:
    targets = assign([boxes((10, 10, 10, 20), (-40, 0, -4, 20), (50, 50, 80, 80))], ANCHORS, (2, 2))
    assert not targets.responsible.any()


@pytest.mark.parametrize("grid", [(3, 5), (5, 3), (2, 2)])
def test_what_was_assigned_is_decoded_to_the_same_boxes(grid: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    cells = rng.permutation(grid[0] * grid[1])[:4]
    middles = np.stack(np.unravel_index(cells, grid), axis=1) * 32 + rng.uniform(2, 30, (4, 2))
    sizes = rng.uniform(8, 90, (4, 2))
    truth = boxes(*map(tuple, np.concatenate([middles - sizes / 2, middles + sizes / 2], axis=1)), classes=[0, 1, 1, 2])
    targets = assign([truth], ANCHORS, grid)
    raw = np.full((*grid, len(ANCHORS), 8), -9.0)
    for _, y, x, anchor in np.argwhere(targets.responsible):
        box = targets.boxes[0, y, x, anchor].astype(np.float64)
        raw[y, x, anchor, :2] = logit(box[:2] - [x, y])
        raw[y, x, anchor, 2:4] = np.log(box[2:] / ANCHORS[anchor])
        raw[y, x, anchor, 4] = 4
        raw[y, x, anchor, 5 + targets.classes[0, y, x, anchor]] = 5
    found = decode(raw.reshape(*grid, -1), ANCHORS, 0.3)
    order, expected = np.lexsort(found.corners.T), np.lexsort(truth.corners.T)
    np.testing.assert_allclose(found.corners[order], truth.corners[expected], atol=1e-3)
    np.testing.assert_array_equal(found.classes[order], truth.classes[expected])
    np.testing.assert_allclose(found.confidence, 1 / (1 + np.exp(-4)), rtol=1e-4)


def test_a_score_is_the_confidence_times_the_probability_of_the_class() -> None:
    raw = np.zeros((1, 1, 1, 7))
    raw[0, 0, 0] = [0, 0, 0, 0, 1.0, 0.5, -0.5]
    score = 1 / (1 + np.exp(-1.0)) * np.exp(0.5) / (np.exp(0.5) + np.exp(-0.5))
    (found,) = decode(raw.reshape(1, 1, 7), ANCHORS[:1], 0.01).confidence
    assert found == pytest.approx(score)
    assert len(decode(raw.reshape(1, 1, 7), ANCHORS[:1], score + 0.01).confidence) == 0


def test_sizes_beyond_all_bounds_stay_numbers() -> None:
    raw = np.array([0, 0, 800.0, -800.0, 900.0, 0]).reshape(1, 1, 6)
    found = decode(raw, ANCHORS[:1], 0.3)
    assert np.isfinite(found.corners).all()
    assert found.confidence == pytest.approx(1)
