"""Streaming over all cores: order, bounds, errors and early ends."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from parfocal.qc.metrics.images.restoration import score_restoration
from parfocal.qc.metrics.parallel import default_workers, map_bounded, workers_for
from parfocal.runtime.errors import InvalidInputError


def test_results_keep_the_order_of_the_items():
    def slow_first(number):
        time.sleep(0.02 if number % 3 == 0 else 0)
        return number * number

    assert list(map_bounded(slow_first, range(20), 3)) == [n * n for n in range(20)]


def test_items_are_taken_only_as_results_are_used():
    taken = []

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    results = map_bounded(lambda n: n, items(), 2)
    for _ in range(10):
        next(results)
    assert len(taken) <= 10 + 2
    results.close()
    assert len(taken) <= 10 + 2


def test_works_in_several_threads_at_once():
    barrier = threading.Barrier(2, timeout=5)
    list(map_bounded(lambda _: barrier.wait(), range(2), 2))


def test_an_error_arrives_at_its_place_and_ends_the_rest():
    begun = []

    def fails_at_three(number):
        begun.append(number)
        if number == 3:
            raise InvalidInputError("third")
        return number

    results = map_bounded(fails_at_three, range(100), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InvalidInputError, match="third"):
        next(results)
    assert len(begun) < 10
    assert not [t for t in threading.enumerate() if t.name.startswith("parfocal-qc")]


def test_nothing_to_do_is_no_error():
    assert list(map_bounded(str, [])) == []


def test_needs_a_worker():
    with pytest.raises(ValueError, match="at least 1"):
        next(map_bounded(str, [1], 0))


def test_counts_at_least_one_processor():
    assert default_workers() >= 1


def test_images_that_fill_the_memory_are_taken_one_by_one() -> None:
    assert workers_for([(64, 64), (2000, 512, 512), (64, 64)]) == 1
    assert workers_for([(2048, 2048)] * 3) == default_workers()


def test_scores_in_threads_equal_those_of_single_calls():
    random = np.random.default_rng(0)
    pairs = [(random.random((40, 40)), random.random((40, 40))) for _ in range(5)]
    many = list(map_bounded(lambda pair: score_restoration(*pair), pairs, 3))
    for (score, maps), pair in zip(many, pairs, strict=True):
        expected, expected_maps = score_restoration(*pair)
        assert score == expected
        np.testing.assert_array_equal(maps.ssim, expected_maps.ssim)
