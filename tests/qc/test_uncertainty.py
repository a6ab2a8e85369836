"""Coverage: an uncertainty that is as large as the errors is calibrated, a smaller or larger one is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from parfocal.qc.metrics.images.restoration import score_restoration
from parfocal.qc.metrics.images.uncertainty import LEVELS, coverage
from parfocal.qc.restoration.reliability import (
    coverage_remark,
    read_coverage_csv,
    reliability_figure,
    write_coverage_csv,
)
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.prediction.uncertainty import LEVEL, calibration_factor, interval_width

RNG = np.random.default_rng(2)
WIDTH = RNG.uniform(1, 5, (200, 220))
TARGET = RNG.uniform(0, 4000, WIDTH.shape)
PREDICTION = TARGET - RNG.laplace(0, WIDTH)
INSIDE = TARGET > 2500


def found(prediction: Any, width: Any, foreground: Any = INSIDE) -> Any:
    score, _ = score_restoration(prediction, TARGET)
    return coverage(TARGET, prediction, width, score, foreground, name="a")


def test_errors_as_large_as_said_are_covered_as_said() -> None:
    np.testing.assert_allclose(found(PREDICTION, WIDTH), [LEVELS] * 3, atol=0.015)


def test_a_width_that_is_true_of_background_alone_is_found_out() -> None:
    whole, inside, outside = found(PREDICTION, np.where(INSIDE, 0.4 * WIDTH, WIDTH))
    np.testing.assert_allclose(outside, LEVELS, atol=0.015)
    np.testing.assert_allclose(inside, [1 - (1 - level) ** 0.4 for level in LEVELS], atol=0.015)
    np.testing.assert_allclose(whole, inside * INSIDE.mean() + outside * (1 - INSIDE.mean()))


def test_a_part_without_pixels_has_no_coverage() -> None:
    whole, inside, outside = found(PREDICTION, WIDTH, np.zeros_like(INSIDE))
    assert np.isnan(inside).all()
    np.testing.assert_array_equal(outside, whole)


def test_brightness_and_offset_of_the_prediction_are_no_matter() -> None:
    np.testing.assert_allclose(found(0.01 * PREDICTION + 7, 0.01 * WIDTH), found(PREDICTION, WIDTH), atol=1e-3)


@pytest.mark.parametrize("factor", [0.4, 3.0])
def test_a_width_off_by_a_factor_covers_what_the_distribution_says(factor: float) -> None:
    expected = [1 - (1 - level) ** factor for level in LEVELS]  # P(|e| <= f b ln(1 / (1 - p)))
    np.testing.assert_allclose(found(PREDICTION, factor * WIDTH), [expected] * 3, atol=0.015)


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_the_calibration_factor_undoes_a_wrong_width(factor: float) -> None:
    ratios = np.abs(RNG.laplace(0, WIDTH)) / (factor * WIDTH)
    assert calibration_factor(ratios) == pytest.approx(1 / factor, rel=0.03)


def test_the_interval_is_that_of_the_laplace_distribution() -> None:
    for level in LEVELS:
        assert interval_width(level) == pytest.approx(stats.laplace.interval(level)[1])
    assert LEVEL in LEVELS


@pytest.mark.parametrize(("width", "words"), [(WIDTH[:-1], "shape"), (-WIDTH, "below 0"), (WIDTH * np.nan, "NaN")])
def test_what_is_no_width_is_refused_by_name(width: Any, words: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^a: .*{words}"):
        found(PREDICTION, width)


@pytest.mark.parametrize(("value", "word"), [(0.6, "too small"), (0.9, "calibrated"), (0.99, "too large")])
def test_the_remark_says_which_way_it_is_wrong(value: float, word: str) -> None:
    assert word in coverage_remark(value)


def test_the_remark_names_the_foreground_where_it_alone_is_wrong() -> None:
    assert "only 60 % inside the foreground" in coverage_remark(0.9, 0.6)
    assert "calibrated" in coverage_remark(0.9, 0.88)


def test_the_table_is_read_back_and_drawn(tmp_path: Path) -> None:
    values = {"a": np.array(LEVELS), "b": np.array(LEVELS) / 2}
    write_coverage_csv(tmp_path / "coverage.csv", values)
    read = read_coverage_csv(tmp_path / "coverage.csv")
    np.testing.assert_allclose(read, list(values.values()))
    (axis,) = reliability_figure(read).axes
    np.testing.assert_allclose(axis.lines[1].get_ydata(), 75 * np.array(LEVELS))
