"""Foreground of a target, and scores inside and outside of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.filters import threshold_otsu

from parfocal.qc.metrics.images.fit import scale_target
from parfocal.qc.metrics.images.foreground import find_foreground, score_regions
from parfocal.qc.metrics.images.restoration import score_scaled
from parfocal.runtime.errors import InvalidInputError


def structures(shape=(80, 96), seed=0):
    image = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 3)
    return 100 + 2000 * np.clip(image / image.std(), 0, None)


def regions_of(image, target, mask=None):
    scaled = scale_target(target)
    score, maps = score_scaled(image, scaled)
    mask = find_foreground(target).mask if mask is None else mask
    return score, maps, mask, score_regions(maps, image, target, mask)


@pytest.mark.parametrize("shape", [(80, 96), (7, 60, 50)])
def test_threshold_is_that_of_skimage(shape):
    target = structures(shape)
    found = find_foreground(target)
    low, high = np.percentile(target, [0.1, 99.9])
    expected = threshold_otsu(np.clip((target - low) / (high - low), 0, 1))
    assert found.threshold == pytest.approx(expected, abs=1 / 256)
    assert found.grey_value == pytest.approx(low + found.threshold * (high - low))
    np.testing.assert_array_equal(found.mask, target >= found.grey_value)
    assert found.fraction == found.mask.mean()


def test_two_values_are_told_apart_exactly():
    target = np.full((40, 50), 100, np.uint16)
    target[10:20, 5:45] = 900
    found = find_foreground(target)
    np.testing.assert_array_equal(found.mask, target == 900)
    assert found.fraction == 0.2
    assert 0 < found.threshold < 1


def test_a_volume_has_one_threshold():
    target = np.stack([np.full((30, 30), 10.0), structures((30, 30)), structures((30, 30), 1)])
    assert not find_foreground(target).mask[0].any()


@given(st.floats(0.001, 1000), st.floats(-1e4, 1e4))
@settings(max_examples=20, deadline=None)
def test_brightness_and_offset_change_nothing(scale, offset):
    target = structures()
    changed = find_foreground(scale * target + offset)
    # A pixel may lie on the threshold to rounding.
    assert np.count_nonzero(changed.mask != find_foreground(target).mask) <= 2


def test_a_hot_pixel_changes_nothing():
    target = structures()
    hot = target.copy()
    hot[3, 3] = 1e7
    assert np.count_nonzero(find_foreground(hot).mask != find_foreground(target).mask) < 0.01 * target.size


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_any_type(dtype):
    target = (structures() / 50).astype(dtype)
    assert 0.02 < find_foreground(target).fraction < 0.9


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (np.full((20, 20), 5.0), "constant"),
        (np.full((20, 20), np.nan), "NaN"),
        (np.zeros((0, 20)), "no pixels"),
        (np.zeros(20), "1 axes"),
    ],
)
def test_degenerate_targets_are_refused_by_name(target, words):
    with pytest.raises(InvalidInputError, match=f"cell_1: .*{words}"):
        find_foreground(target, name="cell_1")


def test_inside_and_outside_are_weighted_parts_of_the_whole():
    target = structures()
    image = target + 300 * np.random.default_rng(1).standard_normal(target.shape)
    score, _, mask, (inside, outside) = regions_of(image, target)
    fraction = mask.mean()
    assert score.nrmse**2 == pytest.approx(fraction * inside.nrmse**2 + (1 - fraction) * outside.nrmse**2, rel=1e-6)
    inner = mask[5:-5, 5:-5].mean()
    assert score.ssim == pytest.approx(inner * inside.ssim + (1 - inner) * outside.ssim, abs=1e-7)
    assert inside.psnr == pytest.approx(-20 * math.log10(inside.nrmse))


def test_pearson_and_snr_are_those_of_the_part():
    target = structures()
    image = target + 300 * np.random.default_rng(1).standard_normal(target.shape)
    _, _, mask, parts = regions_of(image, target)
    for part, score in zip((mask, ~mask), parts, strict=True):
        assert score.pearson == pytest.approx(np.corrcoef(image[part], target[part])[0, 1])
        slope, offset = np.polyfit(image[part], target[part], 1)
        residual = target[part] - slope * image[part] - offset
        assert score.snr == pytest.approx(10 * math.log10(target[part].var() / (residual**2).mean()))


def test_cleaning_the_background_does_not_change_snr_inside():
    target = structures()
    noisy = target + 800 * np.random.default_rng(1).standard_normal(target.shape)
    mask = find_foreground(target).mask
    cleaned = np.where(mask, noisy, 100)
    before, after = (regions_of(image, target, mask) for image in (noisy, cleaned))
    assert after[0].ssim > before[0].ssim + 0.05
    assert after[3][0].snr == pytest.approx(before[3][0].snr)


def test_perfect_and_inverted():
    target = structures()
    _, _, _, (inside, outside) = regions_of(3 * target + 7, target)
    assert (inside.ssim, inside.snr) == (pytest.approx(1), pytest.approx(100))
    assert inside.psnr == pytest.approx(100)
    assert outside.pearson == pytest.approx(1)
    _, _, _, (inside, _) = regions_of(-target, target)
    assert inside.pearson == pytest.approx(-1)
    assert inside.snr == 0


def test_what_has_no_value_is_nan():
    target = np.zeros((40, 40))
    target[:3] = 20 + np.arange(40) / 10  # in the border alone
    image = target + np.random.default_rng(0).standard_normal(target.shape)
    _, maps, mask, (inside, outside) = regions_of(image, target)
    assert math.isnan(inside.ssim)
    assert not math.isnan(inside.nrmse)
    assert math.isnan(outside.pearson)  # a constant background
    assert math.isnan(outside.snr)
    everything, nothing = score_regions(maps, image, target, np.ones_like(mask))
    assert math.isnan(nothing.nrmse)
    assert math.isnan(nothing.psnr)
    assert not math.isnan(everything.ssim)


def test_other_shapes_are_refused():
    target = structures()
    _, maps, mask, _ = regions_of(target, target)
    with pytest.raises(InvalidInputError, match="one shape"):
        score_regions(maps, target, target, mask[1:])
