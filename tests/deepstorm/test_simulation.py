"""Simulated frames, what is estimated of real ones, and drift."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from parfocal.deepstorm.drift import drift_of_frames, measure_drift
from parfocal.deepstorm.estimating import estimate_scene
from parfocal.deepstorm.simulating import Scene, SimulatedBatches, scale_of

SCENE = Scene(
    psf_sigma=1.1,
    psf_sigma_spread=0.05,
    photons=2250,
    photons_spread=0.1,
    density=0.06,
    density_spread=0.0,
    gain=2.0,
    read_noise=9.0,
    offset=100.0,
)


def stack_of(scene: Scene, frames: int = 40, side: int = 64) -> np.ndarray:
    rng = np.random.default_rng(5)
    return np.stack([scene.frame(rng, (side, side))[0] for _ in range(frames)])


def test_light_falls_where_the_emitter_is() -> None:
    single = replace(SCENE, density=0.0004, read_noise=0.0, photons=1e5, offset=0.0)
    rng = np.random.default_rng(3)
    seen = 0
    for _ in range(40):
        pixels, located = single.frame(rng, (40, 50))
        if len(located.y) == 1 and 6 < located.y[0] < 34 and 6 < located.x[0] < 44:
            y, x = ndimage.center_of_mass(pixels.astype(float))
            # Pixel i reaches from i to i + 1, so that its centre is at i + 0.5.
            if pixels.sum() < 1.5 * 2 * located.intensity[0]:
                assert (y + 0.5, x + 0.5) == pytest.approx((located.y[0], located.x[0]), abs=0.02)
                assert pixels.sum() == pytest.approx(2 * located.intensity[0], rel=0.03)
                seen += 1
    assert seen > 2


@pytest.mark.parametrize("density", [0.005, 0.06])
def test_what_spots_and_camera_are_is_found_however_crowded_frames_are(density: float) -> None:
    found = estimate_scene(stack_of(replace(SCENE, density=density)), photons_spread=0.1)
    assert found.psf_sigma == pytest.approx(1.1, rel=0.05)
    assert found.photons == pytest.approx(2250, rel=0.15)
    assert found.density == pytest.approx(density, rel=0.15)
    assert found.gain == pytest.approx(2, rel=0.15)
    assert found.offset == pytest.approx(100, abs=15)
    assert found.read_noise == pytest.approx(9, rel=0.25)


def test_noise_alone_says_nothing_of_spots() -> None:
    noise = np.random.default_rng(0).normal(100, 5, (20, 48, 48)).astype(np.float32)
    found = estimate_scene(noise)
    assert (found.psf_sigma, found.photons, found.density) == (None, None, None)
    assert found.read_noise == pytest.approx(5, rel=0.1)


def test_batches_follow_from_seed_epoch_and_step_alone() -> None:
    batches = SimulatedBatches("source", SCENE, scale_of(SCENE, (32, 32), 7), 16, 4, 3, 2, 7)
    first = batches.batch(1, 2)
    batches.batch(0, 0)
    again = batches.batch(1, 2)
    np.testing.assert_array_equal(first.input, again.input)
    assert first.input.shape == (4, 16, 16, 1)
    for mine, theirs in zip(first.targets, again.targets, strict=True):
        np.testing.assert_array_equal(mine.y, theirs.y)
    assert not np.array_equal(first.input, batches.batch(2, 2).input)
    assert not np.array_equal(batches.batch(0, 0).input, batches.validation_batch(0).input)
    # The scale is that of a stack: dark is 0 and bright places reach 1.
    assert -0.3 < first.input.min() < 0.3
    assert 0.5 < first.input.max() < 2


def test_drift_is_measured_between_parts() -> None:
    rng = np.random.default_rng(1)
    places = rng.uniform(20, 100, (60, 2))
    true = np.array([[0, 0], [1.5, -0.5], [3, -1], [4.5, -1.5]])
    parts = []
    for shift in true:
        image = np.zeros((128, 128))
        y, x = (np.repeat(places, 20, axis=0) + shift + rng.normal(0, 0.5, (1200, 2))).T.astype(int)
        np.add.at(image, (y, x), 1)
        parts.append(ndimage.gaussian_filter(image, 1))
    found = measure_drift(parts)
    np.testing.assert_allclose(found, true, atol=0.15)
    frames = drift_of_frames(found, [10] * 4)
    np.testing.assert_allclose(frames[[0, 39]], [[0, 0], [0.15 * 39, -0.05 * 39]], atol=0.3)
    empty = measure_drift([parts[0], np.zeros((128, 128)), parts[2]])
    np.testing.assert_allclose(empty, [[0, 0], [1.5, -0.5], [3, -1]], atol=0.15)
