"""How far sets of images are apart, and whether two kinds of image show as much as each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from support import filament_pair

from parfocal.runtime.images.distribution import level_distances, sliced_wasserstein
from parfocal.runtime.images.domains import structured_share, unlike_domains
from parfocal.runtime.images.files import PixelSize


def filaments(seed: int, count: int = 6) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [filament_pair(rng, (96, 96))[1].astype(np.float64)[..., np.newaxis] for _ in range(count)]


def blurred(images: list[Any], sigma: float) -> list[Any]:
    return [ndimage.gaussian_filter(image, (sigma, sigma, 0)) for image in images]


def test_images_of_one_kind_are_closer_than_changed_ones_and_these_than_others() -> None:
    real, more = filaments(1), filaments(2)
    noise = [np.random.default_rng(number).normal(size=(96, 96, 1)) for number in range(6)]
    same = sliced_wasserstein(real, more, patches=256)
    changed = sliced_wasserstein(real, blurred(more, 1.5), patches=256)
    other = sliced_wasserstein(real, noise, patches=256)
    assert 0 < same < changed < other
    assert sliced_wasserstein(real, real, patches=256) < same


def test_brightness_and_contrast_of_a_set_do_not_matter() -> None:
    real, more = filaments(1), filaments(2)
    scaled = [3.5 * image - 40 for image in more]
    assert sliced_wasserstein(real, scaled) == pytest.approx(sliced_wasserstein(real, more), rel=1e-6)


def test_the_same_seed_gives_the_same_distance() -> None:
    real, more = filaments(1, 2), filaments(2, 3)
    assert sliced_wasserstein(real, more, seed=3) == sliced_wasserstein(real, more, seed=3)
    assert sliced_wasserstein(real, more, seed=3) != sliced_wasserstein(real, more, seed=4)


def test_each_halving_of_the_image_is_a_band_down_to_sixteen_pixels() -> None:
    rng = np.random.default_rng(0)
    images = [rng.normal(size=shape) for shape in ((70, 64, 2), (90, 80, 2))]
    assert len(level_distances(images[:1], images[1:])) == 3
    # What is lost in one band is there in no other: blurring changes the finest most.
    same, soft = (level_distances(filaments(1), blurred(filaments(1), sigma)) for sigma in (0, 1))
    changes = np.subtract(soft, same)
    assert np.argmax(changes) == 0


def test_distances_of_one_projection_are_differences_of_sorted_values() -> None:
    """With patches that differ by a number alone, every direction sees the same order."""
    levels = np.array([0.0, 1, 2, 5])
    first = [np.full((16, 16, 1), value) for value in levels]
    second = [np.full((16, 16, 1), value) for value in 3 * levels + 7]
    assert sliced_wasserstein(first, second, patches=4) == pytest.approx(0, abs=1e-6)
    assert sliced_wasserstein(first, [np.full((16, 16, 1), v) for v in levels**2], patches=4) > 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([], [np.zeros((16, 16, 1))]),
        ([np.zeros((15, 16, 1))], [np.zeros((16, 16, 1))]),
        ([np.zeros((16, 16, 1))], [np.zeros((16, 16, 3))]),
        ([np.zeros((16, 16))], [np.zeros((16, 16))]),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(first: Any, second: Any) -> None:
    with pytest.raises(ValueError, match=r"images?"):
        sliced_wasserstein(first, second)


def discs(count: int, rng: Any, noise: float = 5.0) -> Any:
    """Return an image with so many discs on a 4 x 4 grid."""
    y, x = np.mgrid[:160, :160]
    image = rng.normal(100, noise, (160, 160))
    for place in rng.permutation(16)[:count]:
        row, column = divmod(int(place), 4)
        inside = np.hypot(y - 40 * row - 20, x - 40 * column - 20) < 12
        image[inside] += rng.normal(200, 60, int(inside.sum()))
    return image


def test_the_share_of_structure_does_not_depend_on_contrast() -> None:
    rng = np.random.default_rng(0)
    image = discs(8, rng)
    share = structured_share(image)
    assert 0.2 < share < 0.6
    assert structured_share(-30 * image + 1e4) == pytest.approx(share, abs=0.02)
    assert structured_share(discs(16, rng)) > 1.6 * share
    assert structured_share(rng.normal(100, 5, (160, 160))) < 0.01
    assert structured_share(np.full((50, 50), 7)) == 0
    assert structured_share(np.repeat(image[..., np.newaxis], 3, axis=-1)) == share


def test_only_kinds_of_image_that_differ_clearly_are_warned_of() -> None:
    rng = np.random.default_rng(0)
    few, many = [discs(3, rng) for _ in range(4)], [discs(14, rng) for _ in range(5)]
    inverted = [255 - 0.3 * image for image in many]
    assert unlike_domains(many, inverted) == []
    (warning,) = unlike_domains(few, inverted)
    assert "%" in warning
    assert unlike_domains([*few, discs(16, rng)], inverted) == []  # some images of one kind are like the other
    (warning,) = unlike_domains(many, inverted, pixel_sizes=(PixelSize(0.1, 0.1), PixelSize(0.2, 0.2)))
    assert "0.2 µm" in warning
    assert unlike_domains(many, inverted, pixel_sizes=(PixelSize(0.1, 0.1), None)) == []
