"""Images that are judged block by block have the scores of those that are judged in one piece, to rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from parfocal.qc.evaluation.inputs import Item
from parfocal.qc.metrics import bands
from parfocal.qc.metrics._arrays import percentiles
from parfocal.qc.metrics.baselines.blind import BlindGaussian
from parfocal.qc.metrics.baselines.gaussian import BaselineChoice
from parfocal.qc.metrics.baselines.linear import LinearPredictor
from parfocal.qc.metrics.images.microssim import fit_micro_ssim, micro_ssim_map, micro_ssim_means, sample_for_fit
from parfocal.qc.metrics.images.resolution import fourier_correlation
from parfocal.qc.restoration.scoring import score_item
from parfocal.runtime.images.files import Image, open_image, read_image, write_image
from parfocal.runtime.images.scratch import Scratch

RNG = np.random.default_rng(5)


@pytest.fixture
def in_blocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Scratch:
    """Go through images in bands of a few rows from now on; return where their arrays lie, none of them in memory."""
    monkeypatch.setattr(bands, "BAND_PIXELS", 3000)
    return Scratch(tmp_path / "arrays", 0)


def restored(folder: Path, shape: tuple[int, ...], dtype: Any) -> Item:
    """Return an image of odd sides, its target, a prediction with an uncertainty, and where they lie."""
    clean = gaussian_filter(RNG.standard_normal(shape), (0,) * (len(shape) - 2) + (3, 3))
    target = 400 + 3000 * np.clip(clean / clean.std(), 0, None)
    images = {
        "source": target + 300 * RNG.standard_normal(shape),
        "target": target,
        "prediction": 0.5 * target + 60 * RNG.standard_normal(shape) + 20,
        "uncertainty": RNG.uniform(20, 60, shape),
    }
    for role, pixels in images.items():
        of = dtype if role in {"source", "target"} else np.float32
        write_image(folder / f"{role}.tif", Image(pixels.astype(of), "ZYX"[-len(shape) :]), compress=False)
    paths = {role: folder / f"{role}.tif" for role in images}
    return Item("cell", "target", **paths, source_sha256="", pixel_size=0.2, shape=shape, voxel_um=None)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((203, 187), np.uint16), ((187, 203), np.float32), ((13, 61, 47), np.uint16)]
)
def test_a_restored_image_in_blocks_has_the_scores_of_the_whole(
    tmp_path: Path, shape: tuple[int, ...], dtype: Any, request: pytest.FixtureRequest
) -> None:
    item = restored(tmp_path, shape, dtype)
    baseline = BaselineChoice(1.3, ((1.3, 30.0),), 1)
    whole = score_item(item, baseline, windows=100, folder=tmp_path / "whole")
    scratch = request.getfixturevalue("in_blocks")
    assert len(list(bands.bands(shape[-2:] if len(shape) == 2 else shape))) > 1
    parts = score_item(item, baseline, windows=100, folder=tmp_path / "parts", scratch=scratch)
    assert len(parts.rows) == len(whole.rows)
    for part, one in zip(parts.rows, whole.rows, strict=True):
        assert (part.kind, part.slice, part.failed) == (one.kind, one.slice, one.failed)
        assert part.values.keys() == one.values.keys()
        for name, value in one.values.items():
            assert part.values[name] == pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True), name
    np.testing.assert_allclose(parts.coverage, whole.coverage, rtol=1e-9)
    for kind in ("input", "baseline", "prediction"):
        for name in ("ssim", "rse"):
            one, other = (read_image(tmp_path / way / kind / name / "cell.tif").pixels for way in ("whole", "parts"))
            np.testing.assert_allclose(one, other, atol=1e-6)


def test_micro_ssim_in_blocks_is_that_of_the_whole(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    item = restored(tmp_path, (93, 71), np.uint16)
    target, image = (read_image(path).pixels for path in (item.target, item.prediction))
    fit, mask = fit_micro_ssim([sample_for_fit(image, target)]), target > 1000
    whole, means = micro_ssim_map(image, target, fit), micro_ssim_means(image, target, fit, mask)
    scratch = request.getfixturevalue("in_blocks")
    mapped = [open_image(path, scratch).pixels for path in (item.prediction, item.target)]
    np.testing.assert_array_equal(micro_ssim_map(*mapped, fit), whole)
    parts = micro_ssim_means(*mapped, fit, mask)
    assert [parts.whole, *parts.by_part] == pytest.approx([means.whole, *means.by_part], rel=1e-12)


@pytest.mark.parametrize(
    "baseline",
    [
        BaselineChoice(2.2, ((2.2, 30.0),), 1),
        BlindGaussian(0.7, ((0.7, 1.0),), 1),
        LinearPredictor((0.5,), -3.0, 1),
        LinearPredictor((0.5, 0.1, 2.0), -3.0, 1),
    ],
)
def test_baselines_in_blocks_are_those_of_the_whole(baseline: Any, request: pytest.FixtureRequest) -> None:
    source = RNG.integers(0, 4000, (3, 91, 83)).astype(np.uint16)
    if isinstance(baseline, LinearPredictor) and len(baseline.coefficients) == 1:
        source = source[0]
    whole = baseline.apply(source)
    np.testing.assert_allclose(baseline.apply(source, request.getfixturevalue("in_blocks")), whole, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "u4", "i4", "i8", "f2", "f4", "f8"])
def test_percentiles_of_blocks_are_exact(dtype: str, request: pytest.FixtureRequest) -> None:
    values = RNG.normal(0, 90, (83, 91)).astype(dtype)
    whole = percentiles(values, 0, 0.1, 50, 99.9, 100)
    request.getfixturevalue("in_blocks")
    assert percentiles(values, 0, 0.1, 50, 99.9, 100) == whole
    ordered = np.sort(values.ravel())
    assert [whole[0], whole[2], whole[4]] == [ordered[0], ordered[values.size // 2], ordered[-1]]


@pytest.mark.parametrize(
    ("shape", "count"), [((5000, 3001), 8), ((1200, 9000), 4), ((700, 9000), 4), ((40, 900, 901), 4)]
)
def test_windows_that_stand_for_an_image_reach_from_edge_to_edge(shape: tuple[int, ...], count: int) -> None:
    windows = bands.sample_windows(shape)
    assert windows == bands.sample_windows(shape)
    assert len(set(map(str, windows))) == len(windows) == count
    places = np.zeros(shape, bool)
    for window in windows:
        assert not places[window].any()
        places[window] = True
    assert places[..., -1].any()
    assert places[..., 0].any()
    assert places.sum() <= bands.SAMPLE_SIDE**2 * 16


def test_the_resolution_of_a_large_image_is_that_of_its_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    target = gaussian_filter(RNG.standard_normal((400, 420)), 1)
    image = gaussian_filter(target, 2) + 0.02 * RNG.standard_normal(target.shape)
    whole = fourier_correlation(image, target)
    monkeypatch.setattr(bands, "LARGE_PIXELS", target.size - 1)
    monkeypatch.setattr(bands, "SAMPLE_SIDE", 90)
    parts = fourier_correlation(image, target)
    assert len(parts.frequency) == 45
    assert parts.coefficients[0] == 16 * fourier_correlation(image[:90, :90], target[:90, :90]).coefficients[0]
    assert parts.resolution == pytest.approx(whole.resolution, rel=0.1)
    assert not parts.at_least
