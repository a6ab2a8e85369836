"""Augmentation: exact changes of view, the same for source and target."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from parfocal.runtime.training.augmentation import Augmentation

SQUARE = np.arange(16).reshape(4, 4)
OBLONG = np.arange(20).reshape(4, 5)


def views(augmentation: Augmentation, array: np.ndarray, axes: str = "YX") -> set[bytes]:
    turned = (augmentation.turn(draw, [array], [axes])[0] for draw in range(8))
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


def test_each_view_is_equally_likely() -> None:
    counts: dict[bytes, int] = {}
    rng = np.random.default_rng(0)
    for _ in range(4000):
        (view,) = Augmentation().apply(rng, [SQUARE], ["YX"])
        counts[view.tobytes()] = counts.get(view.tobytes(), 0) + 1
    assert len(counts) == 8
    assert min(counts.values()) > 400


def test_source_and_targets_are_changed_alike_whatever_their_axes() -> None:
    source = np.stack([SQUARE, SQUARE + 100, SQUARE + 200], -1)
    volume = np.stack([SQUARE, SQUARE + 100])
    for draw in range(8):
        turned, target, deep = Augmentation().turn(draw, [source, SQUARE, volume], ["YXS", "YX", "ZYX"])
        np.testing.assert_array_equal(turned[..., 0], target)
        np.testing.assert_array_equal(deep[0], target)
        assert np.all(deep[1] - deep[0] == 100)  # planes keep their order
        np.testing.assert_array_equal(turned[..., 2] - turned[..., 0], 200)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValidationError):
        Augmentation.model_validate({"shear": 1})


def test_intensities_vary_from_patch_to_patch_within_the_stated_range() -> None:
    batch = np.zeros((200, 6, 6), np.float32)
    batch[:, 3:] = 1
    varied = Augmentation(intensity=True).vary_intensity(np.random.default_rng(0), batch)
    offsets, gains = varied[:, :3].mean(axis=(1, 2)), np.ptp(varied.mean(axis=2), axis=1)
    assert varied.dtype == np.float32
    assert offsets.min() < -0.15
    assert offsets.max() > 0.15
    assert gains.min() == pytest.approx(0.6, abs=0.05)
    assert gains.max() == pytest.approx(2, abs=0.05)
    same = Augmentation().vary_intensity(np.random.default_rng(0), batch)
    np.testing.assert_array_equal(same, batch)
