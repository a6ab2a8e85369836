"""Classes of found objects: small cases by hand, laws that any numbers obey, and classes that are missing."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import mentions

from parfocal.qc.figures.drawing import save_png
from parfocal.qc.instances.class_figure import class_figure
from parfocal.qc.instances.classes import (
    ObjectClasses,
    class_remarks,
    class_values,
    confusion,
    pool_classes,
    summarise_classes,
    write_class_tables,
)
from parfocal.qc.metrics.objects.classes import ClassCounts, classes_of_objects, count_classes
from parfocal.qc.metrics.objects.instances import Counts, Matches, overlap
from parfocal.runtime.errors import InvalidInputError

# Targets 1 to 6, of which 6 is of unknown class; predictions 11 to 17.
TARGET = {1: 1, 2: 1, 3: 2, 4: 2, 5: 1, 6: 0}
PREDICTION = {11: 1, 12: 2, 13: 2, 14: 0, 16: 2, 17: 3}
MATCHES = Matches(
    pairs=((1, 11, 0.9), (2, 12, 0.8), (3, 13, 0.7), (4, 14, 0.9), (6, 16, 0.9)),
    false_negatives=(5,),
    false_positives=(17,),
)


def read_csv(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_classes_are_counted_as_by_hand(tmp_path: Path) -> None:
    counts = count_classes(MATCHES, TARGET, PREDICTION)
    assert counts == ClassCounts({(1, 1): 1, (1, 2): 1, (2, 2): 1, (2, 0): 1}, {1: 1}, {3: 1}, 1)
    assert (counts.known, counts.right, counts.accuracy) == (4, 2, 0.5)
    assert counts.most_frequent == (1, 0.5)  # of two equally frequent ones the lower
    # Class 1: one right; one taken for 2 and one not found. Class 2: one right, one taken for none; one taken from 1.
    assert counts.counts(1) == Counts(1, 0, 2)
    assert counts.counts(2) == Counts(1, 1, 1)
    assert counts.counts(3) == Counts(0, 1, 0)
    assert (counts.counts(1).precision, counts.counts(1).recall, counts.counts(1).f1) == (1, 1 / 3, 0.5)
    assert counts.counts(3).f1 == 0
    write_class_tables(tmp_path, counts)
    assert read_csv(tmp_path / "confusion.csv") == [
        ["target_class", "predicted_1", "predicted_2", "predicted_3", "predicted_none", "false_negatives"],
        ["1", "1", "1", "0", "0", "1"],
        ["2", "0", "1", "0", "1", "0"],
        ["3", "0", "0", "0", "0", "0"],
        ["false_positives", "0", "0", "1", "0", "0"],
    ]
    header, _, second, _ = read_csv(tmp_path / "classes.csv")
    assert header == ["class", "target_objects", "predicted_objects", "true_positives", "precision", "recall", "f1"]
    assert second == ["2", "2", "2", "1", "0.5", "0.5", "0.5"]
    summary = summarise_classes(counts)
    assert (summary["accuracy"], summary["unknown"], summary["most_frequent"]) == (
        0.5,
        1,
        {"class": 1, "fraction": 0.5},
    )
    assert class_values(counts) == {"class_accuracy": 0.5, "class_known": 4, "class_correct": 2}
    remarks = class_remarks(counts, 2, 3)
    right, worst, judged = remarks
    assert mentions(right, "2 of 4 found objects", "(50.0 %)", "class 1 ", " 50.0 %.")
    assert mentions(worst, "lowest F1 is 1", "F1 0.500")
    assert "2 of 3 test images" in judged


@st.composite
def images(draw: st.DrawFn) -> tuple[Matches, dict[int, int], dict[int, int]]:
    """Objects with classes from 1 to 4 (0: unknown, none), of which the first ones belong together."""
    classes = st.lists(st.integers(0, 4), max_size=12)
    target, prediction = dict(enumerate(draw(classes), 1)), dict(enumerate(draw(classes), 101))
    pairs = draw(st.integers(0, min(len(target), len(prediction))))
    matched = tuple((number, 100 + number, 0.8) for number in range(1, pairs + 1))
    return (
        Matches(matched, tuple(range(pairs + 1, len(target) + 1)), tuple(sorted(prediction))[pairs:]),
        target,
        prediction,
    )


def renamed(classes: Mapping[int, int], names: Mapping[int, int]) -> dict[int, int]:
    return {label: names[number] for label, number in classes.items()}


@settings(max_examples=200, deadline=None)
@given(images(), st.permutations([1, 2, 3, 4]))
def test_other_numbers_for_the_classes_permute_the_table(
    image: tuple[Matches, dict[int, int], dict[int, int]], order: list[int]
) -> None:
    matches, target, prediction = image
    names = {0: 0, **dict(zip((1, 2, 3, 4), order, strict=True))}
    before = count_classes(matches, target, prediction)
    after = count_classes(matches, renamed(target, names), renamed(prediction, names))
    assert after.found == {(names[mine], names[theirs]): number for (mine, theirs), number in before.found.items()}
    assert after.false_negatives == {names[mine]: number for mine, number in before.false_negatives.items()}
    assert after.false_positives == {names[theirs]: number for theirs, number in before.false_positives.items()}
    assert after.accuracy == before.accuracy
    for number in before.classes:
        assert after.counts(names[number]) == before.counts(number)


@settings(max_examples=200, deadline=None)
@given(images(), images())
def test_every_object_is_in_the_table_once_and_tables_add_up(
    one: tuple[Matches, dict[int, int], dict[int, int]], other: tuple[Matches, dict[int, int], dict[int, int]]
) -> None:
    tables = []
    for matches, target, prediction in (one, other):
        counts = count_classes(matches, target, prediction)
        known = sum(number > 0 for number in target.values())
        assert sum(counts.targets(number) for number in counts.classes) == known == len(target) - counts.unknown
        if known or not target:
            assert sum(counts.false_positives.values()) == len(matches.false_positives)
        rows, columns, table = confusion(counts)
        assert table.sum() == counts.known + sum(counts.false_negatives.values()) + sum(counts.false_positives.values())
        assert table.shape == (len(rows), len(columns))
        assert np.trace(table[: len(counts.classes), : len(counts.classes)]) == counts.right
        tables.append(counts)
    both = tables[0] + tables[1]
    for number in both.classes:
        assert both.counts(number) == tables[0].counts(number) + tables[1].counts(number)
    assert both.known == tables[0].known + tables[1].known


def test_one_class_for_all_is_scored_as_the_objects_are() -> None:
    counts = count_classes(MATCHES, dict.fromkeys(TARGET, 1), dict.fromkeys(PREDICTION, 1))
    objects = MATCHES.counts
    assert counts.counts(1) == Counts(objects.tp, objects.fp, objects.fn)
    assert counts.accuracy == 1
    # With one class there is no worst one to name.
    assert len(class_remarks(counts, 1, 1)) == 1


def test_classes_that_nobody_drew_are_not_judged() -> None:
    (remark,) = class_remarks(None, 0, 3)
    assert "no images target_class" in remark
    unknown = count_classes(MATCHES, dict.fromkeys(TARGET, 0), PREDICTION)
    assert unknown == ClassCounts(unknown=6)  # not even its false positives
    assert pool_classes([unknown]) is None
    assert pool_classes([]) is None
    (remark,) = class_remarks(pool_classes([unknown]), 1, 1)
    assert "known class" in remark


def test_where_nothing_was_found_there_is_no_accuracy() -> None:
    nothing = Matches((), (1, 2), (11,))
    counts = count_classes(nothing, {1: 1, 2: 2}, {11: 2})
    assert pool_classes([counts]) == counts
    assert counts.accuracy is None
    assert class_values(counts) == {"class_known": 0, "class_correct": 0}
    assert summarise_classes(counts)["most_frequent"] is None
    (remark,) = class_remarks(counts, 1, 1)
    assert "No object" in remark
    assert [counts.counts(number).f1 for number in (1, 2)] == [0, 0]


LABELS = np.array([[7, 7, 7, 0, 9, 9], [7, 7, 7, 0, 9, 9], [-4, -4, 0, 0, 30, 30]], np.int32)


def test_objects_have_the_class_drawn_in_them_under_their_own_number() -> None:
    drawn = np.zeros(LABELS.shape, np.uint8)
    drawn[0, :2], drawn[1, 0], drawn[:, 3:5] = 2, 1, 3
    assert classes_of_objects(LABELS, drawn, name="a") == {7: 2, 9: 3, 30: 3}
    assert classes_of_objects(LABELS.astype(np.float32), np.zeros_like(drawn), name="a") == {7: 0, 9: 0, 30: 0}
    assert classes_of_objects(np.zeros_like(LABELS), drawn, name="a") == {}


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        (np.zeros((2, 6), np.uint8), r"field \(target_class\) .*shape"),
        (np.full(LABELS.shape, 101, np.uint8), r"field \(target_class\) .*101, .*each object"),
        (np.full(LABELS.shape, 1.0), r"field \(target_class\) .*float64.*8-bit"),
    ],
)
def test_class_images_that_are_none_are_refused_by_name(drawn: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        classes_of_objects(LABELS, drawn, name="field (target_class)")


@pytest.mark.parametrize("shape", [(60, 80), (4, 60, 80)])
def test_the_picture_marks_objects_of_a_wrong_class(tmp_path: Path, shape: tuple[int, ...]) -> None:
    labels = np.zeros(shape, np.uint16)
    for number in range(4):
        labels[..., 20:40, 20 * number + 2 : 20 * number + 16] = number + 1
    matches = overlap(labels, labels, name="a").match(0.5)
    target, prediction = {1: 1, 2: 1, 3: 2, 4: 0}, {1: 1, 2: 3, 3: 0, 4: 2}
    counts = count_classes(matches, target, prediction)
    source = np.random.default_rng(0).random(shape)
    classes = ObjectClasses(target, prediction, counts)
    figure = class_figure(source, labels, matches, classes, counts, name="a", images=1, pixel_size=0.1)
    assert [text.get_text() for text in figure.axes[0].texts] == ["2 µm", "1 → 3", "2 → none"]
    written = {text.get_text() for text in figure.axes[1].texts}
    assert "1\n50 %" in written
    assert figure.legends[0].get_texts()[2].get_text() == "class not known (1)"
    save_png(figure, tmp_path / "classes.png")
    assert (tmp_path / "classes.png").stat().st_size > 10_000
