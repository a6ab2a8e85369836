"""Split: nothing that trains is ever close to what validates, and the record says how it was done."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parfocal.runtime.errors import InvalidInputError, InvalidParameterError
from parfocal.runtime.training.split import Region, Split, split_images, split_stacks


def split(count: int, shape: tuple[int, ...] = (256, 256), **options: object) -> Split:
    settings = {"validation_fraction": 0.1, "patch_shape": (64, 64), "seed": 3} | options
    return split_images([f"cell{i}" for i in range(count)], [shape] * count, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("count", "expected"), [(5, 1), (10, 1), (15, 2), (20, 2), (36, 4)])
def test_images_are_held_out_whole(count: int, expected: int) -> None:
    result = split(count)
    assert result.by == "image"
    assert len(result.validation) == expected
    assert {region.stem for region in (*result.training, *result.validation)} == {f"cell{i}" for i in range(count)}
    assert not {region.stem for region in result.training} & {region.stem for region in result.validation}
    assert all(region.shape == (256, 256) for region in (*result.training, *result.validation))


def test_a_single_validation_image_is_warned_of() -> None:
    assert "single image" in split(5).warnings[0]
    assert split(20).warnings == ()


@given(order=st.permutations(range(12)))
def test_the_choice_does_not_depend_on_the_listing_order(order: list[int]) -> None:
    stems = [f"cell{i}" for i in range(12)]
    shapes = [(256, 200 + i) for i in range(12)]
    options = {"validation_fraction": 0.25, "patch_shape": (64, 64), "seed": 1}
    straight = split_images(stems, shapes, **options)  # type: ignore[arg-type]
    shuffled = split_images([stems[i] for i in order], [shapes[i] for i in order], **options)  # type: ignore[arg-type]
    assert [(r.stem, r.stop) for r in straight.validation] == [(r.stem, r.stop) for r in shuffled.validation]
    assert all(stems[order[region.index]] == region.stem for region in shuffled.validation)


def test_another_seed_chooses_other_images() -> None:
    assert len({split(20, seed=seed).validation for seed in range(10)}) > 5


@given(
    count=st.integers(1, 4),
    height=st.integers(64, 400),
    width=st.integers(192, 400),
    seed=st.integers(0, 99),
    fraction=st.floats(0.01, 0.2),
)
def test_a_block_is_one_patch_away_from_training(
    count: int, height: int, width: int, seed: int, fraction: float
) -> None:
    result = split(count, (height, width), seed=seed, validation_fraction=fraction)
    if result.by == "image":
        assert fraction * 2 * count >= 1
        return
    assert len(result.warnings) == 1
    for training, validation in zip(result.training, result.validation, strict=True):
        assert training.stem == validation.stem
        gaps = [
            max(v_start - t_stop, t_start - v_stop)
            for t_start, t_stop, v_start, v_stop in zip(
                training.start, training.stop, validation.start, validation.stop, strict=True
            )
        ]
        assert max(gaps) == 64
        assert sum(gap == 64 for gap in gaps) == 1
        for region in (training, validation):
            assert all(0 <= low < high for low, high in zip(region.start, region.stop, strict=True))
            assert all(high <= limit for high, limit in zip(region.stop, (height, width), strict=True))
            assert min(region.shape) >= 64


def test_a_block_of_a_volume_is_cut_in_the_plane_where_possible() -> None:
    options = {"patch_shape": (8, 64, 64)}
    flat = split(1, (96, 128, 192), **options)
    assert flat.validation[0].shape == (96, 128, 64)
    narrow = split(1, (96, 128, 128), **options)
    assert narrow.validation[0].shape == (10, 128, 128)


def test_images_too_small_for_a_block_only_train() -> None:
    result = split_images(
        ["small", "large"], [(64, 64), (64, 640)], validation_fraction=0.1, patch_shape=(64, 64), seed=0
    )
    assert [region.stem for region in result.validation] == ["large"]
    assert sorted(region.stem for region in result.training) == ["large", "small"]


def test_nothing_to_hold_out_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="three patches long"):
        split(2, (191, 191))


def test_images_smaller_than_a_patch_are_named() -> None:
    with pytest.raises(InvalidInputError, match=r"cell0: .*64 x 64"):
        split(1, (63, 300))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(InvalidParameterError, match="validation_fraction"):
        split(10, validation_fraction=fraction)


def test_a_split_survives_the_model_record() -> None:
    for count in (1, 10):
        result = split(count)
        assert Split.model_validate_json(result.model_dump_json()) == result


def test_a_region_knows_its_shape() -> None:
    assert Region(index=0, stem="a", start=(2, 3), stop=(10, 5)).shape == (8, 2)


def stacks(count: int, *, fraction: float = 0.2, frames: int = 10) -> Split:
    return split_stacks(
        [f"stack{number}" for number in range(count)],
        [(frames, 32, 40)] * count,
        validation_fraction=fraction,
        patch_shape=(26, 26),
        seed=0,
    )


def test_whole_stacks_are_held_out_where_there_are_enough() -> None:
    split = stacks(5)
    assert (split.by, len(split.training), len(split.validation)) == ("image", 4, 1)
    assert {region.start + region.stop for region in split.training} == {(0, 0, 0, 10, 32, 40)}


def test_of_few_stacks_the_last_frames_are_held_out() -> None:
    split = stacks(2)
    assert split.by == "frames"
    assert [(region.stem, region.start, region.stop) for region in split.training] == [
        ("stack0", (0, 0, 0), (8, 32, 40)),
        ("stack1", (0, 0, 0), (8, 32, 40)),
    ]
    assert [(region.start, region.stop) for region in split.validation] == [((8, 0, 0), (10, 32, 40))] * 2
    assert len(split.warnings) == 1
    # A single frame cannot be divided, and its field is too small for a block.
    with pytest.raises(InvalidInputError):
        stacks(1, frames=1)


def test_stacks_smaller_than_a_patch_are_refused() -> None:
    with pytest.raises(InvalidInputError):
        split_stacks(["a"], [(10, 20, 40)], validation_fraction=0.2, patch_shape=(26, 26), seed=0)
