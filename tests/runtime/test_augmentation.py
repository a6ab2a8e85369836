"""Augmentation: exact changes of view, the same for source and target."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from parfocal.runtime.training.augmentation import Augmentation, Change, View, Warp, moved_box, warp_array

SQUARE = np.arange(16).reshape(4, 4)
OBLONG = np.arange(20).reshape(4, 5)


def view(augmentation: Augmentation, draw: int, shape: tuple[int, ...], seed: int = 0) -> View:
    return augmentation.view(draw, (shape[0], shape[1]), np.random.default_rng(seed))


def views(augmentation: Augmentation, array: np.ndarray, axes: str = "YX") -> set[bytes]:
    turned = (view(augmentation, draw, array.shape[-2:]).turn(array, axes) for draw in range(8))
    return {view.tobytes() + str(view.shape).encode() for view in turned}


def expected(*arrays: np.ndarray) -> set[bytes]:
    return {array.tobytes() + str(array.shape).encode() for array in arrays}


def test_flips_and_turns_are_the_eight_symmetries_of_a_square() -> None:
    symmetries = [np.rot90(flipped, turns) for flipped in (SQUARE, SQUARE[::-1]) for turns in range(4)]
    assert views(Augmentation(), SQUARE) == expected(*symmetries)


def test_turns_alone_never_mirror() -> None:
    assert views(Augmentation(flip=False), SQUARE) == expected(*(np.rot90(SQUARE, turns) for turns in range(4)))


def test_flips_alone_never_turn() -> None:
    mirrored = expected(SQUARE, SQUARE[::-1], SQUARE[:, ::-1], SQUARE[::-1, ::-1])
    assert views(Augmentation(rotate90=False), SQUARE) == mirrored


def test_nothing_is_done_without_either() -> None:
    assert views(Augmentation(flip=False, rotate90=False), SQUARE) == expected(SQUARE)


def test_oblong_patches_are_not_turned() -> None:
    mirrored = expected(OBLONG, OBLONG[::-1], OBLONG[:, ::-1], OBLONG[::-1, ::-1])
    assert views(Augmentation(), OBLONG) == mirrored
    assert views(Augmentation(flip=False), OBLONG) == expected(OBLONG)


def test_source_and_targets_are_changed_alike_whatever_their_axes() -> None:
    source = np.stack([SQUARE, SQUARE + 100, SQUARE + 200], -1)
    volume = np.stack([SQUARE, SQUARE + 100])
    for draw in range(8):
        change = view(Augmentation(), draw, SQUARE.shape)
        turned, target, deep = (
            change.turn(array, axes) for array, axes in ((source, "YXS"), (SQUARE, "YX"), (volume, "ZYX"))
        )
        np.testing.assert_array_equal(turned[..., 0], target)
        np.testing.assert_array_equal(deep[0], target)
        assert np.all(deep[1] - deep[0] == 100)  # planes keep their order
        np.testing.assert_array_equal(turned[..., 2] - turned[..., 0], 200)


def test_volumes_are_turned_over_only_where_that_is_asked_for() -> None:
    volume = np.stack([SQUARE, SQUARE + 100])
    flips = Augmentation(flip=False, rotate90=False, flip_z=True)
    first = {int(view(flips, 0, SQUARE.shape, seed).turn(volume, "ZYX")[0, 0, 0]) for seed in range(20)}
    assert first == {0, 100}


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValidationError):
        Augmentation.model_validate({"skew": 1})


WARPS = Augmentation(
    flip=True,
    rotate90=True,
    angle=Change(strength=180),
    zoom=Change(strength=0.5),
    shear=Change(strength=20),
    shift=Change(strength=0.2),
    elastic=Change(strength=4),
)
PATCH, EDGE = (48, 48), 128
WINDOW = (slice(40, 88), slice(30, 78))
REGION = ((0, EDGE), (0, EDGE))


def spots(places: np.ndarray) -> np.ndarray:
    """An image of Gaussian spots at (y, x), counted from the corner of the first pixel."""
    y, x = np.mgrid[:EDGE, :EDGE] + 0.5
    return sum(np.exp(-((y - a) ** 2 + (x - b) ** 2) / 4.5) for a, b in places).astype(np.float32)


def shown(array: np.ndarray, change: View, *, nearest: bool, fill: float | None = None) -> np.ndarray:
    assert change.warp is not None
    return change.turn(warp_array(array, "YX", WINDOW, REGION, change.warp, nearest=nearest, fill=fill), "YX")


@pytest.mark.parametrize("seed", range(12))
def test_points_and_labels_go_where_the_image_goes(seed: int) -> None:
    change = view(WARPS, seed % 8, PATCH, seed)
    place = np.array([[62.3, 55.8]])
    y, x = np.mgrid[:EDGE, :EDGE] + 0.5
    labels = np.where((y - place[0, 0]) ** 2 + (x - place[0, 1]) ** 2 < 25, 70_001, 0).astype(np.uint32)
    image, objects = shown(spots(place), change, nearest=False), shown(labels, change, nearest=True)
    moved = change.move(place - [WINDOW[0].start, WINDOW[1].start], PATCH)[0]
    if not np.all((moved > 8) & (moved < 40)):
        pytest.skip("the spot left the middle of the patch")
    peak = np.array(np.unravel_index(image.argmax(), image.shape)) + 0.5
    assert np.abs(peak - moved).max() < 1
    assert objects.dtype == np.uint32
    assert set(np.unique(objects)) == {0, 70_001}
    assert np.abs(np.argwhere(objects).mean(axis=0) + 0.5 - moved).max() < 1.5


def test_a_warp_that_changes_nothing_changes_nothing() -> None:
    image = np.random.default_rng(1).integers(0, 60_000, (EDGE, EDGE)).astype(np.uint16)
    still = Warp(PATCH, np.eye(2), np.zeros(2))
    same = warp_array(image, "YX", WINDOW, REGION, still, nearest=False)
    np.testing.assert_array_equal(same, image[WINDOW])
    assert same.dtype == np.float32
    points = np.array([[3.0, 4.5], [20, 30]])
    np.testing.assert_allclose(still.move(points), points)


def test_no_pixel_beyond_the_region_is_shown() -> None:
    """What lies beyond validates, or is not annotated."""
    image = np.ones((EDGE, EDGE), np.float32)
    image[:, 80:] = 1000
    region = ((0, EDGE), (0, 80))
    for seed in range(20):
        warp = view(WARPS, 0, PATCH, seed).warp
        assert warp is not None
        window = (slice(0, 48), slice(32, 80))
        assert warp_array(image, "YX", window, region, warp, nearest=False).max() == 1
        filled = warp_array(image, "YX", window, region, warp, nearest=False, fill=-5)
        assert set(np.unique(filled)) <= {-5, 1}
    assert -5 in filled


def test_a_warped_patch_stays_inside_where_there_is_room() -> None:
    image = np.ones((EDGE, EDGE), np.float32)
    for seed in range(20):
        warp = view(WARPS, 0, (24, 24), seed).warp
        assert warp is not None
        kept = warp.kept_inside((100, 0), REGION)
        window = (slice(100, 124), slice(0, 24))
        assert -5 not in warp_array(image, "YX", window, REGION, kept, nearest=False, fill=-5)
        np.testing.assert_array_equal(kept.matrix, warp.matrix)


def test_planes_and_colours_are_warped_alike() -> None:
    plane = np.random.default_rng(2).random((EDGE, EDGE)).astype(np.float32)
    warp = view(WARPS, 0, PATCH, 3).warp
    assert warp is not None
    flat = warp_array(plane, "YX", WINDOW, REGION, warp, nearest=False)
    deep = warp_array(np.stack([plane, plane * 2]), "ZYX", (slice(0, 2), *WINDOW), REGION, warp, nearest=False)
    colours = warp_array(np.stack([plane] * 3, -1), "YXS", (*WINDOW, slice(None)), REGION, warp, nearest=False)
    np.testing.assert_array_equal(deep[0], flat)
    np.testing.assert_allclose(deep[1], 2 * flat, rtol=1e-6)
    np.testing.assert_array_equal(colours[..., 2], flat)


def test_a_turned_box_still_holds_its_object() -> None:
    y, x = np.mgrid[:EDGE, :EDGE] + 0.5
    middle, half = (64.0, 54.0), (6.0, 11.0)
    disc = (((y - middle[0]) / half[0]) ** 2 + ((x - middle[1]) / half[1]) ** 2 <= 1).astype(np.uint8)
    box = np.array([[middle[0] - 6, middle[1] - 11, middle[0] + 6, middle[1] + 11]]) - [40, 30, 40, 30]
    for seed in range(12):
        change = view(Augmentation(angle=Change(strength=180), zoom=Change(strength=0.3)), seed % 8, PATCH, seed)
        seen = np.argwhere(shown(disc, change, nearest=True))
        found = moved_box(box, change, PATCH)[0]
        assert np.abs(found[:2] - seen.min(axis=0)).max() < 1.2
        assert np.abs(found[2:] - (seen.max(axis=0) + 1)).max() < 1.2


def test_each_change_is_given_as_often_as_asked_for() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([Change(strength=3, probability=0.25).drawn(rng) for _ in range(4000)])
    assert np.mean(drawn != 0) == pytest.approx(0.25, abs=0.02)
    assert 2.9 < np.abs(drawn).max() <= 3
    assert not np.any([Change(strength=3, probability=0).drawn(rng) for _ in range(50)])


def test_intensities_vary_from_patch_to_patch_within_the_stated_range() -> None:
    batch = np.zeros((200, 6, 6), np.float32)
    batch[:, 3:] = 1
    changes = Augmentation(scale=Change(strength=1), offset=Change(strength=0.2), noise=Change(strength=0.02))
    varied = changes.vary_intensity(np.random.default_rng(0), batch, "YX")
    offsets, gains = varied[:, :3].mean(axis=(1, 2)), np.ptp(varied.mean(axis=2), axis=1)
    assert varied.dtype == np.float32
    assert offsets.min() < -0.15
    assert offsets.max() > 0.15
    assert gains.min() == pytest.approx(0.5, abs=0.05)
    assert gains.max() == pytest.approx(2, abs=0.05)
    same = Augmentation().vary_intensity(np.random.default_rng(0), batch, "YX")
    np.testing.assert_array_equal(same, batch)


def test_gamma_keeps_black_white_and_what_is_darker_than_black() -> None:
    batch = np.full((50, 2, 2), 0.5, np.float32)
    batch[:, 0] = [0, 1]
    batch[:, 1, 1] = -0.3
    varied = Augmentation(gamma=Change(strength=1)).vary_intensity(np.random.default_rng(0), batch, "YX")
    np.testing.assert_array_equal(varied[:, 0], batch[:, 0])
    np.testing.assert_array_equal(varied[:, 1, 1], batch[:, 1, 1])
    assert varied[:, 1, 0].min() == pytest.approx(0.25, abs=0.05)
    assert varied[:, 1, 0].max() == pytest.approx(0.5**0.5, abs=0.05)


def test_blur_keeps_planes_and_colours_apart() -> None:
    batch = np.zeros((4, 3, 9, 9), np.float32)
    batch[:, 1, 4, 4] = 1
    varied = Augmentation(blur=Change(strength=1)).vary_intensity(np.random.default_rng(0), batch, "ZYX")
    assert not varied[:, [0, 2]].any()
    assert varied[:, 1].max(axis=(1, 2)).min() < 0.3
    np.testing.assert_allclose(varied.sum(axis=(1, 2, 3)), 1, atol=1e-3)
