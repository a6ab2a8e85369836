"""Localisation QC: optimal matching, the numbers of the challenge, fits of single spots, and images."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from parfocal.qc.metrics.baselines.spots import choose_spots, locate_spots
from parfocal.qc.metrics.images.reconstructions import render, score_against_frames, score_against_truth
from parfocal.qc.metrics.objects.localisations import efficiency, match_stack
from parfocal.runtime.datasets.coordinates import Localisations
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.methods.localisation_matching import match_places


def located(frame: list[int], y: list[float], x: list[float]) -> Localisations:
    return Localisations(np.array(frame), np.array(y, float), np.array(x, float), np.full(len(y), np.nan))


def test_matching_is_optimal_and_not_greedy() -> None:
    # The nearest pair (1, 1.4) would leave the two others without a partner.
    found, true = np.array([[0, 1.0], [0, 2.2]]), np.array([[0, 1.4], [0, 0.4]])
    mine, theirs, distance = match_places(found, true, 1.0)
    assert list(zip(mine, theirs, strict=True)) == [(0, 1), (1, 0)]
    assert distance == pytest.approx([0.6, 0.8])
    assert not len(match_places(found, true, 0.3)[0])
    assert not len(match_places(found[:0], true, 1.0)[0])


def test_groups_give_what_the_whole_assignment_gives() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        found, true = rng.uniform(0, 20, (60, 2)), rng.uniform(0, 20, (50, 2))
        cost = np.minimum(((found[:, np.newaxis] - true) ** 2).sum(axis=-1), 1.5**2)
        rows, columns = linear_sum_assignment(cost)
        expected = {(row, column) for row, column in zip(rows, columns, strict=True) if cost[row, column] < 1.5**2}
        mine, theirs, _ = match_places(found, true, 1.5)
        assert set(zip(mine.tolist(), theirs.tolist(), strict=True)) == expected


def test_the_numbers_of_the_challenge() -> None:
    assert efficiency(0.8, 30) == pytest.approx(63.944, abs=1e-3)
    assert efficiency(1, 0) == 100
    # Frame 0: one pair 30 and 40 nm off, one too many; frame 1: one not found.
    score = match_stack(
        located([0, 0], [1.0, 8.0], [1.0, 8.0]), located([0, 1], [1.3, 4.0], [1.4, 4.0]), 2, (100, 100), 250
    )
    assert (score.tp.tolist(), score.fp.tolist(), score.fn.tolist()) == ([1, 0], [1, 0], [0, 1])
    numbers = score.numbers()
    # Of both axes together, not of each.
    assert numbers.rmse_nm == pytest.approx(50)
    assert (numbers.jaccard, numbers.recall, numbers.precision) == pytest.approx((1 / 3, 1 / 2, 1 / 2))
    nothing = match_stack(located([], [], []), located([], [], []), 1, (100, 100), 250).numbers()
    assert (nothing.jaccard, nothing.recall, nothing.precision) == (1, 1, 1)
    assert math.isnan(nothing.rmse_nm)


def test_single_spots_are_fitted_where_they_are() -> None:
    rng = np.random.default_rng(2)
    y, x = np.array([8.3, 20.9, 31.5]), np.array([9.75, 25.1, 8.5])
    rows, columns = np.mgrid[:40, :40] + 0.5
    light = 20 + sum(300 * np.exp(-((rows - b) ** 2 + (columns - a) ** 2) / 2.4) for b, a in zip(y, x, strict=True))
    frame = rng.poisson(light)
    found = locate_spots([frame, np.full((40, 40), 5.0)], 8)
    assert found.frame.tolist() == [0, 0, 0]
    np.testing.assert_allclose(found.y, y, atol=0.1)
    np.testing.assert_allclose(found.x, x, atol=0.1)
    chosen = choose_spots([(frame, located([0, 0, 0], y.tolist(), x.tolist()))], (100, 100), 250)
    assert chosen.jaccard == 1
    with pytest.raises(InvalidInputError):
        choose_spots([], (100, 100), 250)


def test_an_image_that_is_the_truth_is_perfect_and_its_scale_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    truth = render(located([0] * 400, rng.uniform(0, 16, 400).tolist(), rng.uniform(0, 16, 400).tolist()), (16, 16), 4)
    assert truth.sum() == 400
    same = score_against_truth(7 * truth + 3, truth)
    assert (same.ssim, same.nrmse_zerocost) == pytest.approx((1, 0), abs=0.01)
    other = score_against_truth(rng.random(truth.shape), truth)
    assert other.ssim < 0.5
    # A constant image says nothing: what is left is the truth without its mean.
    target = truth / np.percentile(truth, 99.9) if np.percentile(truth, 0.1) == 0 else truth
    flat = score_against_truth(np.ones_like(truth), truth)
    assert flat.nrmse_zerocost == pytest.approx(np.sqrt(np.abs(target - target.mean()).mean()), rel=1e-3)
    with pytest.raises(InvalidInputError):
        score_against_truth(truth[1:], truth)


def test_an_image_blurred_again_is_its_own_frame() -> None:
    rng = np.random.default_rng(1)
    fine = np.zeros((128, 96))
    fine[rng.integers(20, 108, 60), rng.integers(20, 76, 60)] = 1
    frame = 100 + 5000 * ndimage.gaussian_filter(fine.reshape(32, 4, 24, 4).mean(axis=(1, 3)), 1.5)
    error = score_against_frames(fine, frame)
    assert error.rsp == pytest.approx(1, abs=1e-4)
    assert error.sigma == pytest.approx(1.5, abs=0.02)
    assert error.rse < 0.01 * np.ptp(frame)
    wrong = fine.copy()
    wrong[60:68, 60:68] = 1
    spoiled = score_against_frames(wrong, frame)
    assert spoiled.rsp < error.rsp - 0.05
    # The map is brighter where there is light that the truth does not have.
    assert spoiled.difference[15:17, 15:17].mean() > 20 * error.difference[15:17, 15:17].mean() + 1
    with pytest.raises(InvalidInputError):
        score_against_frames(fine[:, :-1], frame)
