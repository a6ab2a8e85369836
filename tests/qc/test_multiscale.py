"""Multi-scale SSIM against its definition written with scipy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from parfocal.qc.metrics.multiscale import MS_SSIM_WEIGHTS, multiscale_ssim, scale_count
from parfocal.qc.metrics.restoration import score_restoration
from parfocal.qc.metrics.ssim import ssim_and_contrast_maps, ssim_map
from parfocal.runtime.errors import InvalidInputError


def pair(shape, noise=0.1, seed=5):
    random = np.random.default_rng(seed)
    target = gaussian_filter(random.standard_normal(shape), 2)
    target = (target - target.min()) / np.ptp(target)
    return np.clip(target + noise * random.standard_normal(shape), 0, 1), target


def terms(x, y):
    """Contrast-structure and SSIM, without the border."""

    def mean(values):
        return gaussian_filter(values, 1.5, truncate=3.5, mode="reflect")

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    contrast = (2 * cov + 9e-4) / (vx + vy + 9e-4)
    ssim = contrast * (2 * mx * my + 1e-4) / (mx * mx + my * my + 1e-4)
    return contrast[5:-5, 5:-5].mean(), ssim[5:-5, 5:-5].mean()


def oracle(x, y, scales):
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])
    weights = weights[:scales] * weights.sum() / weights[:scales].sum()
    result = 1.0
    for scale in range(scales):
        contrast, ssim = terms(x, y)
        result *= (ssim if scale == scales - 1 else contrast) ** weights[scale]
        height, width = (size // 2 * 2 for size in x.shape)
        x, y = (a[:height, :width].reshape(height // 2, 2, width // 2, 2).mean((1, 3)) for a in (x, y))
    return result


@pytest.mark.parametrize(
    ("shape", "scales"),
    [((256, 256), 5), ((177, 301), 5), ((175, 400), 4), ((64, 50), 3), ((30, 30), 2), ((20, 21), 1)],
)
def test_equals_the_definition(shape, scales):
    x, y = pair(shape)
    assert scale_count(shape) == scales
    assert multiscale_ssim(x, y) == pytest.approx(oracle(x, y, scales), abs=1e-7)


def test_equals_another_implementation():
    # torchmetrics 1.8.2 gives 0.913619 for this pair; it keeps the border in the last scale, worth 1.4e-4 here.
    x, y = pair((256, 256))
    assert multiscale_ssim(x, y) == pytest.approx(0.913619, abs=2e-4)


@pytest.mark.parametrize(("side", "scales"), [(11, 1), (21, 1), (22, 2), (88, 4), (175, 4), (176, 5), (5000, 5)])
def test_scales_that_fit(side, scales):
    assert scale_count((side, 9999)) == scales


def test_weights_are_the_published_ones():
    assert MS_SSIM_WEIGHTS == (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


@given(st.integers(0, 100), st.floats(0, 0.5))
@settings(max_examples=10, deadline=None)
def test_symmetric_bounded_and_one_for_equals(seed, noise):
    x, y = pair((48, 48), noise, seed)
    assert multiscale_ssim(x, y) == pytest.approx(multiscale_ssim(y, x), abs=1e-6)
    assert 0 <= multiscale_ssim(x, y) <= 1 + 1e-6
    assert multiscale_ssim(y, y) == pytest.approx(1)


def test_an_inverted_image_has_none():
    _, y = pair((200, 200))
    assert multiscale_ssim(1 - y, y) == 0


def test_blur_and_noise_differ_in_scale():
    _, y = pair((256, 256))
    noisy = y + 0.1 * np.random.default_rng(0).standard_normal(y.shape)
    ssim = score_restoration(noisy, y)[0]
    assert ssim.ms_ssim > ssim.ssim + 0.2  # noise disappears in coarse scales


def test_contrast_map_is_the_ssim_map_of_equal_means():
    x, y = pair((60, 60))
    ssim, contrast = ssim_and_contrast_maps(x, y)
    np.testing.assert_array_equal(ssim, ssim_map(x, y))
    assert (contrast >= ssim - 1e-6).all()


def test_refuses_what_ssim_refuses():
    with pytest.raises(InvalidInputError, match="at least 11"):
        multiscale_ssim(np.zeros((10, 40)), np.zeros((10, 40)))
    with pytest.raises(InvalidInputError, match="shape"):
        multiscale_ssim(np.zeros((20, 40)), np.zeros((40, 20)))
