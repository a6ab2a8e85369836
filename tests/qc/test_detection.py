"""Metrics of detection: cases that can be counted by hand, and the numbers of pycocotools."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array

from parfocal.qc.metrics.objects.agreement import bland_altman
from parfocal.qc.metrics.objects.detections import (
    IOU_LEVELS,
    BoxMatches,
    Rule,
    average_precisions,
    centre_offsets,
    class_counts,
    coco_average_precision,
    confusion,
    levels_with,
    match_boxes,
    outcomes,
    rank,
)
from parfocal.qc.metrics.objects.instances import Counts
from parfocal.runtime.datasets.boxes import Boxes
from parfocal.runtime.methods.average_precision import average_precision, claim_by_score
from parfocal.runtime.methods.outputs import Detections

LEVELS = levels_with(0.5)


def boxes(*rows: tuple[float, ...], difficult: tuple[int, ...] = ()) -> Boxes:
    """Annotated boxes from (class, y0, x0, y1, x1)."""
    table = np.array(rows, np.float32).reshape(-1, 5)
    hard = np.isin(np.arange(len(rows)), difficult)
    return Boxes(table[:, 1:], table[:, 0].astype(np.int64), hard, np.zeros(len(rows), bool))


def detections(*rows: tuple[float, ...]) -> Detections:
    """Detections from (class, confidence, y0, x0, y1, x1)."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, 2:], table[:, 0].astype(np.int64), table[:, 1])


# Two classes. IoU: the first exact, the second 60/100 of class 1 (so given class 0 it is of the wrong one), the third
# far from anything; the third annotated box is not found.
TRUTH = boxes((0, 0, 0, 10, 10), (1, 20, 20, 30, 30), (0, 50, 50, 60, 60))
FOUND = detections((0, 0.9, 0, 0, 10, 10), (0, 0.8, 20, 20, 26, 30), (1, 0.7, 80, 80, 90, 90))


