"""The linear predictor: what grey values alone can tell."""

from __future__ import annotations

import numpy as np
import pytest

from parfocal.qc.metrics.baselines.linear import fit_linear_predictor
from parfocal.runtime.errors import InvalidInputError

RNG = np.random.default_rng(0)


def test_a_linear_relation_is_found_exactly() -> None:
    sources = [RNG.random((3, 20, 30)) * 1000 for _ in range(3)]
    pairs = [(source, 2 * source[0] - 0.5 * source[2] + 7) for source in sources]
    predictor = fit_linear_predictor(pairs)
    np.testing.assert_allclose(predictor.coefficients, (2, 0, -0.5), atol=1e-9)
    assert predictor.intercept == pytest.approx(7)
    assert predictor.images == 3
    np.testing.assert_allclose(predictor.apply(sources[0]), pairs[0][1], rtol=1e-5)


@pytest.mark.parametrize("shape", [(20, 30), (4, 20, 30)])
def test_one_channel_is_a_straight_line(shape: tuple[int, ...]) -> None:
    source, noise = RNG.random(shape), RNG.normal(0, 0.1, shape)
    predictor = fit_linear_predictor([(source, noise - 3 * source)])
    slope, intercept = np.polyfit(source.ravel(), (noise - 3 * source).ravel(), 1)
    assert predictor.coefficients == pytest.approx([slope])
    assert predictor.intercept == pytest.approx(intercept)
    assert predictor.apply(source).shape == shape


def test_large_and_small_images_count_alike() -> None:
    small, large = RNG.random((10, 10)), RNG.random((100, 100))
    predictor = fit_linear_predictor([(small, np.full_like(small, 1.0)), (large, np.full_like(large, 3.0))])
    assert predictor.apply(large).mean() == pytest.approx(2.0, abs=0.05)


def test_repeated_channels_are_no_trouble() -> None:
    plane = RNG.random((10, 10))
    predictor = fit_linear_predictor([(np.stack([plane, plane]), 4 * plane)])
    np.testing.assert_allclose(predictor.coefficients, (2, 2), atol=1e-8)


def test_uint16_does_not_overflow() -> None:
    source = RNG.integers(0, 65535, (50, 50), dtype=np.uint16)
    predictor = fit_linear_predictor([(source, source)])
    assert predictor.coefficients == pytest.approx([1.0])


@pytest.mark.parametrize("pairs", [[], [(np.zeros((4, 4)), np.zeros((4, 5)))]])
def test_unusable_pairs_are_refused(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    with pytest.raises(InvalidInputError):
        fit_linear_predictor(pairs)
