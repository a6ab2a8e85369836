"""The SSIM map against scikit-image in float64, on images that make float32 shortcuts fail."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.ssim import mean_ssim, ssim_map


def oracle(x, y):
    return structural_similarity(
        x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, full=True
    )


def hard_pairs():
    random = np.random.default_rng(3)
    shape = (150, 137)
    noise = random.standard_normal(shape)
    ramp = np.broadcast_to(np.linspace(0, 1, shape[1]), shape)
    checks = (np.indices(shape).sum(0) // 20 % 2).astype(float)
    bright = np.ones(shape)
    return {
        "random": (random.random(shape), random.random(shape)),
        "bright and even": (bright, np.clip(bright - 0.03 * np.abs(noise), 0, 1)),
        "ramp": (ramp, np.clip(ramp + 0.02 * noise, 0, 1)),
        "steps": (checks, np.clip(checks + 0.03 * noise, 0, 1)),
        "all zero": (np.zeros(shape), np.zeros(shape)),
        "bright pixel": (np.eye(*shape), np.zeros(shape)),
    }


@pytest.mark.parametrize("name", hard_pairs())
def test_map_equals_scikit_image(name):
    x, y = hard_pairs()[name]
    mean, full = oracle(x, y)
    values = ssim_map(x, y)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, full, rtol=0, atol=3e-6)
    assert mean_ssim(values) == pytest.approx(mean, abs=1e-6)


@given(st.integers(11, 90), st.integers(11, 90), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_any_size_equals_scikit_image(height, width, seed):
    x, y = np.random.default_rng(seed).random((2, height, width))
    np.testing.assert_allclose(ssim_map(x, y), oracle(x, y)[1], rtol=0, atol=3e-6)


def test_image_with_itself_is_one_everywhere():
    x = np.random.default_rng(0).random((40, 30))
    assert (ssim_map(x, x) == 1).all()


def test_is_symmetric():
    x, y = np.random.default_rng(1).random((2, 32, 32))
    np.testing.assert_allclose(ssim_map(x, y), ssim_map(y, x), rtol=0, atol=1e-6)


def test_constant_images_follow_the_luminance_term():
    # Without variance only (2 a b + C1) / (a^2 + b^2 + C1) is left.
    values = ssim_map(np.full((20, 20), 0.5), np.full((20, 20), 0.25))
    np.testing.assert_allclose(values, (0.25 + 1e-4) / (0.3125 + 1e-4), rtol=1e-6)


@pytest.mark.parametrize(
    ("x_shape", "y_shape", "word"),
    [((20, 20), (20, 21), "shape"), ((3, 20, 20), (3, 20, 20), "axes"), ((10, 30), (10, 30), "at least 11")],
)
def test_refuses_what_has_no_window(x_shape, y_shape, word):
    with pytest.raises(InvalidInputError, match=word):
        ssim_map(np.zeros(x_shape), np.zeros(y_shape))
