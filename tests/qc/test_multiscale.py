"""Multi-scale SSIM against its definition written with scipy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from parfocal.qc.metrics.images.fit import scale_target
from parfocal.qc.metrics.images.multiscale import MS_SSIM_WEIGHTS, multiscale_from, multiscale_ssim, scale_count
from parfocal.qc.metrics.images.restoration import score_restoration, score_scaled, score_stack
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.ssim import ssim_and_contrast_maps, ssim_map


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


def regions_oracle(x, y, mask, scales):
    """The definition in float64, with masked sums: whole image, inside and outside."""
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])
    weights = weights[:scales] * weights.sum() / weights[:scales].sum()
    inside, result = mask.astype(float), np.ones(3)
    for scale in range(scales):
        _, full = structural_similarity(
            x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, full=True
        )
        if scale < scales - 1:
            # Images with the mean of each window taken away would have the contrast term alone: divide the means out.
            mx, my = (gaussian_filter(each, 1.5, truncate=3.5) for each in (x, y))
            full = full * (mx**2 + my**2 + 1e-4) / (2 * mx * my + 1e-4)
        for index, part in enumerate((np.ones_like(inside), inside, 1 - inside)):
            result[index] *= np.average(full[5:-5, 5:-5], weights=part[5:-5, 5:-5]) ** weights[scale]
        height, width = (size // 2 * 2 for size in x.shape)
        blocks = (a[:height, :width].reshape(height // 2, 2, width // 2, 2) for a in (x, y, inside))
        x, y, inside = (block.mean((1, 3)) for block in blocks)
    return result


def by_part(x, y, mask):
    found = multiscale_from(*ssim_and_contrast_maps(x, y), x, y, mask)
    return found.whole, found.inside, found.outside


def filaments(shape):
    """Lines one pixel wide, which no coarse pixel is half full of."""
    mask = np.zeros(shape, bool)
    mask[shape[0] // 2] = True
    mask[:, shape[1] // 3] = True
    return mask


@pytest.mark.parametrize(("shape", "scales"), [((256, 256), 5), ((177, 301), 5), ((64, 50), 3), ((20, 21), 1)])
@pytest.mark.parametrize("thin", [False, True], ids=["areas", "lines"])
def test_inside_and_outside_equal_the_definition(shape, scales, thin):
    x, y = pair(shape)
    mask = filaments(shape) if thin else y > 0.55
    assert by_part(x, y, mask) == pytest.approx(regions_oracle(x, y, mask, scales), abs=1e-6)


def test_a_mask_changes_nothing_of_the_whole_and_everything_is_the_whole():
    x, y = pair((200, 211))
    whole, inside, outside = by_part(x, y, np.ones(x.shape, bool))
    assert whole == multiscale_ssim(x, y)
    assert inside == pytest.approx(whole, abs=1e-9)
    assert np.isnan(outside)
    assert by_part(x, y, np.zeros(x.shape, bool))[1:] == pytest.approx((np.nan, inside), abs=1e-9, nan_ok=True)


def test_noise_outside_alone_is_seen_outside_and_hardly_inside():
    _, y = pair((256, 256), 0)
    mask = np.zeros(y.shape, bool)
    mask[:, :128] = True
    x = np.where(mask, y, np.clip(y + 0.2 * np.random.default_rng(0).standard_normal(y.shape), 0, 1))
    whole, inside, outside = by_part(x, y, mask)
    assert outside < whole < inside
    assert inside > 0.99 > 0.97 > outside


@given(st.integers(0, 100), st.floats(0.02, 0.98))
@settings(max_examples=10, deadline=None)
def test_perfect_is_one_in_every_part_that_has_pixels_at_all_scales(seed, part):
    _, y = pair((64, 64), 0, seed)
    mask = np.random.default_rng(seed).random(y.shape) < part
    assert by_part(y, y, mask) == pytest.approx((1, 1, 1), abs=1e-6)


def test_a_part_without_pixels_at_some_scale_has_no_value():
    x, y = pair((200, 200))
    mask = np.zeros(x.shape, bool)
    mask[40:60, 40:60] = True  # in the border of 80 pixels that the fifth scale has, and in no other
    _, inside, outside = by_part(x, y, mask)
    assert np.isnan(inside)
    assert 0 < outside <= 1


@given(st.floats(0.01, 100), st.floats(-1000, 1000))
@settings(max_examples=10, deadline=None)
def test_brightness_and_offset_of_the_image_change_nothing_inside(scale, offset):
    x, y = pair((64, 64))
    target, mask = scale_target(y), y > 0.5
    before, _ = score_scaled(x, target, foreground=mask)
    after, _ = score_scaled(scale * x + offset, target, foreground=mask)
    assert after.ms_ssim_inside == pytest.approx(before.ms_ssim_inside, abs=1e-4)
    assert after.ms_ssim_outside == pytest.approx(before.ms_ssim_outside, abs=1e-4)


def test_planes_of_a_stack_have_their_own_mask():
    x, y = (np.stack(each) for each in zip(pair((40, 44)), pair((40, 44), seed=6), strict=True))
    mask = y > 0.5
    scores, _ = score_stack(x, y, foreground=mask)
    for z in range(2):
        alone, _ = score_scaled(x[z], scale_target(y[z]), foreground=mask[z])
        assert scores[z] == alone
    with pytest.raises(InvalidInputError, match="foreground has shape"):
        score_stack(x, y, foreground=mask[:1])
