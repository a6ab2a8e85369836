"""The simulated microscope: repeatable, and noisy in the way it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from parfocal.demo.simulate import blur, simulate_pair, write_dataset
from parfocal.runtime.datasets.pairs import check_pairs
from parfocal.runtime.images.files import PixelSize, read_image


def test_equal_seeds_give_equal_images_and_others_do_not() -> None:
    first, again, other = (simulate_pair((64, 80), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])
    assert (first[0].dtype.name, first[1].dtype.name) == ("uint16", "float32")
    assert first[0].shape == first[1].shape == (64, 80)


def test_noise_has_the_variance_of_photons_and_camera() -> None:
    pairs = [simulate_pair((128, 128), seed, photons=30, read_noise=2, gain=5) for seed in range(12)]
    noisy = np.concatenate([pair[0].ravel() for pair in pairs]).astype(float)
    clean = np.concatenate([pair[1].ravel() for pair in pairs]).astype(float)
    residual = noisy - clean
    assert residual.mean() == pytest.approx(0, abs=0.2)
    electrons = (clean - 100) / 5
    for low, high in ((1, 3), (5, 10), (15, 30)):
        chosen = (electrons >= low) & (electrons < high)
        expected = 25 * (electrons[chosen].mean() + 2**2) + 1 / 12  # and rounding
        assert residual[chosen].var() == pytest.approx(expected, rel=0.1)


def test_images_differ_in_brightness_and_in_how_much_they_show() -> None:
    cleans = [simulate_pair((128, 128), seed)[1] for seed in range(12)]
    bright = [np.percentile(clean, 99.5) - clean.min() for clean in cleans]
    filled = [float(np.mean(clean > clean.min() + 10)) for clean in cleans]
    assert max(bright) > 1.3 * min(bright)
    assert max(filled) > 1.5 * min(filled)


def test_a_gaussian_filter_leaves_room_for_a_better_method() -> None:
    def error(values: np.ndarray, clean: np.ndarray) -> float:
        slope, offset = np.polyfit(values.ravel(), clean.ravel(), 1)
        return float(np.mean((slope * values + offset - clean) ** 2))

    noisy, clean = simulate_pair((128, 128), 5)
    best = min(error(blur(noisy - 100.0, sigma), clean) for sigma in (0.7, 1, 1.4, 2, 3))
    assert best < 0.6 * error(noisy.astype(float), clean)
    assert best > 0.1 * clean.var()  # far from perfect


def test_blur_keeps_the_light_and_has_the_width_asked_for() -> None:
    point = np.zeros((65, 71))
    point[32, 35] = 1
    spread = blur(point, 2.5)
    assert spread.sum() == pytest.approx(1, abs=1e-9)
    rows = np.arange(65) - 32
    assert np.sqrt((spread.sum(1) * rows**2).sum()) == pytest.approx(2.5, rel=0.01)
    np.testing.assert_allclose(spread[32, 30:41], spread[32, 40:29:-1], atol=1e-12)


def test_a_dataset_is_fit_for_training(tmp_path: Path) -> None:
    write_dataset(tmp_path, 3, 2, 64, seed=0)
    train = check_pairs(tmp_path / "train" / "source", tmp_path / "train" / "target", axes="YX", min_images=3)
    test = check_pairs(tmp_path / "test" / "source", tmp_path / "test" / "target", axes="YX", min_images=2)
    assert [pair.stem for pair in (*train.pairs, *test.pairs)] == [f"field_{number:03d}" for number in range(1, 6)]
    assert train.pairs[0].pixel_size == PixelSize(0.1, 0.1)
    assert train.warnings == test.warnings == ()
    images = {read_image(pair.source).pixels.tobytes() for pair in (*train.pairs, *test.pairs)}
    assert len(images) == 5
