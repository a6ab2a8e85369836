"""Scores of whole stacks against scikit-image in three dimensions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from parfocal.qc.metrics.restoration import CONSTANT_PREDICTION, CONTRAST_INVERTED, score_stack
from parfocal.qc.metrics.volume import score_volume
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
        (lambda x, y: (x * np.nan, y), "not a number"),
        (lambda x, y: (x, y * 0), "constant"),
    ],
)
def test_degenerate_input_is_refused_by_name(change, words):
    image, target = change(*stacks((12, 20, 20)))
    with pytest.raises(InvalidInputError, match=f"stack_1: .*{words}"):
        score_volume(image, target, name="stack_1")
