"""Baseline, verdict, tables and pictures of detection quality control, without a job."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parfocal.qc.detection.baseline import choose_boxes, label_boxes
from parfocal.qc.detection.figure import (
    WRONG_CLASS,
    confusion_figure,
    counts_figure,
    curves_figure,
    detection_figure,
    layers,
    overlay_figure,
)
from parfocal.qc.detection.judge import best_confidence, judge, rare_classes
from parfocal.qc.detection.parameters import DetectionThresholds
from parfocal.qc.detection.scoring import KindScore, ScoredBoxes, Totals, image_values, total
from parfocal.qc.detection.tables import write_tables
from parfocal.qc.evaluation.inputs import AnnotatedItem
from parfocal.qc.metrics.objects.detections import (
    centre_offsets,
    class_counts,
    confusion,
    levels_with,
    match_boxes,
    outcomes,
)
from parfocal.qc.metrics.objects.instances import Counts
from parfocal.runtime.datasets.boxes import Boxes
from parfocal.runtime.methods.outputs import Detections
from parfocal.runtime.store.evaluations import ImageScore, Kind

NAMES = ("round", "long $_$ 細胞")
PLANE = (60, 80)
# In micrometres: twice as long in Y as in X.
ITEM = AnnotatedItem("a", "target", Path(), Path(), "", "YX", PLANE, (0.1, 0.2, None), Path())


def truth_of(rows: Sequence[tuple[float, ...]]) -> Boxes:
    table = np.array(rows, np.float32).reshape(-1, 5)
    none = np.zeros(len(table), bool)
    return Boxes(table[:, 1:], table[:, 0].astype(np.int64), none, none)


def found_of(rows: Sequence[tuple[float, ...]]) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, 2:], table[:, 0].astype(np.int64), table[:, 1])


TRUTH = truth_of([(0, 0, 0, 10, 10), (1, 20, 20, 40, 30), (0, 45, 45, 55, 55)])
FOUND = found_of([(0, 0.9, 1, 1, 11, 11), (0, 0.6, 20, 20, 40, 30), (1, 0.3, 40, 60, 50, 70)])


def scored(truth: Boxes, found: Detections, label: str = "a") -> ScoredBoxes:
    matches = match_boxes(truth, found, 2, levels_with(0.5))
    outcome = outcomes(truth, found, matches, 0.5, 0.0)
    score = KindScore(found, matches, outcome, class_counts(truth, matches, outcome, 2))
    kinds: dict[Kind, KindScore] = {"baseline": score, "prediction": score}
    table = confusion(truth, matches, outcome, 2)
    return ScoredBoxes(replace(ITEM, label=label), (), truth, kinds, table, centre_offsets(truth, found, outcome))


def totals_of(*images: ScoredBoxes) -> Totals:
    return total(images, NAMES, 0.5, 0.0)


def test_centres_are_off_in_micrometres_by_the_size_of_a_pixel_along_each_axis() -> None:
    totals = totals_of(scored(TRUTH, FOUND))
    assert totals.centres_px == pytest.approx([np.sqrt(2)])
    assert totals.centres_um == pytest.approx([np.hypot(0.2, 0.1)])
    values = image_values(ITEM, Counts(1, 2, 2, 0.68), 1, np.array([[1.0, 1.0]]))
    assert values["centre_distance_um"] == pytest.approx(np.hypot(0.2, 0.1))
    unknown = replace(ITEM, pixel_um=(None, None, None))
    assert "centre_distance_um" not in image_values(unknown, Counts(), 0, np.array([[1.0, 1.0]]))
    assert "centre_distance_px" not in image_values(ITEM, Counts(0, 1, 1), 0, np.zeros((0, 2)))


def test_totals_agree_with_counting_by_hand() -> None:
    totals = totals_of(scored(TRUTH, FOUND), scored(TRUTH, found_of([]), "b"))
    assert totals.pooled() == Counts(1, 2, 5, pytest.approx(81 / 119))
    assert totals.annotated.tolist() == [4, 2]
    by_level = dict(zip(totals.levels, totals.by_level["prediction"], strict=True))
    assert (by_level[0.5].tp, by_level[0.5].fp, by_level[0.5].fn) == (1, 2, 5)
    assert (by_level[0.75].tp, by_level[0.75].fp, by_level[0.75].fn) == (0, 3, 6)
    # One of four found first; nothing of the other class.
    assert totals.class_precision(0, 0.5) == 0.25
    assert totals.mean_precision(0.5) == 0.125
    assert (totals.agreement.bias, totals.agreement.sd) == (-1.5, pytest.approx(1.5 * np.sqrt(2)))
    assert best_confidence(totals) == (pytest.approx(0.9), pytest.approx(2 / 7))


def test_rare_classes_are_named_with_their_numbers() -> None:
    totals = totals_of(scored(TRUTH, FOUND))
    texts = rare_classes(totals, {NAMES[0]: 100, NAMES[1]: 10, "further": 11})
    assert "round (2)" in texts[0]
    assert f"{NAMES[1]} (10)" in texts[1]
    assert "further" not in texts[1]
    assert len(rare_classes(totals, {})) == 1


@pytest.mark.parametrize(
    ("thresholds", "gain", "verdict"),
    [({"min_f1": 0.3}, 0.1, "passed"), ({"min_f1": 0.5}, 0.1, "failed"), ({"min_f1": 0.3}, -0.1, "failed")],
)
def test_the_verdict_asks_for_f1_and_more_than_the_baseline(
    thresholds: dict[str, Any], gain: float, verdict: str
) -> None:
    values = {"f1": 0.5, "target_objects": 3.0, "predicted_objects": 3.0}
    images = [ImageScore(name, values) for name in "abcd"]
    others = [ImageScore(name, {**values, "f1": 0.5 - gain}) for name in "abcd"]
    by_kind: dict[Kind, Sequence[ImageScore]] = {"prediction": images, "baseline": others}
    totals = totals_of(scored(TRUTH, FOUND))
    assert totals.pooled().f1 == pytest.approx(1 / 3)
    assert judge(by_kind, totals, DetectionThresholds(**thresholds), {}).verdict == verdict


def test_a_test_without_boxes_passes_nobody() -> None:
    values = {"f1": 1.0, "target_objects": 0.0, "predicted_objects": 0.0}
    images = [ImageScore(name, values) for name in "abc"]
    by_kind: dict[Kind, Sequence[ImageScore]] = {"prediction": images, "baseline": images}
    totals = totals_of(scored(truth_of([]), found_of([])))
    assert judge(by_kind, totals, DetectionThresholds(min_f1=0), {}).verdict == "failed"
    assert best_confidence(totals) is None


@pytest.mark.parametrize("bright", [True, False])
def test_the_baseline_finds_boxes_and_takes_the_most_frequent_class(bright: bool) -> None:
    image, corners = np.full(PLANE, 100.0), np.array([[5, 5, 15, 25], [30, 40, 50, 52]], np.float32)
    for y0, x0, y1, x1 in corners.astype(int):
        image[y0:y1, x0:x1] += 80 if bright else -80
    baseline = choose_boxes([(image, corners)], 0.5, list(NAMES), {NAMES[1]: 7, NAMES[0]: 3})
    assert baseline.describe()["class"] == NAMES[1]
    found = baseline.find(image)
    assert found.corners.tolist() == corners.tolist()
    assert (found.classes.tolist(), found.confidence.tolist()) == ([1, 1], [1.0, 1.0])
    colours = np.stack([image] * 3, axis=-1)
    assert baseline.find(colours).corners.tolist() == corners.tolist()
    assert label_boxes(np.zeros(PLANE, np.int32)).shape == (0, 4)


def test_tables_have_a_row_for_each_box_class_and_level(tmp_path: Path) -> None:
    one = scored(TRUTH, FOUND)
    write_tables(tmp_path, totals_of(one), [one])

    def rows(name: str) -> list[dict[str, str]]:
        with (tmp_path / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    assert [row["outcome"] for row in rows("boxes.csv")] == [
        "true positive",
        "wrong class",
        "false negative",
        "false positive",
    ]
    wrong = rows("boxes.csv")[1]
    assert (wrong["target_class"], wrong["predicted_class"], wrong["iou"]) == (NAMES[1], NAMES[0], "1.0000")
    lost = rows("boxes.csv")[2]
    assert (lost["confidence"], lost["x_min_px"], lost["y_max_px"]) == ("", "45.00", "55.00")
    assert [row["class"] for row in rows("classes.csv") if row["kind"] == "prediction"] == list(NAMES)
    assert {row["iou"] for row in rows("levels.csv")} >= {"0.3", "0.5", "0.95"}
    assert rows("confusion.csv")[-1] == {
        "target_class": "false_positives",
        f"predicted_{NAMES[0]}": "0",
        f"predicted_{NAMES[1]}": "1",
        "false_negatives": "0",
    }
    assert [float(row["precision"]) for row in rows("curves.csv") if row["class"] == "round"] == [1.0, 0.5]


def test_boxes_lie_around_their_pixels_and_each_is_drawn_once() -> None:
    one = scored(TRUTH, FOUND)
    score = one.kinds["prediction"]
    shown = layers(TRUTH, FOUND, score.outcome, NAMES)
    assert [len(layer.corners) for layer in shown] == [1, 1, 1, 1]
    (wrong,) = (layer for layer in shown if layer.title == WRONG_CLASS)
    assert len(wrong.texts) == 1
    figure = overlay_figure(np.zeros(PLANE), shown, score.outcome.counts, name="img$_$1 細胞", plane=PLANE)
    figure.canvas.draw()
    drawn = [patch.get_bbox().extents.tolist() for patch in figure.axes[0].patches[:4]]
    # [1, 1, 11, 11] from the upper left corner of the image, whose first pixel reaches from -0.5 to 0.5.
    assert drawn[0] == [0.5, 0.5, 10.5, 10.5]


@pytest.mark.parametrize("images", [1, 2, 3])
def test_all_pictures_are_drawn_of_few_images_and_of_none_with_boxes(images: int) -> None:
    for truth, found in ((TRUTH, FOUND), (truth_of([]), found_of([])), (truth_of([]), FOUND), (TRUTH, found_of([]))):
        several = [scored(truth, found, str(number)) for number in range(images)]
        totals = totals_of(*several)
        outcome = several[0].kinds["prediction"].outcome
        counts = np.array([len(found.classes)] * images), np.array([len(truth.classes)] * images)
        for figure in (
            curves_figure(totals, 0.5, 0.0),
            counts_figure(*counts, totals.agreement),
            confusion_figure(totals),
            detection_figure(
                np.zeros((2, *PLANE)),
                layers(truth, found, outcome, NAMES),
                outcome.counts,
                name="a",
                images=images,
                plane=PLANE,
            ),
        ):
            figure.canvas.draw()
