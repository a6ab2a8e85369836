"""Average precision against values computed by hand from the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest

from parfocal.runtime.methods import average_precision as precisions
from parfocal.runtime.methods.average_precision import (
    average_precision,
    box_overlaps,
    match_by_score,
    paired_overlaps,
    row_of,
    sparse_overlaps,
)


def test_overlaps_are_intersection_over_union() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 5, 5, 9]], np.float32)
    others = np.array([[0, 0, 10, 10], [0, 5, 10, 15], [20, 20, 30, 30], [5, 5, 5, 9]], np.float32)
    np.testing.assert_allclose(box_overlaps(boxes, others), [[1, 1 / 3, 0, 0], [0, 0, 0, 0]])


def test_sparse_overlaps_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precisions, "_AT_ONCE", 7)
    rng = np.random.default_rng(0)
    one, other = (
        np.column_stack([corner, corner + rng.uniform(0, 30, corner.shape)]).astype(np.float32)
        for corner in (rng.uniform(0, 200, (count, 2)) for count in (60, 45))
    )
    dense = box_overlaps(one, other)
    table = sparse_overlaps(one, other)
    np.testing.assert_array_equal(table.toarray(), dense)
    assert 0 < table.nnz == np.count_nonzero(dense)
    for number in range(len(one)):
        columns, values = row_of(table, number)
        assert columns.tolist() == np.flatnonzero(dense[number]).tolist()
        np.testing.assert_array_equal(values, dense[number, columns])
    np.testing.assert_array_equal(paired_overlaps(one[:45], other), np.diag(dense[:45]))
    assert sparse_overlaps(one[:0], other).shape == (0, 45)
    assert sparse_overlaps(one, other[:0]).shape == (60, 0)


def test_the_higher_score_claims_the_box_and_a_duplicate_is_a_false_positive() -> None:
    truth = np.array([[0, 0, 10, 10]])
    boxes = np.array([[0, 0, 10, 9], [0, 0, 10, 10]])
    assert match_by_score(boxes, np.array([0.9, 0.8]), truth, 0.5).tolist() == [True, False]
    assert match_by_score(boxes, np.array([0.8, 0.9]), truth, 0.5).tolist() == [False, True]


def test_a_detection_is_compared_with_the_box_it_overlaps_most_only() -> None:
    truth = np.array([[0, 0, 10, 10], [0, 2, 10, 12]])
    boxes = np.array([[0, 0, 10, 10], [0, 0.9, 10, 10.9]])
    # The second overlaps the first box most, which is claimed; VOC does not give it the other one.
    assert match_by_score(boxes, np.array([0.9, 0.8]), truth, 0.5).tolist() == [True, False]


def test_an_overlap_equal_to_the_threshold_matches() -> None:
    truth, box = np.array([[0, 0, 10, 10]]), np.array([[0, 0, 10, 5]])
    assert match_by_score(box, np.array([1.0]), truth, 0.5).tolist() == [True]
    assert match_by_score(box, np.array([1.0]), truth, 0.51).tolist() == [False]


def test_matching_without_boxes_on_either_side() -> None:
    none = np.zeros((0, 4))
    assert match_by_score(none, np.zeros(0), np.array([[0, 0, 1, 1]]), 0.5).tolist() == []
    assert match_by_score(np.array([[0, 0, 1, 1]]), np.ones(1), none, 0.5).tolist() == [False]


def test_average_precision_of_a_known_ranking() -> None:
    matched = np.array([True, False, True, False, True])
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    # Recall rises by a quarter at precision 1, 2/3 and 3/5; the fourth box is not found.
    assert average_precision(scores, matched, 4) == pytest.approx((1 + 2 / 3 + 3 / 5) / 4)


def test_a_later_higher_precision_counts_for_lower_recall() -> None:
    matched = np.array([False, True, True, True])
    assert average_precision(np.array([0.9, 0.8, 0.7, 0.6]), matched, 3) == pytest.approx(3 / 4)


def test_order_of_equal_scores_does_not_matter() -> None:
    scores = np.array([0.9, 0.5, 0.5])
    one = average_precision(scores, np.array([True, True, False]), 2)
    other = average_precision(scores, np.array([True, False, True]), 2)
    assert one == other == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_limits() -> None:
    assert average_precision(np.array([0.3, 0.2]), np.array([True, True]), 2) == 1
    assert average_precision(np.array([0.3]), np.array([False]), 2) == 0
    assert average_precision(np.zeros(0), np.zeros(0, bool), 2) == 0
    assert math.isnan(average_precision(np.array([0.3]), np.array([False]), 0))
