"""What a training warns of before it begins."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture
from scipy import ndimage
from support import filament_pair, nuclei_pair

from parfocal.n2v.suitability import measure_suitability, warnings_of
from parfocal.runtime.images.compression import blockiness
from parfocal.runtime.images.noise import noise_correlation


def photons(seed: int, shape: tuple[int, ...] = (256, 256)) -> Any:
    """Return spots of light, counted."""
    rng = np.random.default_rng(seed)
    return rng.poisson(20 + 2000 * ndimage.gaussian_filter((rng.random(shape) > 0.999).astype(float), 2.0))


def compressed(pixels: Any, quality: int) -> Any:
    buffer = io.BytesIO()
    Picture.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Picture.open(buffer))


@pytest.mark.parametrize("pair", [filament_pair, nuclei_pair])
def test_raw_images_raise_no_warning(pair: Any) -> None:
    rng = np.random.default_rng(0)
    images = [pair(rng, (128, 128))[0] for _ in range(4)]
    found = measure_suitability(images, "YX")
    assert found.mask == ("", 1)
    assert found.blockiness < 1.1
    assert warnings_of(found, "n2v") == []


@pytest.mark.parametrize(
    ("change", "mask"),
    [
        (lambda noise: ndimage.uniform_filter1d(noise, 3, axis=1), ("x", 5)),
        (lambda noise: ndimage.uniform_filter1d(noise, 4, axis=0), ("y", 7)),
        (lambda noise: ndimage.zoom(noise, 1.5, order=1), ("xy", 3)),
    ],
)
def test_correlated_noise_is_measured_and_a_mask_proposed(change: Any, mask: tuple[str, int]) -> None:
    rng = np.random.default_rng(0)
    images = [change(rng.normal(size=(200, 200))).astype(np.float32) for _ in range(3)]
    found = measure_suitability(images, "YX")
    assert found.mask == mask
    (warning,) = warnings_of(found, "n2v")
    assert "structn2v" in warning
    assert warnings_of(found, "structn2v") == []


def test_the_correlation_is_that_of_the_noise_in_spite_of_structures() -> None:
    rng = np.random.default_rng(0)
    noise = ndimage.uniform_filter1d(rng.normal(size=(256, 256)), 3, axis=1)
    found = noise_correlation(200 * ndimage.gaussian_filter(rng.normal(size=(256, 256)), 3) + noise, -1)
    assert found is not None
    np.testing.assert_allclose(found[:4], [2 / 3, 1 / 3, 0, 0], atol=0.06)
    assert noise_correlation(np.zeros((64, 64)), -1) is None
    assert noise_correlation(noise[:7], -1) is None


def test_structn2v_without_correlated_noise_is_said_to_be_needless() -> None:
    assert len(warnings_of(measure_suitability([photons(0)], "YX"), "structn2v")) == 1


def test_blocks_of_jpeg_are_found() -> None:
    raw = np.clip(photons(1) * 2, 0, 255).astype(np.uint8)
    smooth = ndimage.gaussian_filter(raw, 1)
    assert blockiness(raw) == pytest.approx(1, abs=0.1)
    assert blockiness(compressed(smooth, 75)) > 1.4
    assert blockiness(compressed(raw, 50)) > 1.3
    assert blockiness(raw[:20]) == 1
    found = measure_suitability([compressed(raw, 50)], "YX")
    assert any("JPEG" in warning for warning in warnings_of(found, "n2v"))


def test_saturated_pixels_and_those_cut_off_are_found() -> None:
    raw = photons(2).astype(np.uint16)
    bright = np.minimum(raw * 60, 4095).astype(np.uint16)
    dark = np.maximum(raw.astype(int) - 20, 0).astype(np.uint16)
    assert measure_suitability([bright], "YX").at_ceiling == pytest.approx((bright == 4095).mean())
    assert measure_suitability([dark], "YX").at_zero == pytest.approx((dark == 0).mean())
    assert len(warnings_of(measure_suitability([bright], "YX"), "n2v")) == 1
    assert len(warnings_of(measure_suitability([dark], "YX"), "n2v")) == 1


def test_volumes_and_channels_are_measured() -> None:
    volume = photons(3, (12, 64, 80)).astype(np.uint16)
    assert measure_suitability([volume], "ZYX").mask == ("", 1)
    blurred = ndimage.uniform_filter1d(volume.astype(np.float32), 3, axis=2)
    assert measure_suitability([np.stack([blurred, blurred])], "CZYX").mask == ("x", 5)
