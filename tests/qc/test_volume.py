"""Scores of whole stacks against scikit-image in three dimensions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from parfocal.qc.metrics.images.fit import CONSTANT_PREDICTION, CONTRAST_INVERTED
from parfocal.qc.metrics.images.foreground import find_foreground
from parfocal.qc.metrics.images.restoration import score_stack
from parfocal.qc.metrics.images.volume import score_volume
from parfocal.runtime.errors import InvalidInputError


def stacks(shape=(20, 50, 70), noise=200.0, dtype=np.uint16, seed=0):
    random = np.random.default_rng(seed)
    target = gaussian_filter(random.standard_normal(shape), 2)
    target = (1000 * (target - target.min())).astype(dtype)
    return 3.0 * target + noise * random.standard_normal(shape), target


def by_hand(image, target):
    low, high = np.percentile(target, [0.1, 99.9])
    scaled = (target - low) / (high - low)
    slope, offset = np.polyfit(image.ravel(), scaled.ravel(), 1)
    return np.clip(slope * image + offset, 0, 1), np.clip(scaled, 0, 1), slope, offset


@pytest.mark.parametrize("shape", [(20, 50, 70), (11, 12, 300), (13, 11, 11)])
@pytest.mark.parametrize("workers", [1, 3])
def test_equals_scikit_image(shape, workers):
    image, target = stacks(shape)
    fitted, clipped, slope, offset = by_hand(image, target)
    score = score_volume(image, target, workers=workers)
    expected = structural_similarity(
        fitted, clipped, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1
    )
    assert score.ssim == pytest.approx(expected, abs=1e-6)
    assert score.nrmse == pytest.approx(np.sqrt(((fitted - clipped) ** 2).mean()))
    assert score.psnr == pytest.approx(-20 * math.log10(score.nrmse))
    assert (score.scale, score.offset) == pytest.approx((slope, offset))
    assert score.pearson == pytest.approx(np.corrcoef(image.ravel(), target.ravel())[0, 1])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_other_types(dtype):
    image, target = stacks((12, 30, 30), dtype=np.float32)
    target = (target / target.max() * 200).astype(dtype)
    fitted, clipped, _, _ = by_hand(image, target)
    assert score_volume(image, target).nrmse == pytest.approx(np.sqrt(((fitted - clipped) ** 2).mean()), rel=1e-4)


def test_perfect_inverted_and_constant():
    _, target = stacks((12, 20, 20))
    perfect = score_volume(0.5 * target - 3, target)
    assert (perfect.psnr, perfect.failed) == (100, None)
    assert perfect.ssim == pytest.approx(1)
    assert score_volume(-1.0 * target, target).failed == CONTRAST_INVERTED
    constant = score_volume(np.full(target.shape, 7.0), target)
    assert (constant.failed, constant.scale, constant.pearson) == (CONSTANT_PREDICTION, 0, 0)


def boxed(shape=(22, 40, 44), seed=2):
    """A stack whose foreground is a box, and that box."""
    random = np.random.default_rng(seed)
    box = (slice(6, 16), slice(8, 30), slice(10, 34))
    target = random.uniform(0, 100, shape)
    target[box] = random.uniform(2000, 3000, target[box].shape)
    return target + 120 * random.standard_normal(shape), target, box


@pytest.mark.parametrize("workers", [1, 3])
def test_inside_are_the_scores_of_the_box_that_is_the_foreground(workers):
    image, target, box = boxed()
    mask = find_foreground(target).mask
    assert mask[box].all()
    assert np.count_nonzero(mask) == mask[box].size
    score = score_volume(image, target, mask=mask, workers=workers)
    fitted, clipped, _, _ = by_hand(image, target)
    error = (fitted - clipped) ** 2
    assert score.inside.nrmse == pytest.approx(np.sqrt(error[box].mean()))
    assert score.outside.nrmse == pytest.approx(np.sqrt(error[~mask].mean()))
    assert score.inside.psnr == pytest.approx(-20 * math.log10(score.inside.nrmse))
    r = np.corrcoef(image[box].ravel(), target[box].ravel())[0, 1]
    assert score.inside.pearson == pytest.approx(r)
    assert score.inside.snr == pytest.approx(-10 * math.log10(1 - r**2))
    assert score.outside.pearson == pytest.approx(np.corrcoef(image[~mask], target[~mask])[0, 1])
    _, similarity = structural_similarity(
        fitted, clipped, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, full=True
    )
    inner = np.zeros(mask.shape, bool)
    inner[5:-5, 5:-5, 5:-5] = True
    assert score.inside.ssim == pytest.approx(similarity[mask & inner].mean(), abs=1e-6)
    assert score.outside.ssim == pytest.approx(similarity[~mask & inner].mean(), abs=1e-6)


def test_the_volume_is_the_weighted_mean_of_inside_and_outside():
    image, target = stacks((20, 50, 70))
    mask = find_foreground(target).mask
    score, fraction = score_volume(image, target, mask=mask), mask.mean()
    inner_fraction = mask[5:-5, 5:-5, 5:-5].mean()
    assert score.nrmse**2 == pytest.approx(fraction * score.inside.nrmse**2 + (1 - fraction) * score.outside.nrmse**2)
    parts = inner_fraction * score.inside.ssim + (1 - inner_fraction) * score.outside.ssim
    assert score.ssim == pytest.approx(parts, abs=1e-6)
    plain = score_volume(image, target)
    assert (plain.nrmse, plain.ssim, plain.inside, plain.outside) == (score.nrmse, score.ssim, None, None)


def test_noise_in_the_background_does_not_change_what_is_free_of_it():
    image, target, _ = boxed()
    mask = find_foreground(target).mask
    noisy = np.where(mask, image, image + 400 * np.random.default_rng(5).standard_normal(image.shape))
    clean, dirty = (score_volume(each, target, mask=mask) for each in (image, noisy))
    assert (dirty.inside.snr, dirty.inside.pearson) == (clean.inside.snr, clean.inside.pearson)
    assert dirty.outside.nrmse > 1.5 * clean.outside.nrmse
    assert dirty.ssim < clean.ssim - 0.1


def test_parts_without_contrast_or_voxels_have_no_value():
    image, target = stacks((12, 30, 30))
    mask = target > np.percentile(target, 70)
    image[mask] = 7
    assert math.isnan(score_volume(image, target, mask=mask).inside.snr)
    empty = score_volume(image, target, mask=np.zeros_like(mask)).inside
    assert all(math.isnan(value) for value in (empty.nrmse, empty.psnr, empty.ssim, empty.pearson, empty.snr))
    border = np.zeros_like(mask)
    border[:5] = True
    score = score_volume(image, target, mask=border).inside
    assert math.isnan(score.ssim)
    assert score.nrmse > 0
    with pytest.raises(InvalidInputError, match="foreground has shape"):
        score_volume(image, target, mask=mask[1:])


def test_brightness_that_varies_from_plane_to_plane_is_seen():
    _, target = stacks((14, 40, 40))
    uneven = target * np.linspace(0.5, 2, 14)[:, np.newaxis, np.newaxis]
    planes = [score.psnr for score in score_stack(uneven, target)[0]]
    assert min(planes) == pytest.approx(100)
    assert score_volume(uneven, target).psnr < 30


def test_few_planes_have_no_ssim_but_the_rest():
    image, target = stacks((10, 30, 30))
    score = score_volume(image, target)
    assert math.isnan(score.ssim)
    assert score.psnr > 0


def test_constant_planes_are_part_of_the_volume():
    image, target = stacks((14, 30, 30))
    target[:3] = 0
    assert math.isfinite(score_volume(image, target).ssim)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y: (x[0], y[0]), "three axes"),
        (lambda x, y: (x[:, :10], y[:, :10]), "at least 11"),
        (lambda x, y: (x[1:], y), "shape"),
        (lambda x, y: (x * np.nan, y), "NaN"),
        (lambda x, y: (x, y * 0), "constant"),
    ],
)
def test_degenerate_input_is_refused_by_name(change, words):
    image, target = change(*stacks((12, 20, 20)))
    with pytest.raises(InvalidInputError, match=f"stack_1: .*{words}"):
        score_volume(image, target, name="stack_1")
