"""Images unlike the training images are told, with what is different; those like them are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import filament_pair, mentions

from parfocal.runtime.images.drift import find_drift, find_small, image_statistics, training_statistics
from parfocal.runtime.images.files import PixelSize


def noisy(seed: int, sigma: float = 20.0, shape: tuple[int, int] = (128, 128)) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    return np.asarray(filament_pair(np.random.default_rng(seed), shape)[1] + rng.normal(0, sigma, shape))


TRAINING = training_statistics([noisy(seed) for seed in range(6)])


@pytest.mark.parametrize("sigma", [5.0, 40.0])
def test_the_noise_is_measured_beside_structure(sigma: float) -> None:
    values = image_statistics(noisy(1, sigma))
    assert values is not None
    low, top = np.percentile(noisy(1, 0), (2, 99.8))
    assert values.contrast_to_noise == pytest.approx((top - low) / sigma, rel=0.15)


def test_noise_without_structure_has_no_contrast() -> None:
    values = image_statistics(np.random.default_rng(0).normal(500, 30, (256, 256)))
    assert values is not None
    assert values.contrast_to_noise < 1.5


def test_levels_lie_between_dark_and_bright() -> None:
    ramp = np.tile(np.arange(1000.0), (20, 1))
    values = image_statistics(ramp)
    assert values is not None
    assert values.contrast_to_noise == 10_000
    assert values.median_level == pytest.approx((50 - 2) / 97.8, abs=1e-3)
    assert values.bright_level == pytest.approx((90 - 2) / 97.8, abs=1e-3)


def test_new_images_of_the_same_kind_are_no_drift_whatever_their_grey_values() -> None:
    for seed in range(20, 30):
        for image in (noisy(seed), noisy(seed) * 37 + 5000):
            assert find_drift(image, PixelSize(0.1, 0.1), TRAINING, (0.1, 0.1, None)) == []


@pytest.mark.parametrize(
    ("image", "size", "words"),
    [
        (noisy(30, 200), 0.1, "noisier"),
        (noisy(30, 2), 0.1, "less noisy"),
        (-noisy(30), 0.1, "spread"),
        (noisy(30), 0.3, "3 times smaller"),
        (noisy(30), 0.05, "2 times larger"),
    ],
)
def test_what_is_different_is_said(image: NDArray[Any], size: float, words: str) -> None:
    assert any(words in text for text in find_drift(image, PixelSize(size, size), TRAINING, (0.1, 0.1, None)))


def test_volumes_channels_and_colours_are_seen_by_their_middle() -> None:
    plane = noisy(3)
    expected = image_statistics(plane)
    empty = np.zeros_like(plane)
    assert image_statistics(np.stack([empty, plane, empty])) == expected
    assert image_statistics(np.stack([empty, plane, empty], axis=-1)) == expected


def test_without_contrast_or_record_nothing_is_said() -> None:
    assert image_statistics(np.full((30, 30), 7)) is None
    assert image_statistics(np.zeros((1, 1))) is None
    assert training_statistics([np.zeros((30, 30))]) is None
    assert find_drift(noisy(1, 500), None, None, None) == []
    assert find_drift(np.full((30, 30), 7), PixelSize(0.3, 0.3), TRAINING, None) == []


def test_two_training_images_tell_nothing_of_the_range_of_levels() -> None:
    few = training_statistics([noisy(0), noisy(1)])
    assert not any("spread" in text for text in find_drift(-noisy(30), None, few, None))


def test_an_image_smaller_than_a_patch_is_named_with_both_sizes() -> None:
    assert find_small((64, 200), (64, 64)) == []
    (said,) = find_small((8, 200, 200), (16, 64, 64))
    assert mentions(said, "8x200x200", "16x64x64")


@pytest.mark.parametrize(
    ("size", "axes", "words"),
    [
        (PixelSize(0.1, 0.1, 3.4), "ZYX", ["planes are 3.4 µm apart"]),
        (PixelSize(0.1, 0.1, 0.05), "ZYX", ["planes are 0.05 µm apart"]),
        (PixelSize(0.1, 0.1, 0.55), "ZYX", []),
        (PixelSize(0.1, 0.1, 3.4), "YX", []),
        (PixelSize(0.1, 0.1), "ZYX", []),
        (PixelSize(0.1, 0.3, 0.5), "ZYX", ["0.3 µm high"]),
        (PixelSize(0.3, 0.3, 0.5), "ZYX", ["0.3 µm wide"]),
        (PixelSize(0.3, 0.02, 2.0), "ZYX", ["0.3 µm wide", "0.02 µm high", "2 µm apart"]),
    ],
)
def test_the_distance_of_pixels_is_compared_along_every_axis_of_the_method(
    size: PixelSize, axes: str, words: list[str]
) -> None:
    found = find_drift(noisy(1), size, None, (0.1, 0.1, 0.5), axes)
    assert len(found) == len(words)
    assert all(word in text for word, text in zip(words, found, strict=True))
