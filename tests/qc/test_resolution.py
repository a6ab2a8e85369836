"""Fourier ring and shell correlation of images whose common frequencies are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.qc.metrics.images.resolution import correlate_spectra, fourier_correlation, spectrum
from parfocal.runtime.errors import InvalidInputError


def noise(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def frequencies(shape, distances):
    axes = [np.fft.fftfreq(size) / distance for size, distance in zip(shape, distances, strict=True)]
    return np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))


def low_passed(image, cut, distances=None):
    kept = frequencies(image.shape, distances or (1,) * image.ndim) < cut
    return np.fft.ifftn(np.fft.fftn(image) * kept).real


@pytest.mark.parametrize("cut", [0.1, 0.2, 0.35])
@pytest.mark.parametrize("shape", [(512, 512), (300, 421)])
def test_a_cut_in_frequency_is_found(cut, shape):
    target = noise(shape)
    found = fourier_correlation(low_passed(target, cut) + 0.3 * noise(shape, 1), target)
    assert found.resolution == pytest.approx(1 / cut, rel=0.05)
    assert not found.at_least
    assert (found.correlation[found.frequency < 0.8 * cut] > 0.8).all()
    assert (np.abs(found.correlation[found.frequency > 1.2 * cut]) < 0.2).all()


def test_equals_a_plain_computation():
    image, target = noise((64, 64)), noise((64, 64), 1)
    image += target
    found = fourier_correlation(image, target)
    from scipy.signal.windows import tukey

    taper = tukey(66, 0.25)[1:-1]
    first, second = (np.fft.fft2((x - x.mean()) * np.outer(taper, taper)) for x in (image, target))
    ring = np.rint(64 * frequencies((64, 64), (1, 1))).astype(int)
    for number in (1, 5, 20, 32):
        part = ring == number
        expected = (first * second.conj())[part].sum().real / math.sqrt(
            (np.abs(first[part]) ** 2).sum() * (np.abs(second[part]) ** 2).sum()
        )
        assert found.correlation[number - 1] == pytest.approx(expected, abs=1e-5)
        assert found.coefficients[number - 1] == part.sum()
        assert found.frequency[number - 1] == pytest.approx(number / 64)


@pytest.mark.parametrize("shape", [(63, 64), (64, 63), (8, 40, 40), (40, 41)])
def test_perfect_reaches_the_nyquist_limit_at_least(shape):
    target = noise(shape)
    found = fourier_correlation(5 * target + 1000, target)
    np.testing.assert_allclose(found.correlation, 1, atol=1e-5)
    assert (found.resolution, found.at_least) == (2, True)


@given(st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
@settings(max_examples=10, deadline=None)
def test_brightness_and_offset_change_nothing(scale, offset):
    target = noise((64, 64))
    image = target + 2 * noise((64, 64), 1)
    before, after = fourier_correlation(image, target), fourier_correlation(scale * image + offset, target)
    np.testing.assert_allclose(after.correlation, before.correlation, atol=1e-4)


def test_symmetric():
    x, y = noise((40, 60)), noise((40, 60), 1) + noise((40, 60))
    np.testing.assert_allclose(fourier_correlation(x, y).correlation, fourier_correlation(y, x).correlation, atol=1e-6)


@pytest.mark.parametrize("image", [-noise((128, 128)), noise((128, 128), 7), np.ones((128, 128))])
def test_images_that_agree_in_nothing_have_no_resolution(image):
    found = fourier_correlation(image, noise((128, 128)))
    assert math.isnan(found.resolution)
    assert not found.at_least


def test_shells_are_those_of_physical_frequency():
    target = noise((32, 96, 96))
    blurred = low_passed(target, 0.15, (3, 1, 1)) + 0.3 * noise(target.shape, 1)
    physical = fourier_correlation(blurred, target, pixel_size=(0.3, 0.1, 0.1))
    assert physical.resolution == pytest.approx(1 / 0.15, rel=0.1)  # the taper widens an axis of 32 planes
    assert fourier_correlation(blurred, target).resolution < 0.75 * physical.resolution


def test_a_flat_volume_of_equal_voxels_has_the_resolution_of_its_planes():
    target = noise((16, 128, 128))
    found = fourier_correlation(low_passed(target, 0.2) + 0.3 * noise(target.shape, 1), target)
    assert found.resolution == pytest.approx(5, rel=0.06)


def test_a_spectrum_can_be_used_again():
    target, images = spectrum(noise((64, 64))), [noise((64, 64), 0) + noise((64, 64), seed) for seed in (1, 2)]
    for image in images:
        np.testing.assert_array_equal(
            correlate_spectra(spectrum(image), target).correlation,
            fourier_correlation(image, noise((64, 64))).correlation,
        )


@pytest.mark.parametrize(
    ("image", "target", "options", "words"),
    [
        (np.ones((20, 20)), np.ones((20, 21)), {}, "shape"),
        (np.ones((15, 20)), np.ones((15, 20)), {}, "at least 16"),
        (np.ones(20), np.ones(20), {}, r"\(Y, X\)"),
        (np.full((20, 20), np.inf), np.ones((20, 20)), {}, "infinite"),
        (np.ones((20, 20)), np.ones((20, 20)), {"pixel_size": (0.1,)}, "pixel size"),
        (np.ones((20, 20)), np.ones((20, 20)), {"pixel_size": (0.1, 0)}, "pixel size"),
    ],
)
def test_degenerate_input_is_refused(image, target, options, words):
    with pytest.raises(InvalidInputError, match=words):
        fourier_correlation(image, target, **options)
