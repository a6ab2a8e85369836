"""Metrics of masks, against closed forms, scikit-image and masks cut at every threshold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import disk

from parfocal.qc.metrics.objects.semantic import (
    Areas,
    areas,
    boundary_f,
    foreground,
    iou_parts,
    is_probability,
)
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.methods.thresholds import THRESHOLDS, threshold_counts


def random_mask(seed: int, shape: tuple[int, ...] = (40, 50)) -> NDArray[np.bool_]:
    noise = np.random.default_rng(seed).normal(size=shape)
    return np.asarray(ndimage.gaussian_filter(noise, 3) > 0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_ratios_are_those_of_sets(one: int, other: int) -> None:
    target, prediction = random_mask(one), random_mask(other)
    mine = set(np.flatnonzero(target).tolist())
    theirs = set(np.flatnonzero(prediction).tolist())
    counted = areas(target, prediction)
    assert counted.iou == pytest.approx(len(mine & theirs) / len(mine | theirs))
    assert counted.dice == pytest.approx(2 * len(mine & theirs) / (len(mine) + len(theirs)))
    assert counted.precision == pytest.approx(len(mine & theirs) / len(theirs))
    assert counted.recall == pytest.approx(len(mine & theirs) / len(mine))
    assert areas(prediction, target).iou == counted.iou
    assert counted.dice == pytest.approx(2 * counted.iou / (1 + counted.iou))


def test_extremes_are_defined() -> None:
    full, empty = np.ones((8, 8), bool), np.zeros((8, 8), bool)
    nothing = areas(empty, empty)
    assert (nothing.iou, nothing.dice, nothing.precision, nothing.recall) == (1, 1, 1, 1)
    nothing = areas(full, empty)
    assert (nothing.iou, nothing.dice, nothing.precision, nothing.recall) == (0, 0, 0, 0)
    assert areas(full, full).iou == 1
    assert areas(full, empty) + areas(full, full) == Areas(64, 0, 64)
    assert iou_parts(full * 3, empty) == (0, 64)


def test_outlines_agree_within_the_tolerance() -> None:
    mask = np.zeros((60, 60), bool)
    mask[20:40, 20:40] = True
    assert boundary_f(mask, mask, 0) == 1
    moved = np.roll(mask, 2, axis=1)
    assert boundary_f(mask, moved, 2) == 1
    assert 0 < boundary_f(mask, moved, 1) < 1
    # At no tolerance: upper and lower edges agree in 18 columns each of the 76 pixels around.
    assert boundary_f(mask, moved, 0) == pytest.approx(36 / 76)


@pytest.mark.parametrize("radius", [4, 9])
def test_discs_of_different_size_agree_once_the_tolerance_covers_the_margin(radius: int) -> None:
    small, large = np.zeros((2, 61, 61), bool)
    for mask, size in ((small, radius), (large, radius + 3)):
        mask[30 - size : 31 + size, 30 - size : 31 + size] = disk(size)
    assert boundary_f(small, large, 3.2) == 1
    assert boundary_f(small, large, 1) == 0


def test_an_outline_against_none() -> None:
    mask, full, empty = random_mask(1), np.ones((40, 50), bool), np.zeros((40, 50), bool)
    assert boundary_f(mask, empty, 2) == boundary_f(empty, mask, 2) == 0
    assert boundary_f(empty, empty, 2) == boundary_f(full, full, 2) == 1


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([np.float16, np.float32, np.float64]))
def test_the_curve_is_that_of_cutting_at_every_threshold(seed: int, dtype: type) -> None:
    target = random_mask(seed)
    rng = np.random.default_rng(seed)
    # Some values lie on thresholds, to the last bit of their type.
    probability = np.where(rng.random(target.shape) < 0.3, rng.choice(THRESHOLDS, target.shape), rng.random())
    probability = probability.astype(dtype)
    counts = threshold_counts(target, probability)
    for row, threshold in zip(counts, THRESHOLDS, strict=True):
        assert Areas(*row.tolist()) == areas(target, probability.astype(np.float64) >= threshold)


def test_masks_and_probabilities_are_told_apart() -> None:
    assert not is_probability(np.array([[0, 1]], np.uint8), name="a")
    assert not is_probability(np.array([[0.0, 255.0]], np.float32), name="a")
    assert is_probability(np.array([[0.0, 0.4]], np.float32), name="a")
    for wrong in (np.array([[0.5, 3.0]]), np.array([[-0.5, 0.1]]), np.array([[np.nan, 0.1]]), np.empty((0, 3))):
        with pytest.raises(InvalidInputError, match=r"^a "):
            is_probability(wrong, name="a")


def test_any_label_is_foreground_and_fractions_are_refused() -> None:
    assert foreground(np.array([[0, 1, 255]], np.uint8), name="a").tolist() == [[False, True, True]]
    assert foreground(np.array([[0.0, 2.0]]), name="a").tolist() == [[False, True]]
    for wrong in (np.array([[0.5]]), np.array([[np.inf]]), np.empty((0, 2)), np.array([["a"]])):
        with pytest.raises(InvalidInputError, match=r"^a "):
            foreground(wrong, name="a")
