"""MicroSSIM against numbers of the authors' package, and what it promises."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from parfocal.qc.metrics.images.microssim import MicroFit, fit_micro_ssim, micro_ssim, micro_ssim_map, sample_for_fit
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.ssim import mean_ssim, mean_ssim_by_part


def image_set(count=4, shape=(128, 160)):
    """Targets of one range and their noisy images, as `benchmarks/microssim.py` makes them."""
    random = np.random.default_rng(5)
    targets, images = [], []
    for _ in range(count):
        clean = gaussian_filter(random.standard_normal(shape), 2)
        clean = 100 + 4000 * (clean - clean.min()) / np.ptp(clean)
        targets.append(np.rint(clean))
        images.append(np.rint(random.poisson(clean / 20) * 3.0 + 7))
    return images, targets


def fitted(images, targets, windows=None):
    return fit_micro_ssim([sample_for_fit(x, y, windows=windows) for x, y in zip(images, targets, strict=True)])


def test_equals_the_package():
    images, targets = image_set()
    fit = fitted(images, targets)
    # microssim 0.0.5, measured by benchmarks/microssim.py.
    assert (fit.target_offset, fit.image_offset) == (1149, 172)
    assert fit.factor == pytest.approx(5.8891887, rel=1e-5)
    scores = [micro_ssim(x, y, fit) for x, y in zip(images, targets, strict=True)]
    assert scores == pytest.approx([0.80692598, 0.78683434, 0.80250234, 0.74400565], abs=1e-6)


def test_is_ssim_of_the_scaled_images():
    images, targets = image_set(1)
    x, y = 3.0 * images[0], targets[0]
    fit = MicroFit(1000.0, 200.0, 1.7)
    expected = structural_similarity(
        (y - 1000) / np.ptp(y), 1.7 * (x - 200) / np.ptp(y), gaussian_weights=True, sigma=1.5, data_range=1
    )
    assert micro_ssim(x, y, fit) == pytest.approx(expected, abs=1e-6)


def test_the_factor_is_the_best_one():
    images, targets = image_set(2)
    fit = fitted(images, targets)

    def mean(factor):
        changed = MicroFit(fit.target_offset, fit.image_offset, factor)
        return np.mean([micro_ssim(x, y, changed) for x, y in zip(images, targets, strict=True)])

    # The fit has square windows of 7 pixels, the score Gaussian ones: the optimum differs a little.
    assert mean(fit.factor) > max(mean(0.8 * fit.factor), mean(1.25 * fit.factor))


def test_samples_give_nearly_the_same():
    images, targets = image_set()
    assert fitted(images, targets, 4096).factor == pytest.approx(fitted(images, targets).factor, rel=0.005)
    assert sample_for_fit(images[0], targets[0], windows=500).moments.shape[1] <= 500


@pytest.mark.parametrize(("scale", "offset"), [(1e-4, 0), (3000.0, -50.0), (1.0, 1e4)])
def test_brightness_and_offset_of_the_set_change_nothing(scale, offset):
    images, targets = image_set(2)
    changed = [scale * image + offset for image in images]
    before, after = fitted(images, targets), fitted(changed, targets)
    for x, z, y in zip(images, changed, targets, strict=True):
        assert micro_ssim(z, y, after) == pytest.approx(micro_ssim(x, y, before), abs=1e-4)


def test_brightness_that_varies_between_images_is_not_excused():
    images, targets = image_set()
    uneven = [image * factor for image, factor in zip(images, (0.5, 1, 1, 2), strict=True)]
    before, after = fitted(images, targets), fitted(uneven, targets)
    score = [
        np.mean([micro_ssim(x, y, fit) for x, y in zip(xs, targets, strict=True)])
        for xs, fit in ((images, before), (uneven, after))
    ]
    assert score[1] < score[0] - 0.05


def test_perfect_is_one():
    _, targets = image_set(2)
    fit = fitted(targets, targets)
    assert fit.factor == pytest.approx(1, abs=1e-6)
    assert micro_ssim(targets[0], targets[0], fit) == pytest.approx(1)


def test_a_constant_image_has_a_score():
    _, targets = image_set(1)
    constant = np.full_like(targets[0], 5)
    fit = fitted([constant], targets)
    assert fit.factor == 1
    assert -1 <= micro_ssim(constant, targets[0], fit) < 0.3


def test_degenerate_input_is_refused():
    images, targets = image_set(1)
    with pytest.raises(InvalidInputError, match="one image"):
        fit_micro_ssim([])
    with pytest.raises(InvalidInputError, match="contrast"):
        fit_micro_ssim([sample_for_fit(images[0], np.ones_like(images[0]))])
    with pytest.raises(InvalidInputError, match=r"a: .*constant"):
        micro_ssim(images[0], np.ones_like(images[0]), MicroFit(0, 0, 1), name="a")
    with pytest.raises(InvalidInputError, match="shape"):
        sample_for_fit(images[0][1:], targets[0])
    with pytest.raises(InvalidInputError, match="NaN"):
        sample_for_fit(np.full_like(targets[0], np.nan), targets[0])


def parts_of(image, target, fit, mask):
    return mean_ssim_by_part(micro_ssim_map(image, target, fit), mask)


def test_inside_and_outside_equal_the_definition():
    images, targets = image_set(1)
    x, y = images[0], targets[0]
    mask = y > np.percentile(y, 80)
    _, full = structural_similarity(
        (y - 1000) / np.ptp(y), 1.7 * (x - 200) / np.ptp(y), gaussian_weights=True, sigma=1.5, data_range=1, full=True
    )
    expected = [full[5:-5, 5:-5][part[5:-5, 5:-5]].mean() for part in (mask, ~mask)]
    assert parts_of(x, y, MicroFit(1000.0, 200.0, 1.7), mask) == pytest.approx(expected, abs=1e-6)


def test_parts_make_up_the_whole():
    images, targets = image_set(1)
    fit, mask = fitted(images, targets), targets[0] > np.median(targets[0])
    values = micro_ssim_map(images[0], targets[0], fit)
    inside, outside = mean_ssim_by_part(values, mask)
    fraction = mask[5:-5, 5:-5].mean()
    assert fraction * inside + (1 - fraction) * outside == pytest.approx(mean_ssim(values), abs=1e-9)
    everywhere, nowhere = mean_ssim_by_part(values, np.ones_like(mask))
    assert everywhere == pytest.approx(micro_ssim(images[0], targets[0], fit), abs=1e-12)
    assert np.isnan(nowhere)
    border = np.ones_like(mask)
    border[5:-5, 5:-5] = False
    assert mean_ssim_by_part(values, border) == pytest.approx((np.nan, mean_ssim(values)), nan_ok=True)


def test_perfect_is_one_inside_and_outside_whatever_its_brightness():
    _, targets = image_set(2)
    brighter = [3 * target + 50 for target in targets]
    fit = fitted(brighter, targets)
    for x, y in zip(brighter, targets, strict=True):
        assert parts_of(x, y, fit, y > np.median(y)) == pytest.approx((1, 1), abs=1e-5)
