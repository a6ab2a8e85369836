"""Scores of a restored image: closed forms, invariances, an independent oracle, and degenerate input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from parfocal.qc.metrics.images.fit import (
    CONSTANT_PREDICTION,
    CONTRAST_INVERTED,
    PSNR_CEILING,
    affine_fit,
    fitted_psnr,
    scale_target,
)
from parfocal.qc.metrics.images.restoration import score_restoration, score_scaled, score_stack
from parfocal.runtime.errors import InvalidInputError


def pair(seed=0, shape=(48, 40), noise=0.1):
    """A smooth target in grey values of a 12-bit camera and a noisy image of it."""
    random = np.random.default_rng(seed)
    y, x = np.indices(shape)
    target = np.sin(x / 5) + np.cos(y / 7) + 0.2 * random.random(shape)
    image = target + noise * random.standard_normal(shape)
    return 300 * image + 1000, 500 * target + 2000


def test_perfect_prediction_scores_perfectly_despite_clipping():
    _, target = pair()
    score, maps = score_restoration(target, target)
    assert score.psnr == PSNR_CEILING
    assert score.ssim == pytest.approx(1, abs=1e-6)
    assert score.nrmse < 1e-12
    assert score.pearson == pytest.approx(1)
    assert score.failed is None
    assert maps.rse.max() < 1e-6


def test_equals_a_direct_computation_with_scikit_image():
    image, target = pair()
    low, high = np.percentile(target, [0.1, 99.9])
    scaled = (target - low) / (high - low)
    slope, intercept = np.polyfit(image.ravel(), scaled.ravel(), 1)
    fitted, clipped = np.clip(slope * image + intercept, 0, 1), np.clip(scaled, 0, 1)
    ssim, full = structural_similarity(
        fitted, clipped, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, full=True
    )
    score, maps = score_restoration(image, target)
    assert score.nrmse == pytest.approx(math.sqrt(mean_squared_error(clipped, fitted)), rel=1e-9)
    assert score.psnr == pytest.approx(peak_signal_noise_ratio(clipped, fitted, data_range=1), abs=1e-8)
    assert score.ssim == pytest.approx(ssim, abs=1e-6)
    assert (score.scale, score.offset) == pytest.approx((slope, intercept), rel=1e-9)
    assert score.pearson == pytest.approx(np.corrcoef(image.ravel(), target.ravel())[0, 1], rel=1e-9)
    np.testing.assert_allclose(maps.ssim, full, rtol=0, atol=3e-6)
    np.testing.assert_allclose(maps.rse, np.abs(clipped - fitted), rtol=0, atol=1e-7)


def test_zerocost_value_equals_the_formula_of_the_notebooks():
    image, target = pair()
    low, high = np.percentile(target, [0.1, 99.9])
    truth = (target - low) / (high - low + 1e-20)
    truth = truth - truth.mean()
    x = image - image.mean()
    x = x * np.cov(x.ravel(), truth.ravel())[0, 1] / np.var(x)
    expected = math.sqrt(np.mean(np.sqrt((truth - x) ** 2)))
    assert score_restoration(image, target)[0].nrmse_zerocost == pytest.approx(expected, rel=1e-9)


def test_errors_of_known_size_give_the_closed_forms():
    # Errors of +d and -d without correlation to the image leave the fit at a = 1, b = 0.
    d = 0.05
    image = np.tile([0.25, 0.25, 0.75, 0.75], (64, 16))
    target = image + np.tile([d, -d], 32)
    score, maps = score_scaled(image, target)
    assert (score.scale, score.offset) == pytest.approx((1, 0), abs=1e-12)
    assert score.nrmse == pytest.approx(d)
    assert score.psnr == pytest.approx(-20 * math.log10(d))
    # The notebooks' slope is n / (n - 1) instead of 1.
    assert score.nrmse_zerocost == pytest.approx(math.sqrt(d), rel=1e-3)
    np.testing.assert_allclose(maps.rse, d, rtol=1e-6)


@given(
    scale=st.floats(1e-3, 1e3),
    offset=st.floats(-1e3, 1e3),
    target_scale=st.floats(1e-3, 1e3),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_brightness_and_offset_change_nothing(scale, offset, target_scale, seed):
    image, target = pair(seed)
    plain = score_restoration(image, target)[0]
    changed = score_restoration(scale * image + offset, target_scale * target)[0]
    for name in ("nrmse", "psnr", "ssim", "pearson", "nrmse_zerocost"):
        assert getattr(changed, name) == pytest.approx(getattr(plain, name), rel=1e-6, abs=1e-6), name
    assert changed.scale * scale == pytest.approx(plain.scale, rel=1e-6)
    assert changed.failed is None


@given(seed=st.integers(0, 10_000), noise=st.floats(0, 3))
@settings(max_examples=30, deadline=None)
def test_numbers_stay_in_their_ranges(seed, noise):
    image, target = pair(seed, noise=noise)
    score, maps = score_restoration(image, target)
    assert 0 <= score.nrmse <= 1
    assert 0 <= score.psnr <= PSNR_CEILING
    assert -1 - 1e-5 <= score.ssim <= 1 + 1e-5
    assert -1 <= score.pearson <= 1
    assert np.isfinite(maps.ssim).all()
    assert maps.rse.min() >= 0
    assert maps.rse.max() <= 1


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_no_other_fit_has_a_smaller_error(seed):
    image, target = pair(seed)
    scaled = scale_target(target)
    fit = affine_fit(image, scaled)

    def error(scale, offset):
        return ((scale * image + offset - scaled) ** 2).sum()

    best = error(fit.scale, fit.offset)
    assert best <= error(fit.scale * 1.01, fit.offset)
    assert best <= error(fit.scale, fit.offset + 0.01)
    assert best <= error(fit.scale * 0.99, fit.offset - 0.01)


def test_more_noise_scores_lower():
    scores = [score_restoration(*pair(noise=noise))[0] for noise in (0.05, 0.2, 0.8)]
    assert scores[0].psnr > scores[1].psnr > scores[2].psnr
    assert scores[0].ssim > scores[1].ssim > scores[2].ssim


def test_inverted_image_fails_although_the_fit_hides_it():
    image, target = pair()
    plain, inverted = score_restoration(image, target)[0], score_restoration(-image, target)[0]
    assert inverted.failed == CONTRAST_INVERTED
    assert inverted.psnr == pytest.approx(plain.psnr)
    assert inverted.pearson == pytest.approx(-plain.pearson)


@pytest.mark.parametrize("value", [0, 7, 1e30])
def test_constant_prediction_fails_with_finite_numbers(value):
    _, target = pair()
    score, _ = score_restoration(np.full(target.shape, value, np.float32), target)
    assert score.failed == CONSTANT_PREDICTION
    assert (score.scale, score.pearson) == (0, 0)
    assert score.offset == pytest.approx(scale_target(target).mean())
    assert all(math.isfinite(v) for v in (score.nrmse, score.psnr, score.ssim, score.nrmse_zerocost))


def test_float32_rounding_of_a_constant_counts_as_constant():
    _, target = pair()
    image = np.full(target.shape, 1000, np.float32)
    image[::2] = np.nextafter(np.float32(1000), np.float32(2000))
    assert score_restoration(image, target)[0].failed == CONSTANT_PREDICTION


def test_small_contrast_on_a_large_offset_is_kept():
    image, target = pair()
    plain = score_restoration(image, target)[0]
    lifted = score_restoration(image + 1e8, target)[0]
    assert lifted.psnr == pytest.approx(plain.psnr, abs=1e-4)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", ">u2", ">f4", "?"])
def test_every_grey_value_type_gives_the_same_score(dtype):
    random = np.random.default_rng(5)
    values = random.integers(0, 2 if dtype == "?" else 100, (2, 30, 30))
    expected = score_restoration(values[0].astype(float), values[1].astype(float))[0]
    score = score_restoration(values[0].astype(dtype), values[1].astype(dtype))[0]
    assert score.psnr == pytest.approx(expected.psnr, abs=1e-9)
    assert score.ssim == pytest.approx(expected.ssim, abs=1e-6)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["u1", "u2", "f4", "i4"]), st.integers(1, 3000))
@settings(max_examples=60, deadline=None)
def test_target_percentiles_equal_numpy(seed, dtype, size):
    values = np.random.default_rng(seed).integers(0, 256, size).astype(dtype)
    low, high = np.percentile(values.astype(np.float64), [0.1, 99.9])
    assume(high > low)
    np.testing.assert_allclose(scale_target(values), (values.astype(float) - low) / (high - low), atol=1e-9)


def test_target_is_scaled_but_not_clipped():
    scaled = scale_target(np.arange(10_001, dtype=np.uint16).reshape(73, 137))
    assert np.percentile(scaled, [0.1, 99.9]) == pytest.approx([0, 1])
    assert scaled.min() < 0
    assert scaled.max() > 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("which", ["image", "target"])
def test_refuses_values_that_are_not_finite(bad, which):
    image, target = pair()
    (image if which == "image" else target)[3, 4] = bad
    with pytest.raises(InvalidInputError, match=rf"cell_07: The {which} .*1 of 1920 values.*NaN"):
        score_restoration(image, target, name="cell_07")


@pytest.mark.parametrize(
    ("image", "target", "words"),
    [
        (np.eye(20), np.ones((20, 20)), "target is constant"),
        (np.eye(20), np.full((20, 20), 0.1, np.float32), "target is constant"),
        (np.eye(64), np.pad([[9.0]], (0, 63)), "constant, or nearly"),
        (np.eye(20), np.eye(21), "shape 20 x 20 and its target 21 x 21"),
        (np.eye(10), np.eye(10), "at least 11 x 11"),
        (np.zeros((0, 20)), np.zeros((0, 20)), "at least 11 x 11"),
        (np.zeros((2, 20, 20)), np.zeros((2, 20, 20)), "slice by slice"),
        (np.eye(20).astype(complex), np.eye(20), "data type complex128"),
        (np.eye(20), np.eye(20).astype(str), "data type <U32"),
    ],
)
def test_refuses_what_cannot_be_scored(image, target, words):
    with pytest.raises(InvalidInputError, match=words):
        score_restoration(image, target)


def test_psnr_alone_equals_the_full_score():
    image, target = pair()
    assert fitted_psnr(image, scale_target(target)) == score_restoration(image, target)[0].psnr


def test_arrays_of_the_caller_stay_unchanged():
    image, target = pair()
    scaled = scale_target(target)
    before = image.copy(), target.copy(), scaled.copy()
    score_restoration(image, target)
    score_scaled(image, scaled)
    for array, copy in zip((image, target, scaled), before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_fit_of_a_straight_line_is_exact():
    fit = affine_fit(np.array([0.0, 1, 2]), np.array([1.0, 3, 5]))
    assert (fit.scale, fit.offset, fit.pearson) == pytest.approx((2, 1, 1))
    assert not fit.constant


def stack_pair():
    planes = [pair(seed) for seed in range(3)]
    return np.stack([p[0] for p in planes]), np.stack([p[1] for p in planes])


def test_each_slice_is_scored_by_itself():
    image, target = stack_pair()
    target[1] *= 50
    scores, maps = score_stack(image, target)
    for z, score in enumerate(scores):
        expected, expected_maps = score_restoration(image[z], target[z])
        assert score == expected
        np.testing.assert_array_equal(maps.ssim[z], expected_maps.ssim)


def test_empty_target_slices_are_left_out():
    image, target = stack_pair()
    target[2] = 100
    scores, maps = score_stack(image, target)
    assert scores[2] is None
    assert scores[0] is not None
    assert np.isnan(maps.rse[2]).all()


def test_target_slices_with_next_to_nothing_are_left_out_too():
    """The plane that just touches the sample must not end the evaluation of all the others."""
    image, target = stack_pair()
    target[2] = 100
    target[2, 5, 5] = 900
    scores, maps = score_stack(image, target)
    assert [score is None for score in scores] == [z == 2 for z in range(len(target))]
    assert np.isnan(maps.ssim[2]).all()
    with pytest.raises(InvalidInputError, match="embryo, slice 2: The target has 1 of"):
        score_stack(image, np.where(target == 900, np.nan, target), name="embryo")


def test_stack_errors_name_the_slice():
    image, target = stack_pair()
    image[1, 0, 0] = np.nan
    with pytest.raises(InvalidInputError, match="embryo, slice 1: The image"):
        score_stack(image, target, name="embryo")


@pytest.mark.parametrize(
    ("image", "target", "words"),
    [
        (np.zeros((2, 20, 20)), np.zeros((3, 20, 20)), "same shape"),
        (np.eye(20), np.eye(20), "three axes"),
        (np.zeros((2, 20, 20)), np.ones((2, 20, 20)), "every slice"),
    ],
)
def test_refuses_stacks_without_a_score(image, target, words):
    with pytest.raises(InvalidInputError, match=words):
        score_stack(image, target)
