"""The Gaussian baseline and the choice of its sigma."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from parfocal.qc.metrics.baselines.gaussian import best_gaussian_sigma, gaussian_baseline
from parfocal.qc.metrics.images.fit import fitted_psnr, scale_target
from parfocal.runtime.errors import InvalidInputError


def blurred_pair(sigma, seed=0, shape=(96, 96)):
    """The target is the source under a Gaussian filter: that sigma is the best by construction."""
    source = np.random.default_rng(seed).random(shape).astype(np.float32)
    return source, gaussian_filter(source, sigma)


@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.5])
def test_finds_the_sigma_that_made_the_target(sigma):
    choice = best_gaussian_sigma([blurred_pair(sigma, seed) for seed in range(3)])
    assert choice.sigma == pytest.approx(sigma, abs=0.02)
    assert choice.images == 3


def test_refines_between_candidates():
    pair = blurred_pair(1.6, shape=(128, 128))
    choice = best_gaussian_sigma([pair], sigmas=(1.0, 1.5, 2.0))
    scaled = scale_target(pair[1])
    assert 1.5 < choice.sigma < 2.0
    assert fitted_psnr(gaussian_baseline(pair[0], choice.sigma), scaled) > dict(choice.mean_psnr)[1.5]


@pytest.mark.parametrize(("true", "expected"), [(0.1, 0.5), (9.0, 6.0)])
def test_stays_within_the_candidates(true, expected):
    assert best_gaussian_sigma([blurred_pair(true)]).sigma == expected


def test_mean_psnr_is_over_images():
    pairs = [blurred_pair(1.0, 1), blurred_pair(2.0, 2)]
    single = [dict(best_gaussian_sigma([pair], (1.0, 2.0)).mean_psnr) for pair in pairs]
    both = dict(best_gaussian_sigma(pairs, (1.0, 2.0)).mean_psnr)
    assert both[1.0] == pytest.approx((single[0][1.0] + single[1][1.0]) / 2)


def test_stack_counts_once_and_leaves_empty_slices_out():
    source, target = blurred_pair(2.0)
    touched = np.zeros_like(target)
    touched[3, 3] = 1
    stack = np.stack([source] * 3), np.stack([target, np.zeros_like(target), touched])
    assert best_gaussian_sigma([stack], (1.0, 2.0)) == best_gaussian_sigma([(source, target)], (1.0, 2.0))


def test_stack_is_filtered_within_its_planes():
    stack = np.zeros((3, 21, 21), np.uint16)
    stack[1, 10, 10] = 1000
    filtered = gaussian_baseline(stack, 1.5)
    assert filtered.dtype == np.float32
    assert not filtered[0].any()
    np.testing.assert_array_equal(filtered[1], gaussian_baseline(stack[1], 1.5))


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([], "no images with any contrast"),
        ([(np.eye(20), np.eye(21))], "shapes"),
        ([(np.zeros((2, 20, 20)), np.zeros((2, 20, 20)))], "no images with any contrast"),
        ([(np.eye(20), np.zeros((20, 20)))], "no images with any contrast"),
        ([(np.full((20, 20), np.nan), np.eye(20))], "NaN"),
    ],
)
def test_refuses_pairs_it_cannot_use(pairs, words):
    with pytest.raises(InvalidInputError, match=words):
        best_gaussian_sigma(pairs, (1.0,))


def test_blocks_without_contrast_are_skipped():
    empty = (np.random.default_rng(0).poisson(5, (40, 40)).astype(np.float64), np.full((40, 40), 50.0))
    alone = best_gaussian_sigma([blurred_pair(1)], (0.5, 1.0, 2.0))
    among = best_gaussian_sigma([empty, blurred_pair(1), empty], (0.5, 1.0, 2.0))
    assert (among.sigma, among.images) == (alone.sigma, 1)


@pytest.mark.parametrize("sigmas", [(), (0.0, 1.0), (2.0, 1.0), (1.0, 1.0)])
def test_candidates_must_rise(sigmas):
    with pytest.raises(ValueError, match="rising"):
        best_gaussian_sigma([blurred_pair(1)], sigmas)
