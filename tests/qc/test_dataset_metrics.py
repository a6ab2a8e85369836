"""Metrics of datasets: known shifts, noise, holes and copies, each found as it was made."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from parfocal.qc.metrics.data.focus import sharpness, white_noise_gain
from parfocal.qc.metrics.data.noise import measure_noise
from parfocal.qc.metrics.data.registration import estimate_shift
from parfocal.qc.metrics.objects.labels import check_labels, kind_of_target
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.noise import noise_sigma
from parfocal.runtime.images.saturation import saturation
from parfocal.runtime.images.similarity import alike, fingerprint, pixel_digest


def texture(seed: int, shape: tuple[int, ...] = (192, 192), sigma: float = 2.0) -> Any:
    """Smooth random structures with a standard deviation of 100 grey values."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma, mode="wrap")
    return 1000 + 100 * smooth / smooth.std()


def moved(image: Any, vector: tuple[float, ...]) -> Any:
    """The image moved by a fraction of pixels, exactly, by the phases of its Fourier transform."""
    return np.fft.ifftn(ndimage.fourier_shift(np.fft.fftn(image), vector)).real


@pytest.mark.parametrize("vector", [(0.0, 0.0), (0.4, -0.7), (3.0, -5.0), (-6.3, 2.6)])
def test_a_known_shift_is_found_to_a_tenth_of_a_pixel(vector: tuple[float, float]) -> None:
    fixed = texture(1)
    shift = estimate_shift(moved(fixed, vector), fixed)
    assert shift.vector == pytest.approx([-value for value in vector], abs=0.1)
    assert shift.distance == pytest.approx(np.hypot(*vector), abs=0.1)


def test_a_shift_is_found_through_noise_as_strong_as_the_image_and_through_affine_changes() -> None:
    fixed = texture(2, (256, 256))
    noisy = 3 * moved(fixed, (1.5, -2.0)) + 50 + np.random.default_rng(3).normal(0, 300, fixed.shape)
    assert estimate_shift(noisy, fixed).vector == pytest.approx((-1.5, 2.0), abs=0.1)
    assert estimate_shift(-noisy, fixed).vector == pytest.approx((-1.5, 2.0), abs=0.1)


def test_a_shift_between_volumes_has_three_numbers() -> None:
    # Bright enough that products of sums would leave the range of float32.
    fixed = 1e6 * texture(4, (16, 96, 96), 1.5)
    assert estimate_shift(moved(fixed, (1.0, -2.0, 3.0)), fixed).vector == pytest.approx((-1.0, 2.0, -3.0), abs=0.1)


def test_unlike_images_have_no_shift_but_a_reason() -> None:
    for seed in range(4):
        shift = estimate_shift(texture(10 + seed, (128, 128)), texture(20 + seed, (128, 128)))
        assert shift.vector is None
        assert shift.distance is None
        assert "agree" in shift.reason


def test_small_and_constant_images_have_no_shift() -> None:
    assert "too small" in estimate_shift(texture(1, (40, 40)), texture(1, (40, 40))).reason
    assert "constant" in estimate_shift(texture(1), np.ones((192, 192))).reason


def test_images_of_different_shape_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="one shape"):
        estimate_shift(texture(1), texture(1, (192, 100)))


@pytest.mark.parametrize("sigma", [2.0, 20.0, 200.0])
def test_known_noise_is_found_within_a_tenth(sigma: float) -> None:
    image = texture(5, (256, 256), 4.0) + np.random.default_rng(6).normal(0, sigma, (256, 256))
    assert noise_sigma(image) == pytest.approx(sigma, rel=0.1)
    assert noise_sigma(np.stack([image, image])) == pytest.approx(sigma, rel=0.1)


def test_noise_ignores_clipped_pixels_planes_and_offsets() -> None:
    noise = np.random.default_rng(7).normal(0, 10, (256, 256))
    plane = np.add.outer(np.arange(256.0), 2 * np.arange(256.0))
    assert noise_sigma(plane + noise + 1e6) == pytest.approx(10, rel=0.05)
    assert noise_sigma(plane) == pytest.approx(0, abs=1e-3)
    half = np.where(np.arange(256) < 160, 0.0, 100 + noise)
    assert noise_sigma(half) == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("shape", [(61, 47), (3, 61, 47)])
