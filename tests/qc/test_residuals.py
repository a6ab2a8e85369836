"""Residuals: white noise scores as noise, and what was lost, added or left is told apart from it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, shift
from support import mentions

from parfocal.qc.metrics.baselines.blind import choose_blind_gaussian
from parfocal.qc.metrics.images.residuals import score_residual
from parfocal.qc.residuals.judge import judge
from parfocal.qc.residuals.parameters import ResidualThresholds
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.store.evaluations import ImageScore

RNG = np.random.default_rng(5)
SHAPE = (160, 192)


def structures(smoothness: float) -> Any:
    """Blobs and filaments on an even background, as expected photons."""
    field = gaussian_filter(RNG.standard_normal(SHAPE), smoothness)
    return 20 + 400 * np.clip(field / field.max(), 0.15, None)


CLEAN = structures(2) + structures(6)
NOISY = RNG.poisson(CLEAN).astype(np.uint16)


def test_the_true_image_leaves_a_residual_of_white_noise() -> None:
    score, maps = score_residual(NOISY, CLEAN, name="a")
    assert score.structure == pytest.approx(1, abs=0.1)
    assert score.neighbours == pytest.approx(0, abs=0.02)
    assert score.agreement > 0.999
    assert score.sharpness == pytest.approx(1, abs=0.03)
    assert score.scale == pytest.approx(1, abs=0.01)
    np.testing.assert_allclose(maps.residual, NOISY - CLEAN, atol=2)
    assert maps.deviation.std() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("predict", "field", "low", "high"),
    [
        pytest.param(lambda: gaussian_filter(CLEAN, 3), "structure", 1.8, 50, id="blurred"),
        pytest.param(lambda: gaussian_filter(CLEAN, 3), "sharpness", 0, 0.7, id="blurred is less sharp"),
        pytest.param(
            lambda: 3 * CLEAN - 2 * gaussian_filter(CLEAN, 2), "sharpness", 1.1, 3, id="exaggerated is sharper"
        ),
        pytest.param(lambda: shift(CLEAN, (2, 1), mode="nearest"), "structure", 1.8, 50, id="shifted"),
        pytest.param(lambda: CLEAN[::-1], "agreement", 0, 0.9, id="another image"),
        pytest.param(lambda: NOISY, "noise_left", 0.99, 1.01, id="the input itself"),
        pytest.param(lambda: NOISY, "sharpness", 0.999, 1.001, id="the input is as sharp as itself"),
        pytest.param(lambda: NOISY, "structure", 0, 1e-6, id="the input leaves nothing"),
    ],
)
def test_what_is_wrong_shows_in_its_number(predict: Any, field: str, low: float, high: float) -> None:
    score, _ = score_residual(NOISY, predict(), name="a")
    assert low <= getattr(score, field) <= high


def test_a_false_spot_is_found_where_it_is() -> None:
    false_spot = CLEAN.copy()
    false_spot[60:64, 80:84] += 150
    _, maps = score_residual(NOISY, false_spot, name="a")
    y, x = np.unravel_index(np.argmin(maps.deviation), SHAPE)
    assert abs(y - 61.5) < 4
    assert abs(x - 81.5) < 4
    assert maps.deviation.min() < -4


def test_noise_that_is_left_shows_where_half_the_input_is_clipped_to_0() -> None:
    source = np.clip(NOISY.astype(np.float64) - np.percentile(NOISY, 55), 0, 255).astype(np.uint8)
    source[: SHAPE[0] // 2] = 0
    score, _ = score_residual(source, source + RNG.normal(0, 1e-3, SHAPE), name="a")
    assert score.noise_left == pytest.approx(1, abs=0.02)


def test_a_plane_of_noise_alone_is_not_called_inverted() -> None:
    rng = np.random.default_rng(2)  # one of those where the two correlate negatively by chance
    source = rng.normal(100, 5, SHAPE)
    faint = gaussian_filter(rng.normal(size=SHAPE), 3)
    score, _ = score_residual(source, faint, name="a")
    assert score.scale < 0
    assert score.failed is None


def test_a_copy_of_an_image_that_is_nearly_all_zeros_has_all_of_its_noise_left() -> None:
    source = (np.random.default_rng(0).random(SHAPE) < 0.001).astype(np.uint8) * 200
    assert score_residual(source, source, name="a")[0].noise_left == pytest.approx(1)


def test_a_saturated_input_contradicts_the_true_image_and_says_so() -> None:
    source = np.minimum(NOISY, np.percentile(NOISY, 95).astype(np.uint16))
    score, _ = score_residual(source, CLEAN, name="a")
    assert score.structure > 1.5
    assert score.clipped == pytest.approx(0.05, abs=0.02)
    assert score_residual(NOISY, CLEAN, name="a")[0].clipped < 0.001


def test_shared_noise_shows_as_autocorrelation() -> None:
    shared = CLEAN + 30 * gaussian_filter(RNG.standard_normal(SHAPE), 0.8)
    score, _ = score_residual(shared, CLEAN, name="a")
    assert score.neighbours > 0.4
    assert score.structure > 1.5


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(-1e4, 1e4))
def test_brightness_and_offset_of_the_prediction_are_no_matter(factor: float, offset: float) -> None:
    one, other = (score_residual(NOISY, image, name="a")[0] for image in (CLEAN, factor * CLEAN + offset))
    for name, value in asdict(one).items():
        if name not in {"scale", "failed"}:
            assert getattr(other, name) == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_stacks_are_the_mean_of_their_planes() -> None:
    source, prediction = np.stack([NOISY, NOISY[::-1]]), np.stack([CLEAN, gaussian_filter(CLEAN, 2)[::-1]])
    stack, maps = score_residual(source, prediction, name="a")
    planes = [score_residual(*pair, name="a")[0] for pair in zip(source, prediction, strict=True)]
    assert stack.structure == pytest.approx(np.mean([plane.structure for plane in planes]))
    assert maps.residual.shape == source.shape
    empty = np.concatenate([source, np.zeros_like(source[:1])])
    assert score_residual(empty, np.concatenate([prediction, prediction[:1]]), name="a")[0] == stack


@pytest.mark.parametrize(
    ("prediction", "failed"), [(-CLEAN, "contrast inverted"), (np.full(SHAPE, 7.0), "prediction is constant")]
)
def test_what_the_fit_would_hide_fails_by_name(prediction: Any, failed: str) -> None:
    assert score_residual(NOISY, prediction, name="a")[0].failed == failed


@pytest.mark.parametrize(
    ("source", "prediction", "words"),
    [
        (NOISY, CLEAN[:-1], "cell: .*prediction.*shape"),
        (NOISY[:5, :5], CLEAN[:5, :5], "cell .*too small"),
        (np.full(SHAPE, 3), CLEAN, "cell: .*no noise"),
        (NOISY, np.where(CLEAN > 100, np.nan, CLEAN), "prediction cell has"),
    ],
)
def test_what_cannot_be_judged_is_refused_by_name(source: Any, prediction: Any, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        score_residual(source, prediction, name="cell")


def test_the_blind_filter_is_about_the_one_that_the_target_would_choose() -> None:
    images = [RNG.poisson(clean / 4).astype(np.uint16) for clean in (structures(3), structures(3))]
    chosen = choose_blind_gaussian(images)
    assert chosen.images == 2
    clean = [structures(3) for _ in range(2)]
    noisy = [RNG.poisson(image / 4) for image in clean]
    errors = {
        sigma: sum(
            ((gaussian_filter(x.astype(float), sigma) - y / 4) ** 2).mean() for x, y in zip(noisy, clean, strict=True)
        )
        for sigma, _ in chosen.errors
    }
    assert abs(chosen.sigma - min(errors, key=errors.__getitem__)) <= 0.5


@pytest.mark.parametrize("factor", [1e-27, 1e18])
def test_the_blind_filter_does_not_depend_on_the_scale_of_grey_values(factor: float) -> None:
    chosen = choose_blind_gaussian([NOISY])
    other = choose_blind_gaussian([NOISY.astype(np.float32) * np.float32(factor)])
    assert other.sigma == chosen.sigma
    assert dict(other.errors) == pytest.approx(dict(chosen.errors), rel=1e-3)


def test_of_a_long_stack_planes_at_even_distances_choose_the_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = np.stack([NOISY, gaussian_filter(NOISY, 3)] * 3)
    monkeypatch.setattr("parfocal.qc.metrics.baselines.blind._MOST_PIXELS", stack.size // 2)
    assert choose_blind_gaussian([stack]).errors == choose_blind_gaussian([stack[::2]]).errors


def test_images_without_contrast_choose_no_filter() -> None:
    with pytest.raises(InvalidInputError, match="contrast"):
        choose_blind_gaussian([np.zeros(SHAPE)])


def images(**values: float) -> Any:
    row = {"agreement": 1.0, "structure": 1.0, "noise_left": 0.1, "sharpness": 1.0}
    row |= {"autocorrelation": 0.0, "clipped_fraction": 0.0}
    return [ImageScore(name, row | values) for name in "abc"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"agreement": 0.9}, ("agree", "90 %")),
        ({"structure": 2.0, "sharpness": 0.7}, ("blurred", "sharpness 0.70")),
        ({"structure": 2.0, "sharpness": 1.3}, ("sharpened", "sharpness 1.30")),
        ({"structure": 2.0, "autocorrelation": 0.4}, ("neighbouring pixels",)),
        ({"structure": 2.0, "clipped_fraction": 0.05}, ("clipped", "5 %")),
        ({"noise_left": 0.9}, ("90 %", "is left")),
    ],
)
def test_every_objection_fails_with_its_words(values: dict[str, float], words: tuple[str, ...]) -> None:
    verdict = judge(images(**values), ResidualThresholds())
    assert verdict.verdict == "failed"
    assert mentions(" ".join(verdict.reasons), *words)
    assert judge(images(), ResidualThresholds()).verdict == "passed"


def test_a_pass_says_what_it_cannot_show_and_names_images_unlike_the_training() -> None:
    verdict = judge(images(), ResidualThresholds(), ["b"])
    assert "leaves no trace" in verdict.remarks[0]
    assert any(mentions(remark, "1 image ", "unlike", ": b.") for remark in verdict.remarks)
