"""Normaliser: one rule, constants of whole images, and a way back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from parfocal.runtime.errors import InvalidInputError, PreconditionError
from parfocal.runtime.methods import normaliser as module
from parfocal.runtime.methods.normaliser import Normaliser, NormaliserConstants

RNG = np.random.default_rng(0)
IMAGE = RNG.gamma(2, 300, (60, 70)).astype(np.uint16)


def test_percentiles_become_zero_and_one() -> None:
    rule = Normaliser()
    values = rule.apply(IMAGE, rule.fit(IMAGE, "YX"))
    assert values.dtype == np.float32
    np.testing.assert_allclose(np.percentile(values, (2, 99.8)), (0, 1), atol=1e-6)
    assert values.max() > 1  # nothing is clipped


def test_z_score_gives_mean_zero_and_deviation_one() -> None:
    rule = Normaliser(rule="z-score")
    values = rule.apply(IMAGE, rule.fit(IMAGE, "YX"))
    assert (values.mean(), values.std()) == (pytest.approx(0, abs=1e-5), pytest.approx(1, abs=1e-5))


def test_none_leaves_values_as_they_are() -> None:
    rule = Normaliser(rule="none")
    np.testing.assert_array_equal(rule.apply(IMAGE, rule.fit(IMAGE, "YX")), IMAGE.astype(np.float32))


def test_a_patch_is_normalised_as_in_its_image() -> None:
    rule = Normaliser()
    constants = rule.fit(IMAGE, "YX")
    np.testing.assert_array_equal(rule.apply(IMAGE[10:20, 5:9], constants), rule.apply(IMAGE, constants)[10:20, 5:9])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
@given(gain=st.floats(0.01, 100), offset=st.floats(0, 100), seed=st.integers(0, 50))
def test_undo_brings_back_the_image(dtype: str, gain: float, offset: float, seed: int) -> None:
    image = (np.random.default_rng(seed).random((12, 13)) * 100 * min(gain, 1) + offset).astype(dtype)
    for rule in (Normaliser(), Normaliser(rule="z-score"), Normaliser(rule="none")):
        constants = rule.fit(image, "YX")
        back = rule.undo(rule.apply(image, constants), constants)
        np.testing.assert_allclose(back, image, rtol=1e-5, atol=1e-3)


def test_differences_come_back_without_the_offset() -> None:
    rule = Normaliser()
    constants = rule.fit(IMAGE, "YX")
    values = rule.apply(IMAGE, constants)
    apart = rule.undo(values, constants) - rule.undo(values[::-1], constants)
    np.testing.assert_allclose(rule.undo_width(values - values[::-1], constants), apart, atol=1e-2)


def test_large_offsets_keep_their_digits() -> None:
    image = (2**30 + RNG.integers(0, 100, (50, 50))).astype(np.int32)  # float32 alone has steps of 64 here
    rule = Normaliser(low=0, high=100)
    values = rule.apply(image, rule.fit(image, "YX"))
    np.testing.assert_allclose(values, (image - image.min()) / (image.max() - image.min()), atol=1e-6)


@pytest.mark.parametrize(("axes", "place"), [("CYX", 0), ("YXS", 2), ("ZCYX", 1)])
def test_channels_are_normalised_one_by_one(axes: str, place: int) -> None:
    shape = [4, 20, 30][-2:] if len(axes) == 3 else [4, 20, 30]
    stack = RNG.random((*shape[:place], 3, *shape[place:])) * 10 ** np.arange(3.0).reshape(
        [3 if index == place else 1 for index in range(len(axes))]
    )
    rule = Normaliser()
    constants = rule.fit(stack, axes)
    values = rule.apply(stack, constants)
    for channel in range(3):
        single = np.take(stack, channel, place)
        alone = rule.apply(single, rule.fit(single, axes.replace("C", "").replace("S", "")))
        np.testing.assert_allclose(np.take(values, channel, place), alone, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rule.undo(values, constants), stack, rtol=1e-5, atol=1e-5)


def test_an_image_without_contrast_becomes_zero_and_comes_back() -> None:
    image = np.full((8, 8), 7, np.uint16)
    rule = Normaliser()
    constants = rule.fit(image, "YX")
    assert np.all(rule.apply(image, constants) == 0)
    assert np.all(rule.undo(rule.apply(image, constants), constants) == 7)


def test_few_bright_spots_do_not_explode() -> None:
    image = np.zeros((100, 100), np.uint16)
    image[3, 4] = 500  # beyond the 99.8 percentile
    rule = Normaliser()
    assert rule.apply(image, rule.fit(image, "YX")).max() == 1


def test_clipping_is_on_request() -> None:
    rule = Normaliser(clip=True)
    values = rule.apply(IMAGE, rule.fit(IMAGE, "YX"))
    assert (values.min(), values.max()) == (0, 1)


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite"), (1e302, "beyond 1e\\+30")],
)
@pytest.mark.parametrize("rule", ["percentile", "z-score", "none"])
def test_one_pixel_that_is_no_number_is_refused(rule: Any, value: float, message: str) -> None:
    image = np.random.default_rng(0).uniform(0, 255, (80, 90))
    image[30, 30] = value  # percentiles do not meet it
    with pytest.raises(InvalidInputError, match=message):
        Normaliser(rule=rule).fit(image, "YX")


def test_very_large_images_are_looked_at_on_a_regular_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    image = RNG.gamma(2, 300, (700, 800)).astype(np.uint16)
    exact = Normaliser().fit(image, "YX")
    monkeypatch.setattr(module, "_MOST_PIXELS", 100_000)
    sampled = Normaliser().fit(image, "YX")
    assert sampled == Normaliser().fit(image, "YX")
    assert sampled != exact
    assert sampled.offset[0] == pytest.approx(exact.offset[0], rel=0.05)
    assert sampled.scale[0] == pytest.approx(exact.scale[0], rel=0.05)


@pytest.mark.parametrize(
    "wrong", [{"low": 50, "high": 50}, {"rule": "minmax"}, {"gamma": 1}, {"rule": "z-score", "clip": True}]
)
def test_impossible_rules_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Normaliser.model_validate(wrong)


def test_rule_and_constants_survive_the_model_record() -> None:
    rule = Normaliser(low=1)
    constants = rule.fit(RNG.random((3, 9, 9)), "CYX")
    assert Normaliser.model_validate_json(rule.model_dump_json()) == rule
    assert NormaliserConstants.model_validate_json(constants.model_dump_json()) == constants


def test_fixed_constants_are_those_of_every_image() -> None:
    fixed = Normaliser(rule="fixed", constants=NormaliserConstants(offset=(10.0,), scale=(4.0,)))
    again = Normaliser.model_validate(fixed.model_dump(mode="json"))
    for image in (np.full((3, 4), 30.0), np.arange(12.0).reshape(3, 4)):
        constants = again.fit(image, "YX")
        np.testing.assert_array_equal(again.apply(image, constants), ((image - 10) / 4).astype(np.float32))
        np.testing.assert_allclose(again.undo(again.apply(image, constants), constants), image)


@pytest.mark.parametrize("values", [{"rule": "fixed"}, {"constants": {"offset": (0,), "scale": (1,)}}])
def test_constants_belong_to_the_fixed_rule_alone(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="constants"):
        Normaliser.model_validate(values)


def test_all_frames_of_a_stack_have_one_scale() -> None:
    rng = np.random.default_rng(0)
    stack = rng.normal(100, 2, (20, 24, 24))
    stack[::2, 10:14, 10:14] += 500
    stack[:, 3, 3] = 5000  # a hot pixel
    normaliser = Normaliser(rule="stack")
    constants = normaliser.fit(stack, "TYX")
    read: list[int] = []

    def frame(number: int) -> NDArray[Any]:
        read.append(number)
        return np.asarray(stack[number])

    assert normaliser.fit_stack(len(stack), frame) == constants
    assert read == list(range(20))
    scaled = normaliser.apply(stack, constants)
    assert constants.offset[0] == pytest.approx(98, abs=1)
    # A ninth of the hot pixel is as bright as an emitter; a frame without emitters stays dark but for it.
    dark = np.delete(scaled[1::2].reshape(10, -1), 3 * 24 + 3, axis=1)
    assert np.abs(dark).max() < 0.05
    assert scaled[0, 10:14, 10:14].mean() > 0.8
    single = normaliser.fit(stack[1], "YX")
    assert single.offset[0] == pytest.approx(constants.offset[0], abs=1)
    with pytest.raises(InvalidInputError, match="Frame 1"):
        normaliser.fit(np.full((2, 8, 8), np.nan), "TYX")


def test_other_versions_read_what_a_model_says_of_it() -> None:
    # Before there were constants a field of that name was refused, even without a value.
    assert set(Normaliser().record()) == {"rule", "low", "high", "clip", "per"}
    fixed = Normaliser(rule="fixed", constants=NormaliserConstants(offset=(1.0,), scale=(2.0,)))
    assert Normaliser.of_record(fixed.record()) == fixed
    assert Normaliser.of_record({"rule": "z-score", "of_a_newer_version": None}) == Normaliser(rule="z-score")
    with pytest.raises(PreconditionError, match="of_a_newer_version"):
        Normaliser.of_record({"rule": "z-score", "of_a_newer_version": 2.0})