def test_noise_in_parts_is_that_of_the_whole(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.clip(np.random.default_rng(1).normal(100, 20, shape), 90, 120)
    flat = np.full(shape, 3.0)
    flat[..., 20, 20] = 4
    other = np.random.default_rng(2).normal(0, 1, shape)
    whole = [noise_sigma(image), noise_sigma(other, clipped=image), noise_sigma(other, clipped=flat)]
    monkeypatch.setattr("parfocal.runtime.images.noise.BLOCK_PIXELS", 500)
    assert [noise_sigma(image), noise_sigma(other, clipped=image), noise_sigma(other, clipped=flat)] == whole


def test_what_rises_above_the_noise() -> None:
    noise = np.random.default_rng(8).normal(100, 10, (256, 256))
    assert measure_noise(noise).rise_in_noise == pytest.approx(1.0, abs=0.5)
    hot = noise.copy()
    hot[::50, ::50] = 60000
    assert measure_noise(hot).rise_in_noise == pytest.approx(1.0, abs=0.5)
    spot = noise.copy()
    spot[100:112, 100:112] += 100
    found = measure_noise(spot).rise_in_noise
    assert found is not None
    assert found > 8
    half = np.where(np.arange(256) < 128, 100.0, 600.0) + noise
    assert measure_noise(half).snr == pytest.approx(50, rel=0.1)
    flat = measure_noise(np.full((32, 32), 7, np.uint8))
    assert (flat.sigma, flat.snr, flat.rise_in_noise) == (0, None, None)


def test_noise_needs_two_or_three_axes_and_numbers() -> None:
    for image in (np.ones(9), np.ones((2, 2)), np.full((9, 9), np.nan)):
        with pytest.raises(InvalidInputError):
            measure_noise(image)


def test_saturation_is_exact_for_every_camera() -> None:
    for top in (255, 1023, 4095, 16383, 65535):
        image = np.full((10, 10), 100, np.uint16 if top > 255 else np.uint8)
        image[0, :3] = top
        image[1, :5] = 0
        found = saturation(image)
        assert (found.ceiling, found.at_ceiling, found.at_zero) == (top, 0.03, 0.05)
    assert saturation(np.full((4, 4), 254, np.uint8)).at_ceiling == 0
    assert saturation(np.array([[0, 255]], np.uint8)).at_ceiling == 0, "a mask"
    assert saturation(np.array([[0.0, 255.0, 3.0]])).at_ceiling == 0, "no type with a largest value"


def test_sharpness_falls_with_blur_and_not_with_brightness_or_noise() -> None:
    image = texture(9, (256, 256), 1.0)
    sharp = sharpness(image)
    assert sharp is not None
    assert sharpness(7 * image + 300) == pytest.approx(sharp, rel=1e-4)
    blurred = [sharpness(ndimage.gaussian_filter(image, sigma)) for sigma in (0.5, 1.0, 2.0, 4.0)]
    assert [sharp, *blurred] == sorted([sharp, *blurred], reverse=True)
    smooth = ndimage.gaussian_filter(image, 2.0)
    noisy = smooth + np.random.default_rng(1).normal(0, 40, image.shape)
    assert sharpness(noisy, 40) == pytest.approx(sharpness(smooth), rel=0.1)
    seeming = sharpness(noisy)
    assert seeming is not None
    assert seeming > 1.1 * blurred[2]


def test_sharpness_is_none_where_noise_hides_it() -> None:
    noise = np.random.default_rng(2).normal(0, 10, (128, 128))
    assert sharpness(noise, 10) is None
    assert sharpness(np.ones((64, 64))) is None


def test_the_gain_of_white_noise_is_that_of_the_filters() -> None:
    noise = np.random.default_rng(3).normal(size=(1024, 1024))
    band = ndimage.gaussian_filter(noise, 1) - ndimage.gaussian_filter(noise, 2)
    assert white_noise_gain(1, 2) == pytest.approx(band.var(), rel=0.05)


def test_equal_pixels_have_equal_digests_and_nothing_else() -> None:
    image = np.arange(64, dtype=np.uint16).reshape(8, 8)
    assert pixel_digest(image) == pixel_digest(np.asfortranarray(image))
    others = [image + 1, image.reshape(4, 16), image.astype(np.int16)]
    assert len({pixel_digest(each) for each in (image, *others)}) == 4


def test_the_digest_of_pixels_in_parts_is_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(3).integers(0, 999, (3, 20, 31)).astype(np.uint16)
    expected = hashlib.sha256(b"(3, 20, 31) <u2" + image.tobytes()).hexdigest()
    assert pixel_digest(image) == expected
    for pixels in (50, 100, 7):
        monkeypatch.setattr("parfocal.runtime.images.similarity.BLOCK_PIXELS", pixels)
        assert pixel_digest(np.moveaxis(np.moveaxis(image, 0, -1).copy(), -1, 0)) == expected


def test_copies_are_found_through_noise_size_and_brightness() -> None:
    images = [texture(seed, (128, 160), 3.0) for seed in range(12)]
    copy = 2 * images[3] + np.random.default_rng(4).normal(0, 40, images[3].shape)
    smaller = images[7][::2, ::2]
    prints = [fingerprint(image) for image in (*images, copy, smaller)]
    table = np.stack([each for each in prints if each is not None])
    assert len(table) == 14
    found = {(first, second): value for first, second, value in alike(table, 0.9)}
    assert set(found) == {(3, 12), (7, 13)}
    assert found[3, 12] == pytest.approx(np.corrcoef(table[3], table[12])[0, 1], abs=1e-5)


def test_illumination_alone_makes_no_two_images_alike() -> None:
    light = 2000 * np.exp(-(np.add.outer(np.linspace(-1, 1, 128) ** 2, np.linspace(-1, 1, 128) ** 2)))
    prints = [fingerprint(texture(seed, (128, 128), 3.0) + light) for seed in range(6)]
    assert not list(alike(np.stack([each for each in prints if each is not None]), 0.5))


def test_a_constant_image_has_no_fingerprint_and_a_small_one_is_refused() -> None:
    assert fingerprint(np.full((64, 64), 3.0)) is None
    with pytest.raises(InvalidInputError, match="32x32"):
        fingerprint(np.ones((16, 64)))


def test_pairs_are_the_same_whatever_is_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    table = rng.normal(size=(50, 1024)).astype(np.float32)
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    whole = {(first, second) for first, second, _ in alike(table, 0.02)}
    products = np.triu(table @ table.T >= 0.02, k=1)
    assert whole == {(int(first), int(second)) for first, second in np.argwhere(products)}
    monkeypatch.setattr("parfocal.runtime.images.similarity._AT_ONCE", 350)
    assert {(first, second) for first, second, _ in alike(table, 0.02)} == whole


def label_image() -> Any:
    labels = np.zeros((40, 60), np.uint16)
    labels[5:15, 5:15] = 7  # whole
    labels[20:30, 5:15] = 9  # a hole of two pixels
    labels[24, 8:10] = 0
    labels[5:15, 20:25] = 12  # in two pieces
    labels[20:30, 20:25] = 12
    labels[5:15, 40:60] = 30  # at the border
    labels[22, 42] = 31  # one pixel
    return labels


def test_holes_pieces_borders_and_sizes_are_exact() -> None:
    found = check_labels(label_image())
    assert found.objects == 5
    assert found.sizes.tolist() == [100, 98, 100, 200, 1]
    assert found.with_holes == (9,)
    assert found.fragmented == (12,)
    assert found.at_border == (30,)
    assert found.labelled == pytest.approx(499 / 2400)


def test_what_is_no_hole() -> None:
    labels = np.zeros((30, 30), np.int32)
    labels[0:10, 0:10] = 1  # a bay that reaches the border of the image
    labels[0:3, 3:6] = 0
    labels[12:22, 2:12] = 2  # filled by another object
    labels[15:18, 5:8] = 3
    labels[12:22, 15:20] = 4  # background enclosed by two objects together
    labels[12:22, 20:25] = 5
    labels[16:18, 18:22] = 0
    assert check_labels(labels).with_holes == ()


def test_pieces_that_touch_across_a_corner_are_one() -> None:
    labels = np.zeros((10, 10), np.uint8)
    labels[1:3, 1:3] = labels[3:5, 3:5] = 1
    assert check_labels(labels).fragmented == ()


def test_a_volume_has_holes_only_where_they_are_closed_on_all_sides() -> None:
    labels = np.zeros((9, 20, 20), np.uint16)
    labels[1:8, 2:9, 2:9] = 1
    labels[4, 5, 5] = 0
    labels[1:8, 11:18, 11:18] = 2
    labels[:, 14, 14] = 0  # a channel from top to bottom
    assert check_labels(labels).with_holes == (1,)
    assert check_labels(labels).at_border == ()


def test_label_images_are_the_same_whatever_their_numbers() -> None:
    labels = label_image().astype(np.int64)
    other = np.where(labels > 0, 1000 - labels, -labels)
    first, second = check_labels(labels), check_labels(other)
    assert sorted(first.sizes) == sorted(second.sizes)
    assert [1000 - number for number in first.with_holes] == list(second.with_holes)


def test_an_empty_label_image_has_no_object_and_fractions_are_refused() -> None:
    found = check_labels(np.zeros((8, 8), np.uint16))
    assert (found.objects, found.labelled, found.with_holes) == (0, 0.0, ())
    with pytest.raises(InvalidInputError, match="whole numbers"):
        check_labels(np.full((8, 8), 0.5))


def test_labels_masks_and_grey_images_are_told_apart() -> None:
    assert kind_of_target(label_image()) == "labels"
    assert kind_of_target(label_image().astype(np.float32)) == "labels"
    assert kind_of_target(255 * (label_image() > 0).astype(np.uint8)) == "mask"
    assert kind_of_target(np.zeros((8, 8), np.uint8)) == "mask"
    grey = texture(1)
    assert kind_of_target(grey) == "image"
    dark = np.random.default_rng(1).poisson(np.clip((grey - 950) / 10, 0, None)).astype(np.uint16)
    assert kind_of_target(dark - dark.min()) == "image"


@pytest.mark.parametrize("mean", [0.1, 0.3, 0.5])
def test_few_photons_are_no_labels(mean: float) -> None:
    assert kind_of_target(np.random.default_rng(0).poisson(mean, (128, 128)).astype(np.uint16)) == "image"
