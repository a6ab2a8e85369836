"""Instance metrics: small cases by hand, the assignment against brute force, the baseline."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import mentions

from parfocal.qc.figures.drawing import save_png
from parfocal.qc.figures.objects import COLOURS
from parfocal.qc.instances.figure import instance_figure, overlay_figure
from parfocal.qc.instances.judge import image_values, judge, level_remarks
from parfocal.qc.instances.parameters import InstanceThresholds
from parfocal.qc.metrics.baselines.otsu import choose_otsu
from parfocal.qc.metrics.objects.instances import IOU_LEVELS, Counts, f1_parts, overlap, score_instances
from parfocal.qc.semantic.figure import semantic_figure
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.store.evaluations import ImageScore


def boxes(*windows: tuple[int, int, int, int], shape: tuple[int, int] = (20, 40)) -> Any:
    labels = np.zeros(shape, np.uint16)
    for number, (top, bottom, left, right) in enumerate(windows, start=1):
        labels[top:bottom, left:right] = number
    return labels


BOX = boxes((0, 10, 0, 10))


def random_labels(seed: int, shape: tuple[int, ...] = (24, 24), objects: int = 6) -> Any:
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    for number in range(1, objects + 1):
        window = tuple(slice(start, start + rng.integers(3, 10)) for start in rng.integers(0, 20, len(shape)))
        labels[window] = number * 7  # gaps between the labels
    return labels


def test_counts_by_hand() -> None:
    # 10x10; shifted by 2: 80 shared of 120: IoU 2/3. The second is a false negative, the third a false positive.
    target = boxes((0, 10, 0, 10), (0, 10, 20, 30))
    prediction = boxes((0, 10, 2, 12), (12, 18, 30, 36))
    score = score_instances(target, prediction, name="a")
    half = score.counts[0.5]
    assert (half.tp, half.fp, half.fn) == (1, 1, 1)
    assert half.matched_iou == pytest.approx(2 / 3)
    assert half.precision == half.recall == half.f1 == 0.5
    assert half.accuracy == pytest.approx(1 / 3)
    assert half.mean_matched_iou == pytest.approx(2 / 3)
    assert half.panoptic_quality == pytest.approx((2 / 3) / 2)
    assert score.counts[0.65].tp == 1
    assert score.counts[0.7] == Counts(0, 2, 2)
    assert score.mean_accuracy == pytest.approx(4 * (1 / 3) / 10)
    assert score.foreground_iou == pytest.approx(80 / (200 + 136 - 80))


def test_the_same_image_is_perfect_whatever_the_numbers_of_its_objects() -> None:
    target = random_labels(1)
    renumbered = np.where(target > 0, 1000 - target, 0)
    score = score_instances(target, renumbered, name="a")
    assert all(counts.f1 == 1 == counts.panoptic_quality for counts in score.counts.values())
    assert score.mean_accuracy == 1
    assert score.foreground_iou == 1


@pytest.mark.parametrize(
    ("target", "prediction", "f1", "foreground"),
    [
        (boxes(), boxes(), 1, 1),
        (boxes((0, 5, 0, 5)), boxes(), 0, 0),
        (boxes(), boxes((0, 5, 0, 5)), 0, 0),
        (boxes((0, 20, 0, 40)), boxes((0, 20, 0, 40)), 1, 1),  # no background at all
    ],
)
def test_empty_and_full_images(target: Any, prediction: Any, f1: float, foreground: float) -> None:
    score = score_instances(target, prediction, name="a")
    counts = score.counts[0.5]
    assert counts.f1 == counts.precision == counts.recall == counts.panoptic_quality == f1
    assert score.foreground_iou == foreground


@pytest.mark.parametrize("level", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(12))
def test_the_assignment_is_the_best_there_is(seed: int, level: float) -> None:
    target, prediction = random_labels(seed), random_labels(seed + 100)
    found = overlap(target, prediction, name="a").match(level)
    ids = np.unique(target)[1:], np.unique(prediction)[1:]
    iou = np.array(
        [
            [np.sum((target == t) & (prediction == p)) / np.sum((target == t) | (prediction == p)) for p in ids[1]]
            for t in ids[0]
        ]
    )
    short, long = sorted(iou.shape)
    table = iou if iou.shape[0] <= iou.shape[1] else iou.T
    best = max(
        (
            sum(table[i, j] >= level for i, j in enumerate(order)),
            sum(table[i, j] for i, j in enumerate(order) if table[i, j] >= level),
        )
        for order in itertools.permutations(range(long), short)
    )
    assert found.counts.tp == best[0]
    assert found.counts.matched_iou == pytest.approx(best[1])
    assert found.counts.tp + found.counts.fn == len(ids[0])
    assert found.counts.tp + found.counts.fp == len(ids[1])


def test_cut_and_merged_objects_are_named() -> None:
    target = boxes((0, 10, 0, 20), (12, 20, 0, 10), (12, 20, 10, 20), (0, 6, 30, 36))
    prediction = boxes((0, 10, 0, 9), (0, 10, 10, 20), (12, 20, 0, 20), (0, 6, 30, 36))
    score = score_instances(target, prediction, name="a")
    assert score.split == (1,)
    assert score.merged == (3,)


def test_counts_of_images_add_up() -> None:
    pooled = sum((Counts(1, 2, 3, 0.5), Counts(4, 0, 1, 3.0)), start=Counts())
    assert pooled == Counts(5, 2, 4, 3.5)
    assert pooled.f1 == pytest.approx(10 / 16)


def test_volumes_are_scored_as_a_whole() -> None:
    target = np.zeros((8, 12, 12), np.uint8)
    target[1:5, 2:8, 2:8] = 1
    shifted = np.roll(target, 1, axis=0)
    counts = score_instances(target, shifted, name="a").counts[0.5]
    assert counts == Counts(1, 0, 0, pytest.approx(3 / 5))


def test_thousands_of_objects() -> None:
    grid = np.kron(np.arange(1, 5001).reshape(50, 100), np.ones((8, 8), np.int64))
    counts = score_instances(grid, np.roll(grid, 1, axis=0), name="a").counts[0.5]
    assert counts.tp == 5000


def test_whole_numbers_of_any_type_are_labels() -> None:
    target = boxes((0, 10, 0, 10))
    assert score_instances(target, target.astype(np.float32), name="a").counts[0.5].f1 == 1


def test_unusable_images_are_refused_by_name() -> None:
    target = boxes((0, 10, 0, 10))
    with pytest.raises(InvalidInputError, match=r"cells \(prediction\).*whole numbers"):
        score_instances(target, target * 0.3, name="cells")
    with pytest.raises(InvalidInputError, match=r"cells.*shape"):
        score_instances(target, target[1:], name="cells")
    for wrong in (np.inf, 1e30):
        with pytest.raises(InvalidInputError, match=r"cells \(target\)"):
            score_instances(np.where(target > 0, wrong, 0), target, name="cells")
    for dtype in (bool, complex):
        with pytest.raises(InvalidInputError, match=r"not a label image"):
            score_instances(target, target.astype(dtype), name="cells")


@pytest.mark.parametrize("bright", [True, False])
def test_otsu_finds_plain_discs_whatever_their_polarity(bright: bool) -> None:
    labels = boxes((2, 10, 2, 10), (4, 16, 20, 34))
    rng = np.random.default_rng(0)
    source = np.where(labels > 0, 100, 20) if bright else np.where(labels > 0, 20, 100)
    noisy = source + rng.normal(0, 25, labels.shape)
    baseline = choose_otsu([(noisy, labels)], f1_parts)
    assert baseline.bright == bright
    assert score_instances(labels, baseline.apply(noisy, 2), name="a").counts[0.5].f1 == 1
    assert baseline.describe()["objects"] == ("bright" if bright else "dark")
    colour = np.stack([noisy] * 3, axis=-1)
    np.testing.assert_array_equal(baseline.apply(colour, 2), baseline.apply(noisy, 2))


def test_otsu_finds_nothing_where_nothing_is() -> None:
    baseline = choose_otsu([(np.full((20, 40), 7), boxes())], f1_parts)
    assert not baseline.apply(np.full((20, 40), 7), 2).any()
    with pytest.raises(InvalidInputError, match="no training images"):
        choose_otsu([], f1_parts)


def test_otsu_copes_with_narrow_contrast_and_refuses_what_is_no_number() -> None:
    labels = boxes((2, 10, 2, 10))
    narrow = np.where(labels > 0, 2**26 + 100, 2**26).astype(np.uint32)
    assert (
        score_instances(labels, choose_otsu([(narrow, labels)], f1_parts).apply(narrow, 2), name="a").counts[0.5].f1
        == 1
    )
    with pytest.raises(InvalidInputError, match="NaN"):
        choose_otsu([(np.full((20, 40), np.nan), labels)], f1_parts)


def test_levels_are_those_of_the_definition() -> None:
    assert IOU_LEVELS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def values(**f1: float) -> list[ImageScore]:
    counts = {"target_objects": 5.0, "predicted_objects": 5.0, "split": 0.0, "merged": 0.0}
    return [ImageScore(name, {"f1": each, **counts}) for name, each in f1.items()]


@pytest.mark.parametrize(
    ("prediction", "baseline", "pooled", "state", "words"),
    [
        ({"a": 0.9, "b": 0.8, "c": 0.9}, {"a": 0.5, "b": 0.6, "c": 0.5}, Counts(13, 2, 2), "passed", "13 of 15"),
        ({"a": 0.4, "b": 0.3, "c": 0.4}, {"a": 0.1, "b": 0.1, "c": 0.2}, Counts(4, 8, 11), "failed", "below the 0.5"),
        ({"a": 0.9, "b": 0.5, "c": 0.7}, {"a": 0.6, "b": 0.8, "c": 0.7}, Counts(13, 2, 2), "failed", "not shown"),
        ({"a": 0.7, "b": 0.7, "c": 0.7}, {"a": 0.8, "b": 0.8, "c": 0.9}, Counts(13, 2, 2), "failed", "worse than Otsu"),
    ],
)
def test_the_verdict_follows_the_thresholds_and_says_why(
    prediction: dict[str, float], baseline: dict[str, float], pooled: Counts, state: str, words: str
) -> None:
    verdict = judge({"prediction": values(**prediction), "baseline": values(**baseline)}, pooled, InstanceThresholds())
    assert verdict.verdict == state
    assert any(words in reason for reason in verdict.reasons)


def test_an_image_in_which_nothing_was_found_fails_the_model() -> None:
    *images, last = values(a=0.9, b=0.9, c=0.0)
    images.append(replace(last, values={**last.values, "predicted_objects": 0.0}))
    verdict = judge(
        {"prediction": images, "baseline": values(a=0.1, b=0.1, c=0.0)}, Counts(10, 0, 5), InstanceThresholds()
    )
    assert verdict.verdict == "failed"
    assert mentions(verdict.reasons[0], "1 of 3", ": c.")


def test_a_test_without_any_object_passes_no_model() -> None:
    perfect = values(a=1.0, b=1.0, c=1.0)
    verdict = judge({"prediction": perfect, "baseline": values(a=0.0, b=0.0, c=0.0)}, Counts(), InstanceThresholds())
    assert verdict.verdict == "failed"
    assert mentions(verdict.reasons[0], "No test image", "object")


@pytest.mark.parametrize("shape", [(4000, 8), (8, 4000)])
def test_pictures_of_narrow_images_have_an_ordinary_size(shape: tuple[int, int]) -> None:
    labels = np.ones(shape, np.uint16)
    score = score_instances(labels, labels, name="a")
    figure = overlay_figure(np.zeros(shape), labels, labels, score, score.overlap.match(0.5), name="a")
    width, height = figure.get_size_inches()
    assert 1 < height < 25
    assert width == pytest.approx(6.4)


@pytest.mark.parametrize("shape", [(48, 64), (6, 48, 64)])
@pytest.mark.parametrize("colours", [(), (3,)])
def test_pictures_show_every_kind_of_mistake_in_its_colour(
    shape: tuple[int, ...], colours: tuple[int, ...], tmp_path: Path
) -> None:
    windows = {"true positive": (2, 14, 2, 14), "false negative": (2, 14, 20, 32), "split": (18, 30, 2, 30)}
    target, prediction = np.zeros(shape[-2:], np.uint16), np.zeros(shape[-2:], np.uint16)
    for number, (top, bottom, left, right) in enumerate(windows.values(), start=1):
        target[top:bottom, left:right] = number
    prediction[2:14, 2:14] = 1
    prediction[18:30, 2:15], prediction[18:30, 16:30] = 2, 3
    target[34:46, 2:12], target[34:46, 14:24] = 8, 9
    prediction[34:46, 2:24] = 4  # merges two
    prediction[2:14, 40:52] = 5  # false positive
    if len(shape) == 3:
        target, prediction = np.repeat(target[np.newaxis], 6, axis=0), np.repeat(prediction[np.newaxis], 6, axis=0)
    source = np.random.default_rng(0).random((*shape, *colours))
    score = score_instances(target, prediction, name="a")
    matches = score.overlap.match(0.5)
    figure = overlay_figure(source, target, prediction, score, matches, name="a")
    shown = figure.axes[0].images[0].get_array()
    for colour in COLOURS.values():
        assert np.any(np.all(np.isclose(shown, colour, atol=1e-3), axis=-1)), colour
    pooled = {kind: {0.5: Counts(1, 1, 1), 0.75: Counts(0, 2, 2)} for kind in ("prediction", "baseline")}
    whole = instance_figure(
        source, target, prediction, score=score, matches=matches, level=0.5, pooled=pooled, name="a", images=1
    )
    save_png(whole, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.parametrize(("pixel_size", "text", "pixels"), [(0.3, "5 µm", 5 / 0.3), (None, "20 px", 20)])
def test_pictures_have_a_scale_bar_in_micrometres_or_in_pixels(
    pixel_size: float | None, text: str, pixels: float
) -> None:
    labels = boxes((5, 30, 5, 30), shape=(60, 80))
    score = score_instances(labels, labels, name="a")
    matches = score.overlap.match(0.5)
    pooled = dict.fromkeys(("prediction", "baseline"), score.counts)
    source = labels.astype(np.float32)
    figures = [
        overlay_figure(source, labels, labels, score, matches, name="a", pixel_size=pixel_size),
        instance_figure(
            *(source, labels, labels),
            **{"score": score, "matches": matches, "level": 0.5, "pooled": pooled},
            **{"name": "a", "images": 1, "pixel_size": pixel_size},
        ),
        semantic_figure(
            source,
            labels.astype(np.uint8),
            **{"name": "a", "images": 1, "iou": 1.0, "curve": None, "threshold": 0.5},
            pixel_size=pixel_size,
        ),
    ]
    for figure in figures:
        assert [each.get_text() for each in figure.axes[0].texts] == [text]
        assert any(patch.get_width() == pytest.approx(pixels) for patch in figure.axes[0].patches)


def test_a_strip_has_no_room_for_a_scale_bar() -> None:
    labels = np.ones((8, 4000), np.uint16)
    score = score_instances(labels, labels, name="a")
    figure = overlay_figure(np.zeros((8, 4000)), labels, labels, score, score.overlap.match(0.5), name="a")
    assert not figure.axes[0].texts


def test_outlines_of_large_images_are_not_broken_by_the_few_pixels_of_a_picture() -> None:
    # 50 bars side by side, whose outlines are 100 lines in a picture with fewer pixels than the image.
    labels = boxes(*((20, 980, 20 * number + 4, 20 * number + 16) for number in range(50)), shape=(1000, 1000))
    score = score_instances(labels, labels, name="a")
    figure = overlay_figure(np.zeros((1000, 1000)), labels, labels, score, score.overlap.match(0.5), name="a")
    canvas: Any = figure.canvas
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[..., :3] / 255
    line = np.all(np.isclose(drawn[len(drawn) // 2], COLOURS["true positive"], atol=0.01), axis=-1)
    assert np.count_nonzero(np.diff(line.astype(int)) == 1) == 100


@pytest.mark.parametrize("needed", [0.0, 0.1])
def test_a_perfect_prediction_passes_although_the_baseline_is_perfect_too(needed: float) -> None:
    images = [ImageScore(name, image_values(score_instances(BOX, BOX, name=name), 0.5)) for name in "abc"]
    scores = {"prediction": images, "baseline": images}
    verdict = judge(scores, Counts(3, 0, 0), InstanceThresholds(min_f1_gain_over_baseline=needed))
    assert verdict.verdict == "passed"
    assert any(mentions(reason, "perfect", "Otsu") for reason in verdict.reasons)


def test_levels_at_which_the_baseline_is_better_are_named() -> None:
    ours = {0.5: Counts(9, 1, 1), 0.75: Counts(5, 5, 5), 0.9: Counts(1, 9, 9)}
    theirs = {0.5: Counts(9, 0, 1), 0.75: Counts(6, 4, 4), 0.9: Counts(1, 9, 9)}
    (remark,) = level_remarks({"prediction": ours, "baseline": theirs}, 0.5)
    assert mentions(remark, "0.75 (0.600 against 0.500)")
    assert "0.9" not in remark
    assert level_remarks({"prediction": theirs, "baseline": ours}, 0.5) == []
