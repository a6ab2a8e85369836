"""Blind spots, against the manipulators of n2v itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from parfocal.n2v.masking import (
    Masking,
    Spots,
    draw_spots,
    hidden_pixels,
    hide_around,
    median_around,
    struct_mask,
    uniform_around,
)


def spots_at(*places: tuple[int, ...]) -> Spots:
    return Spots(np.zeros(len(places), np.intp), np.array(places, np.intp))


@pytest.mark.parametrize(
    ("shape", "percent"),
    [((64, 64), 0.198), ((64, 64), 1.5), ((16, 32, 32), 0.198), ((32, 64, 64), 0.198), ((4, 64, 64), 0.198)],
)
def test_as_many_pixels_are_masked_as_is_said_also_in_volumes(shape: tuple[int, ...], percent: float) -> None:
    patches = 400
    spots = draw_spots(np.random.default_rng(0), patches, shape, percent)
    stated = np.prod(shape) * percent / 100
    assert len(spots.patch) / patches == pytest.approx(stated, rel=0.05)
    assert (spots.place >= 0).all()
    assert (spots.place < shape).all()
    assert len(set(zip(*spots.index, strict=True))) >= 0.999 * len(spots.patch)
    # Everywhere alike.
    for axis, length in enumerate(shape):
        counts = np.bincount(spots.place[:, axis] * 4 // length, minlength=4)
        assert counts == pytest.approx(np.full(4, len(spots.patch) / 4), rel=0.2)


def test_a_patch_has_at_least_one_blind_spot() -> None:
    spots = draw_spots(np.random.default_rng(0), 300, (8, 8), 0.2)
    assert set(spots.patch) == set(range(300))


def test_n2v_masks_fewer_pixels_of_volumes_than_it_says() -> None:
    """Why the number is not taken from n2v: it takes the square root of a volume."""
    from n2v.internals.N2V_DataWrapper import N2V_DataWrapper

    shape = (16, 32, 32)
    side = np.round(np.sqrt(100 / 0.198)).astype(np.int32)
    draw: Any = N2V_DataWrapper.__dict__["__get_stratified_coords3D__"].__func__
    numbers: Any = N2V_DataWrapper.__dict__["__rand_float_coords3D__"].__func__
    np.random.seed(0)
    found = [len(draw(numbers(side), side, shape)[0]) for _ in range(300)]
    assert np.mean(found) < 0.06 * np.prod(shape) * 0.198 / 100


@pytest.mark.parametrize("shape", [(20, 24), (7, 12, 14)])
def test_the_median_is_that_of_n2v_also_at_corners(shape: tuple[int, ...]) -> None:
    from n2v.utils.n2v_utils import pm_median

    rng = np.random.default_rng(0)
    patch = rng.random(shape, dtype=np.float32)
    corners = [(0,) * len(shape), tuple(length - 1 for length in shape)]
    places = np.array([*corners, *rng.integers(shape, size=(30, len(shape)))])
    theirs = pm_median(2)(patch, tuple(places.T), len(shape))
    ours = median_around(patch[np.newaxis], spots_at(*map(tuple, places)), 2)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_uniform_values_come_from_where_n2v_takes_them_with_the_same_chances() -> None:
    from n2v.utils.n2v_utils import pm_uniform_withCP

    patch = np.arange(24 * 24, dtype=np.float32).reshape(24, 24)
    repeats = 20_000
    np.random.seed(0)
    for place in ((12, 11), (0, 1), (23, 20)):
        places = np.tile(place, (repeats, 1))
        ours = uniform_around(np.random.default_rng(0), patch[np.newaxis], spots_at(*map(tuple, places)), 3)
        theirs = pm_uniform_withCP(3)(patch, tuple(places.T), 2)
        (mine, counts), (others, other_counts) = (np.unique(each, return_counts=True) for each in (ours, theirs))
        np.testing.assert_array_equal(mine, others)
        assert patch[place] in mine
        # Both are uniform: no pixel is off by more than five standard deviations.
        for each in (counts, other_counts):
            assert np.abs(each - repeats / len(mine)).max() < 5 * np.sqrt(repeats / len(mine))


def test_structn2v_hides_the_pixels_that_n2v_hides() -> None:
    from n2v.internals.N2V_DataWrapper import N2V_DataWrapper

    places = ((5, 6), (0, 20), (15, 23))
    for direction, length in (("x", 9), ("y", 5), ("xy", 3)):
        mask = struct_mask("YX", direction, length)
        theirs, ours = (np.full((1, 16, 24), 7, np.float32) for _ in range(2))
        N2V_DataWrapper.apply_structN2Vmask(None, theirs[0], tuple(np.array(places).T), 2, mask.copy())
        hide_around(np.random.default_rng(0), ours, spots_at(*places), hidden_pixels(mask))
        np.testing.assert_array_equal(ours != 7, theirs != 7)
        assert np.abs(ours[ours != 7]).max() <= 2


def test_masking_changes_blind_spots_and_what_is_hidden_and_nothing_else() -> None:
    patches = np.random.default_rng(0).normal(size=(3, 32, 32)).astype(np.float32)
    plain = Masking(1.0, "median", 2, hidden_pixels(struct_mask("YX", "x", 1)))
    masked, mask = plain.apply(np.random.default_rng(1), patches)
    np.testing.assert_array_equal(masked != patches, mask == 1)
    struct = Masking(1.0, "uniform", 2, hidden_pixels(struct_mask("YX", "x", 5)))
    masked, mask = struct.apply(np.random.default_rng(1), patches)
    around = np.zeros_like(mask, bool)
    for patch, y, x in np.argwhere(mask):
        around[patch, y, max(0, x - 2) : x + 3] = True
    assert not (masked != patches)[~around].any()
    assert (masked != patches)[around].mean() > 0.9
    again, _ = struct.apply(np.random.default_rng(1), patches)
    np.testing.assert_array_equal(again, masked)