def test_outcomes_confusion_and_counts_of_a_case_by_hand() -> None:
    matches = match_boxes(TRUTH, FOUND, 2, LEVELS)
    outcome = outcomes(TRUTH, FOUND, matches, 0.5, 0.0)
    assert outcome.true_positives.tolist() == [[0, 0]]
    assert outcome.wrong_class.tolist() == [[1, 1]]
    assert outcome.wrong_iou == pytest.approx([0.6])
    assert outcome.false_negatives.tolist() == [2]
    assert outcome.false_positives.tolist() == [2]
    assert outcome.counts == Counts(1, 2, 2)
    assert class_counts(TRUTH, matches, outcome, 2) == [Counts(1, 1, 1, 1.0), Counts(0, 1, 1, 0.0)]
    assert confusion(TRUTH, matches, outcome, 2).tolist() == [[1, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert centre_offsets(TRUTH, FOUND, outcome).tolist() == [[0.0, 0.0]]


def test_a_wrong_class_below_the_level_is_a_false_positive_and_a_false_negative() -> None:
    outcome = outcomes(TRUTH, FOUND, match_boxes(TRUTH, FOUND, 2, levels_with(0.7)), 0.7, 0.0)
    assert len(outcome.wrong_class) == 0
    assert (outcome.false_negatives.tolist(), outcome.false_positives.tolist()) == ([1, 2], [1, 2])


def test_detections_below_the_confidence_do_not_count() -> None:
    matches = match_boxes(TRUTH, FOUND, 2, LEVELS)
    assert outcomes(TRUTH, FOUND, matches, 0.5, 0.8).counts == Counts(1, 1, 2)
    assert outcomes(TRUTH, FOUND, matches, 0.5, 0.85).counts == Counts(1, 0, 2)
    # 0.7 in single precision is less than 0.7.
    assert outcomes(TRUTH, FOUND, matches, 0.5, 0.7).counts == Counts(1, 2, 2)


def test_a_detection_of_the_same_object_again_is_a_false_positive() -> None:
    truth = boxes((0, 0, 0, 10, 10))
    found = detections((0, 0.5, 0, 0, 10, 10), (0, 0.9, 1, 0, 11, 10))
    outcome = outcomes(truth, found, match_boxes(truth, found, 1, LEVELS), 0.5, 0.0)
    assert outcome.true_positives.tolist() == [[0, 1]]  # the more certain one, although the other fits better
    assert outcome.false_positives.tolist() == [0]


def test_the_rules_differ_where_the_best_box_is_taken() -> None:
    """The second detection overlaps the first box most, which is taken, and the second one by more than the level."""
    truth = boxes((0, 0, 0, 10, 10), (0, 0, 3, 10, 13))
    found = detections((0, 0.9, 0, 0, 10, 10), (0, 0.8, 0, 1, 10, 11))
    matches = match_boxes(truth, found, 1, LEVELS)
    assert matches.claims_at(0.5, "voc").tolist() == [0, -1]
    assert matches.claims_at(0.5, "coco").tolist() == [0, 1]
    assert rank([matches], 0.5, "voc").average_precision("voc") == 0.5
    assert rank([matches], 0.5, "coco").average_precision("coco") == 1.0


def test_difficult_objects_need_not_be_found() -> None:
    truth = boxes((0, 0, 0, 10, 10), (0, 20, 20, 30, 30), (0, 40, 40, 50, 50), difficult=(1, 2))
    found = detections((0, 0.9, 20, 20, 30, 30), (0, 0.8, 20, 20, 30, 30), (0, 0.7, 0, 0, 10, 10))
    matches = match_boxes(truth, found, 1, LEVELS)
    outcome = outcomes(truth, found, matches, 0.5, 0.0)
    assert outcome.counts == Counts(1, 0, 0)
    rules: tuple[Rule, ...] = ("voc", "coco")
    for rule in rules:
        ranking = rank([matches], 0.5, rule, 0)
        assert (ranking.positives, ranking.matched.tolist()) == (1, [True])
        assert ranking.average_precision(rule) == 1


def test_average_precision_of_true_false_true_on_two_objects() -> None:
    scores, matched = np.array([0.9, 0.8, 0.7]), np.array([True, False, True])
    assert average_precision(scores, matched, 2) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)
    # 51 recalls up to 0.5 at precision 1, 50 beyond at 2/3.
    assert coco_average_precision(scores, matched, 2) == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert round(coco_average_precision(scores, matched, 2), 5) == 0.83498


def test_classes_without_annotation_have_no_average_precision() -> None:
    by_level = average_precisions([match_boxes(TRUTH, FOUND, 3, LEVELS)], 3, "voc")
    assert math.isnan(by_level[0.5][2])
    assert by_level[0.5][:2].tolist() == [0.5, 0.0]
    assert math.isnan(coco_average_precision(np.zeros(0), np.zeros(0, bool), 0))
    assert coco_average_precision(np.zeros(0), np.zeros(0, bool), 3) == 0


def test_images_without_boxes_or_without_detections_are_scored() -> None:
    empty = match_boxes(boxes(), detections(), 2, LEVELS)
    assert outcomes(boxes(), detections(), empty, 0.5, 0.0).counts == Counts()
    nothing = match_boxes(TRUTH, detections(), 2, LEVELS)
    assert outcomes(TRUTH, detections(), nothing, 0.5, 0.0).counts == Counts(0, 0, 3)
    false_positives = match_boxes(boxes(), FOUND, 2, LEVELS)
    assert outcomes(boxes(), FOUND, false_positives, 0.5, 0.0).counts == Counts(0, 3, 0)
    together = rank([empty, nothing, false_positives], 0.5)
    assert (together.positives, together.matched.tolist()) == (3, [False] * 3)
    confidence, found, wrong = together.curve()
    assert (confidence.round(3).tolist(), found.tolist(), wrong.tolist()) == ([0.9, 0.8, 0.7], [0, 0, 0], [1, 2, 3])


def test_claims_name_the_box_that_was_found() -> None:
    overlaps = csr_array(np.array([[0.6, 0.7], [0.9, 0.2], [0.0, 0.8]]))
    assert claim_by_score(overlaps, np.array([0.1, 0.2, 0.3]), 0.5).tolist() == [-1, 0, 1]
    assert claim_by_score(overlaps, np.array([0.1, 0.2, 0.3]), 0.5, np.array([False, True])).tolist() == [1, 0, 1]


def random_images(seed: int, images: int, classes: int) -> list[tuple[Boxes, Detections]]:
    """Annotated boxes in images of 200 px, most of them detected some pixels off and some as another class."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(images):
        count = int(random.integers(3, 12))
        corner, size = random.uniform(0, 150, (count, 2)), random.uniform(15, 50, (count, 2))
        truth = np.column_stack([random.integers(0, classes, count), corner, corner + size]).round(2)
        kept = truth[random.random(count) < 0.85]
        other = random.random(len(kept)) < 0.1
        given = np.where(other, random.integers(0, classes, len(kept)), kept[:, 0])
        moved = kept[:, 1:] + random.normal(0, 3.0, (len(kept), 4))
        extra = int(random.integers(0, 5))
        corner, size = random.uniform(0, 150, (extra, 2)), random.uniform(15, 50, (extra, 2))
        false_positives = np.column_stack([random.integers(0, classes, extra), corner, corner + size])
        found = np.vstack([np.column_stack([given, moved]), false_positives]).round(2)
        scores = random.permutation(np.linspace(0.05, 0.99, len(found))).round(4)
        made.append((boxes(*truth), detections(*np.insert(found, 1, scores, axis=1))))
    return made


def mean_precisions(images: list[tuple[Boxes, Detections]], classes: int, rule: Rule) -> NDArray[np.float64]:
    """Mean over classes at IoU 0.3, 0.5, 0.75 and over 0.5 to 0.95."""
    matches: list[BoxMatches] = [match_boxes(truth, found, classes, LEVELS) for truth, found in images]
    by_level = average_precisions(matches, classes, rule)
    single = [float(np.nanmean(by_level[level])) for level in (0.3, 0.5, 0.75)]
    return np.array([*single, np.mean([np.nanmean(by_level[level]) for level in IOU_LEVELS])])


# pycocotools 2.0.11 with numpy 2.4.6: COCOeval of the boxes of `random_images` in single precision, with annotation ids
# from 1, areas from width and height, iouThrs (0.3, 0.5, 0.75) and then the ten of the default, and the mean of
# eval["precision"][..., 0, 2] over classes and recalls: all areas, 100 detections.
EXPECTED = {
    0: (0.606436113909209, 0.5483008014131561, 0.1557022368903557, 0.256357921474581),
    1: (0.5845095826071005, 0.5418081466074997, 0.11668176433027919, 0.2265890285018796),
    2: (0.6634829838635435, 0.652874780186033, 0.20344702594265787, 0.2939620265251079),
}


@pytest.mark.parametrize("seed", EXPECTED)
def test_mean_average_precision_is_that_of_pycocotools(seed: int) -> None:
    found = mean_precisions(random_images(seed, images=12, classes=3), 3, "coco")
    np.testing.assert_allclose(found, EXPECTED[seed], rtol=0, atol=1e-9)


def test_the_rule_of_pascal_voc_is_near_that_of_coco() -> None:
    """Other interpolation, and nearly the same matches: they differ, but not by much."""
    images = random_images(1, images=12, classes=3)
    difference = mean_precisions(images, 3, "voc") - mean_precisions(images, 3, "coco")
    assert 0 < np.abs(difference).max() < 0.03


def test_agreement_of_counts_by_hand() -> None:
    """Differences 1, -1, 3, 1: mean 1, sample sd sqrt(8/3); t of 3 degrees of freedom at 97.5 % is 3.18245."""
    found = bland_altman(np.array([11, 9, 23, 31]), np.array([10, 10, 20, 30]))
    sd = math.sqrt(8 / 3)
    assert (found.images, found.bias) == (4, 1.0)
    assert (found.lower, found.upper) == pytest.approx((1 - 1.96 * sd, 1 + 1.96 * sd))
    assert found.bias_interval == pytest.approx((1 - 3.1824463 * sd / 2, 1 + 3.1824463 * sd / 2))
    half = 3.1824463 * sd * math.sqrt(3 / 4)
    assert found.upper_interval == pytest.approx((1 + 1.96 * sd - half, 1 + 1.96 * sd + half))


@pytest.mark.parametrize("images", [1, 2])
def test_few_images_have_no_limits_of_agreement(images: int) -> None:
    found = bland_altman(np.arange(images) + 2.0, np.arange(images) * 1.0)
    assert (found.bias, found.lower, found.bias_interval) == (2.0, None, None)
