"""Rank tests, Holm's correction and the effect size, against scipy, enumeration and values worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from parfocal.qc.metrics.paired import (
    holm,
    images_needed,
    mann_whitney_p,
    paired_test,
    rank_biserial,
    rank_biserial_interval,
    smallest_p,
    wilcoxon_p,
)
from parfocal.runtime.errors import InvalidInputError

whole = st.lists(st.integers(-6, 6).map(float), min_size=1, max_size=9)


def enumerated_wilcoxon(differences):
    """The p-value by its definition: how many choices of signs are at least as far from the middle."""
    values = [each for each in differences if each]
    ranks = stats.rankdata(np.abs(values)) if values else np.zeros(0)
    observed = abs(sum(rank * np.sign(value) for rank, value in zip(ranks, values, strict=True)))
    signs = np.array(list(itertools.product((-1, 1), repeat=len(values))))
    return float((np.abs(signs @ ranks) >= observed - 1e-9).mean()) if values else 1.0


def enumerated_mann_whitney(first, second):
    together = np.array([*first, *second])
    ranks = stats.rankdata(together)
    middle = len(first) * (together.size + 1) / 2
    observed = abs(ranks[: len(first)].sum() - middle)
    sums = [ranks[list(chosen)].sum() for chosen in itertools.combinations(range(together.size), len(first))]
    return float(np.mean(np.abs(np.array(sums) - middle) >= observed - 1e-9))


@settings(deadline=None, max_examples=40)
@given(whole)
def test_wilcoxon_is_exact_with_and_without_ties_and_zeros(differences):
    assert wilcoxon_p(differences) == pytest.approx(enumerated_wilcoxon(differences), abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=6))
def test_mann_whitney_is_exact_for_few_images(pairs):
    first, second = ([float(each) for each in column] for column in zip(*pairs, strict=True))
    assert mann_whitney_p(first, second) == pytest.approx(enumerated_mann_whitney(first, second), abs=1e-12)


def test_published_example_of_wilcoxon():
    # Heights of cross- and self-fertilised plants (Darwin), in the example of scipy's documentation.
    differences = [6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75]
    assert wilcoxon_p(differences) == pytest.approx(0.041259765625)


def test_many_images_agree_with_scipy():
    rng = np.random.default_rng(3)
    first = rng.normal(30, 3, 80)
    second = first - rng.normal(0.2, 0.8, 80)
    result = paired_test(first, second)
    assert result.wilcoxon == pytest.approx(stats.wilcoxon(first, second, correction=True).pvalue)
    assert result.mann_whitney == pytest.approx(stats.mannwhitneyu(first, second).pvalue)
    assert result.images == result.higher + result.lower == 80


@pytest.mark.parametrize("images", [9, 20, 50])
def test_without_ties_both_agree_with_the_exact_distributions_of_scipy(images):
    rng = np.random.default_rng(images)
    first, second = rng.normal(30, 1, images), rng.normal(29.5, 1, images)
    assert wilcoxon_p(first - second) == pytest.approx(stats.wilcoxon(first - second, method="exact").pvalue)
    assert mann_whitney_p(first, second) == pytest.approx(stats.mannwhitneyu(first, second, method="exact").pvalue)


def test_with_ties_the_normal_approximation_follows_closely():
    rng = np.random.default_rng(8)
    first, second = (np.round(rng.normal(mean, 1, 50), 1) for mean in (30.0, 29.6))
    ours = wilcoxon_p(first - second), mann_whitney_p(first, second)
    theirs = stats.wilcoxon(first - second, method="asymptotic").pvalue, stats.mannwhitneyu(first, second).pvalue
    assert ours == pytest.approx(theirs, rel=0.05)


def test_pairing_finds_what_lies_below_the_differences_between_images():
    first = np.linspace(20, 40, 10)
    result = paired_test(first, first - np.linspace(0.1, 0.2, 10))
    assert result.wilcoxon == smallest_p(10) == pytest.approx(2 / 1024)
    assert result.mann_whitney > 0.5
    assert (result.higher, result.lower, result.rank_biserial) == (10, 0, 1.0)


@pytest.mark.parametrize("images", range(1, 12))
def test_the_smallest_p_is_reached_when_all_differences_have_one_sign(images):
    assert wilcoxon_p(np.arange(1.0, images + 1)) == pytest.approx(smallest_p(images))


def test_equal_scores_show_nothing():
    result = paired_test([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert (result.wilcoxon, result.rank_biserial, result.higher, result.lower) == (1.0, 0.0, 0, 0)
    assert result.mann_whitney == 1.0
    assert mann_whitney_p([2.0] * 20, [2.0] * 20) == 1.0


def test_one_image_shows_nothing():
    result = paired_test([2.0], [1.0])
    assert result.wilcoxon == result.mann_whitney == 1.0


def test_rank_biserial_by_hand():
    # Ranks of 1, 2, 3, 4 with the second negative: (1 + 3 + 4 - 2) / 10.
    assert rank_biserial([1.0, -2.0, 3.0, 4.0]) == pytest.approx(0.6)
    assert rank_biserial([0.0, 0.0, -5.0]) == -1.0


@settings(deadline=None, max_examples=30)
@given(whole)
def test_exchanging_the_two_turns_only_the_sign(differences):
    turned = [-each for each in differences]
    assert rank_biserial(turned) == pytest.approx(-rank_biserial(differences))
    assert wilcoxon_p(turned) == pytest.approx(wilcoxon_p(differences))


def test_holm_by_hand():
    # 0.01 * 4, 0.02 * 3, then 0.03 * 2 and 0.04 * 1, which may not fall below the one before.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([0.2]) == pytest.approx([0.2])
    assert holm([]).size == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_as_its_original_procedure(values):
    """Holm 1979: go up the sorted values as long as each is at most alpha / (m - k)."""
    alpha, rejected = 0.05, 0
    for k, value in enumerate(sorted(values)):
        if value * (len(values) - k) > alpha:
            break
        rejected += 1
    assert (holm(values) <= alpha).sum() == rejected
    assert (holm(values) >= np.array(values)).all()


@pytest.mark.parametrize("tests", [1, 2, 3, 5, 10, 40])
def test_images_needed_is_the_first_number_that_suffices(tests):
    needed = images_needed(tests, 0.05)
    assert tests * smallest_p(needed) <= 0.05 < tests * smallest_p(needed - 1)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [([1.0], [1.0, 2.0], "cannot be paired"), ([], [], "no scores"), ([np.nan], [1.0], "finite")],
)
def test_what_cannot_be_compared_is_refused(first, second, words):
    with pytest.raises(InvalidInputError, match=words):
        paired_test(first, second)


def test_impossible_p_values_are_refused():
    with pytest.raises(InvalidInputError, match="between 0 and 1"):
        holm([0.5, 1.5])


def test_interval_of_the_rank_biserial_correlation_by_hand():
    # Ranks 1 to 4 of which 2 is negative: r = 0.6, v = 30 / 100; the ends solve (0.6 - x)^2 = z^2 v (1 - x^2).
    spread = stats.norm.ppf(0.975) ** 2 * 0.3
    roots = np.sort(np.roots([1 + spread, -1.2, 0.36 - spread]))
    assert rank_biserial_interval([1.0, -2.0, 3.0, 4.0]) == pytest.approx(tuple(roots))
    assert rank_biserial_interval([0.0, 0.0]) == (-1.0, 1.0)
    always = rank_biserial_interval(np.arange(1.0, 10.0))
    share = stats.norm.ppf(0.975) ** 2 * 285 / 45**2
    assert always == pytest.approx(((1 - share) / (1 + share), 1.0))


@settings(deadline=None, max_examples=60)
@given(whole, st.sampled_from([0.8, 0.95, 0.99]))
def test_interval_of_the_effect_leaves_out_zero_where_wilcoxons_normal_approximation_does(differences, confidence):
    low, high = rank_biserial_interval(differences, confidence=confidence)
    assert -1 <= low <= rank_biserial(differences) <= high <= 1
    turned = rank_biserial_interval([-each for each in differences], confidence=confidence)
    assert turned == pytest.approx((-high, -low))
    values = np.array([each for each in differences if each])
    if values.size:
        ranks = stats.rankdata(np.abs(values))
        p = 2 * stats.norm.sf(abs((ranks * np.sign(values)).sum()) / np.sqrt((ranks**2).sum()))
        if abs(p - (1 - confidence)) > 1e-9:
            assert (low > 0 or high < 0) == (p < 1 - confidence)


@pytest.mark.parametrize("images", [5, 20])
@pytest.mark.parametrize("shift", [0.0, 1.0])
@pytest.mark.parametrize("draw", ["standard_normal", "standard_exponential", "standard_cauchy"])
def test_interval_of_the_effect_holds_the_true_value_with_few_images(images, shift, draw):
    random = np.random.default_rng(11)

    def differences(count):
        # The exponential less its mean, turned: a model that is a little better mostly and much worse at times.
        sign = -1 if draw == "standard_exponential" else 1
        return sign * (getattr(random, draw)((count, images)) - (sign < 0)) + shift

    # What r estimates: how much more often the sum of two images' differences is positive than negative.
    many = differences(1_000_000 // images)
    true = 2 * (many[:, 0] + many[:, 1] > 0).mean() - 1
    intervals = np.array([rank_biserial_interval(each) for each in differences(1500)])
    covered = ((intervals[:, 0] <= true) & (true <= intervals[:, 1])).mean()
    assert 0.91 <= covered <= 0.995
