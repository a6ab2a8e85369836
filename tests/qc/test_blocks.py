"""Images that are judged block by block have the scores of those that are judged in one piece, to rounding."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from scipy import ndimage
from scipy.ndimage import gaussian_filter
from support import mentions

from parfocal.qc.dataset.images import Picture, measure_field
from parfocal.qc.detection.baseline import choose_boxes
from parfocal.qc.evaluation import room
from parfocal.qc.evaluation.inputs import Item
from parfocal.qc.evaluation.room import Held, workers_that_fit
from parfocal.qc.evaluation.training_images import warn_of_samples
from parfocal.qc.metrics import bands
from parfocal.qc.metrics._arrays import percentiles
from parfocal.qc.metrics.baselines.blind import BlindGaussian
from parfocal.qc.metrics.baselines.gaussian import BaselineChoice
from parfocal.qc.metrics.baselines.linear import LinearPredictor
from parfocal.qc.metrics.baselines.otsu import OtsuBaseline
from parfocal.qc.metrics.baselines.pixels import fit_pixel_classifier
from parfocal.qc.metrics.baselines.spots import locate_spots
from parfocal.qc.metrics.images import microssim
from parfocal.qc.metrics.images.fit import with_range
from parfocal.qc.metrics.images.microssim import fit_micro_ssim, micro_ssim_map, micro_ssim_means, sample_for_fit
from parfocal.qc.metrics.images.reconstructions import mean_frame
from parfocal.qc.metrics.images.residuals import score_residual
from parfocal.qc.metrics.images.resolution import fourier_correlation
from parfocal.qc.metrics.images.restoration import maps_within, score_scaled
from parfocal.qc.metrics.objects.boundaries import boundary_distances
from parfocal.qc.metrics.objects.classes import classes_of_objects
from parfocal.qc.metrics.objects.confusion import confusion_matrix
from parfocal.qc.metrics.objects.instances import score_instances
from parfocal.qc.metrics.objects.labels import kind_of_target
from parfocal.qc.metrics.objects.outcomes import error_map, outcome_layers
from parfocal.qc.metrics.objects.regions import connected_regions
from parfocal.qc.metrics.objects.semantic import boundary_f
from parfocal.qc.metrics.objects.topology import compare_regions
from parfocal.qc.restoration.scoring import score_item
from parfocal.qc.semantic.judge import Threshold, predicted_classes
from parfocal.qc.semantic.judge import error_map as error_map_of_classes
from parfocal.qc.semantic.scheme import Scheme
from parfocal.runtime.errors import OutOfMemoryError
from parfocal.runtime.images.files import Image, open_image, read_image, write_image
from parfocal.runtime.images.scratch import Scratch

RNG = np.random.default_rng(5)


@pytest.fixture
def in_blocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Scratch:
    """Go through images in bands of a few rows from now on; return where their arrays lie, none of them in memory."""
    monkeypatch.setattr(bands, "BAND_PIXELS", 3000)
    monkeypatch.setattr(microssim, "BAND_PIXELS", 3000)
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
    sampled = sample_for_fit(image, target, windows=400)
    whole, means = micro_ssim_map(image, target, fit), micro_ssim_means(image, target, fit, mask)
    scratch = request.getfixturevalue("in_blocks")
    mapped = [open_image(path, scratch).pixels for path in (item.prediction, item.target)]
    np.testing.assert_array_equal(micro_ssim_map(*mapped, fit), whole)
    parts = micro_ssim_means(*mapped, fit, mask)
    for one, other in zip(vars(sampled).values(), vars(sample_for_fit(*mapped, windows=400)).values(), strict=True):
        np.testing.assert_array_equal(one, other)
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
def test_windows_that_stand_for_an_image_reach_from_edge_to_edge(
    shape: tuple[int, ...], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bands.sample_windows(shape) == [(slice(None),) * len(shape)]
    monkeypatch.setattr(bands, "LARGE_PIXELS", 10**6)
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


@pytest.mark.parametrize("shape", [(171, 203), (23, 41, 37)])
@pytest.mark.parametrize("part", [0.3, 0.55, 0.7])
def test_regions_that_cross_bands_are_one(shape: tuple[int, ...], part: float, request: pytest.FixtureRequest) -> None:
    mask = RNG.random(shape) < part
    mask[:, shape[1] // 2] = True  # joins many
    expected, count = ndimage.label(mask)
    scratch = request.getfixturevalue("in_blocks")
    assert len(list(bands.bands(shape))) > 3
    labels, found = connected_regions(shape, lambda rows: mask[rows], scratch)
    assert found == count
    np.testing.assert_array_equal(labels, expected)


def objects(shape: tuple[int, ...], dtype: Any) -> Any:
    """Return a label image of blobs, most of which cross the bands, with numbers that have gaps."""
    smooth = gaussian_filter(RNG.standard_normal(shape), 4 if len(shape) == 2 else 2)
    labels, _ = ndimage.label(smooth > 0.9 * smooth.std())
    return (labels * 7).astype(dtype)


@pytest.mark.parametrize(("shape", "size"), [((211, 173), None), ((19, 61, 53), (0.4, 0.1, 0.1))])
def test_objects_in_blocks_are_judged_as_in_the_whole(
    shape: tuple[int, ...], size: tuple[float, ...] | None, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    target = objects(shape, np.uint16)
    prediction = np.roll(target, 4 - len(shape), axis=-1).astype(np.int32)
    prediction[np.isin(prediction, np.unique(prediction)[3:5])] = 0
    drawn = (target // 7 % 3 * (RNG.random(shape) < 0.9)).astype(np.uint8)

    def judged(target: Any, prediction: Any, drawn: Any, scratch: Scratch | None) -> tuple[Any, ...]:
        score = score_instances(target, prediction, name="a")
        matches = score.overlap.match(0.5)
        distances = boundary_distances(target, prediction, matches, size)
        where = () if scratch is None else (scratch,)
        mistakes = error_map(target, prediction, outcome_layers(score, matches), *where)
        classes = classes_of_objects(target, drawn, name="a")
        return score.counts, score.split, score.merged, matches, classes, distances, mistakes

    whole = judged(target, prediction, drawn, None)
    assert len(whole[3].pairs) > 5
    assert len(set(whole[4].values())) == 3
    paths = [tmp_path / f"{number}.tif" for number in range(3)]
    for path, pixels in zip(paths, (target, prediction, drawn), strict=True):
        write_image(path, Image(pixels, "ZYX"[-len(shape) :]))
    scratch = request.getfixturevalue("in_blocks")
    parts = judged(*(open_image(path, scratch, labels=True).pixels for path in paths), scratch)
    assert parts[:5] == whole[:5]
    np.testing.assert_array_equal(parts[5].mean, whole[5].mean)
    np.testing.assert_array_equal(parts[5].hausdorff_95, whole[5].hausdorff_95)
    np.testing.assert_array_equal(parts[6], whole[6])
    most = {label: np.bincount(drawn[target == label], minlength=3) for label in whole[4]}
    assert whole[4] == {label: 0 if not votes[1:].any() else 1 + np.argmax(votes[1:]) for label, votes in most.items()}


@pytest.mark.parametrize(
    ("shape", "dimensions"), [((171, 203), 2), ((3, 171, 203), 2), ((171, 203, 3), 2), ((17, 61, 53), 3)]
)
@pytest.mark.parametrize(("bright", "sigma"), [(True, 0.0), (False, 2.0)])
def test_otsus_objects_in_blocks_are_those_of_the_whole(
    shape: tuple[int, ...], dimensions: int, bright: bool, sigma: float, request: pytest.FixtureRequest
) -> None:
    spread = [0 if length == 3 else 3 if dimensions == 2 else 1 for length in shape]
    smooth = gaussian_filter(RNG.standard_normal(shape), spread)
    # Few and bright, or few and dark, so that they do not all touch.
    source = (20_000 + (1 if bright else -1) * 600 * np.exp(smooth / smooth.std())).astype(np.uint16)
    baseline = OtsuBaseline(bright, sigma, 1.0, 1)
    whole = baseline.apply(source, dimensions)
    assert whole.max() > 3
    np.testing.assert_array_equal(baseline.apply(source, dimensions, request.getfixturevalue("in_blocks")), whole)


@pytest.mark.parametrize("shape", [(171, 203), (17, 41, 53)])
@pytest.mark.parametrize("tolerance", [0.0, 1.5, 4.0])
@pytest.mark.parametrize("of_background", [True, False])
def test_classes_in_blocks_are_judged_as_in_the_whole(
    shape: tuple[int, ...], tolerance: float, of_background: bool, request: pytest.FixtureRequest
) -> None:
    smooth = gaussian_filter(RNG.standard_normal(shape), 1.5)
    target = np.digitize(smooth, np.quantile(smooth, [0.2, 0.6])).astype(np.int8)
    found = np.digitize(np.roll(smooth, 1, axis=0), np.quantile(smooth, [0.22, 0.59])).astype(np.int8)
    target[:, :5] = -1

    def judged(scratch: Scratch) -> tuple[Any, ...]:
        outlines = [boundary_f(target == number, found == number, tolerance) for number in (1, 2)]
        regions = compare_regions(target, found, of_background=of_background, scratch=scratch)
        return confusion_matrix(target, found, 3).tolist(), outlines, regions

    whole = judged(Scratch())
    assert min(whole[1]) > 0
    assert max(whole[1]) <= 1
    assert whole[2].split + whole[2].merge > 0
    scratch = request.getfixturevalue("in_blocks")
    assert len(list(bands.bands(shape))) > 3
    parts = judged(scratch)
    assert parts[0] == whole[0]
    assert parts[1] == pytest.approx(whole[1], rel=1e-12)
    assert parts[2] == whole[2]


def test_an_outline_far_from_the_other_is_found_in_no_band(request: pytest.FixtureRequest) -> None:
    one, other = np.zeros((2, 90, 80), bool)
    one[3:9, 3:9] = True
    other[70:80, 40:60] = True
    whole = boundary_f(one, other, 3.0), boundary_f(one, np.zeros_like(one), 3.0), boundary_f(one, one, 3.0)
    request.getfixturevalue("in_blocks")
    assert (boundary_f(one, other, 3.0), boundary_f(one, np.zeros_like(one), 3.0), boundary_f(one, one, 3.0)) == whole
    assert whole == (0, 0, 1)


@pytest.mark.parametrize("probability", [True, False])
def test_predicted_classes_and_their_baselines_in_blocks(probability: bool, request: pytest.FixtureRequest) -> None:
    smooth = gaussian_filter(RNG.standard_normal((171, 203)), 3)
    scheme = Scheme() if probability else Scheme((0, 3, 7))
    target = (smooth > 0).astype(np.uint16) if probability else np.array([0, 3, 7])[np.digitize(smooth, [0, 0.05])]
    prediction = np.clip(smooth * 3 + 0.5, 0, 1).astype(np.float32) if probability else np.roll(target, 1, axis=1)
    source = (1000 + 400 * np.stack([smooth, smooth**2, -smooth]) / smooth.std()).astype(np.uint16)
    fitted = fit_pixel_classifier([(source, scheme.target(target, name="a"))], scheme.count)

    def judged(scratch: Scratch) -> tuple[Any, ...]:
        known = scheme.target(target, name="a", scratch=scratch)
        found, curve = predicted_classes("a", known, prediction, Threshold(0.4, "nobody"), scheme, scratch)
        return known, found, curve, error_map_of_classes(known, found, scratch), fitted.apply(source, 2, scratch)

    whole = judged(Scratch())
    assert (whole[2] is not None) == probability
    for part, one in zip(judged(request.getfixturevalue("in_blocks")), whole, strict=True):
        np.testing.assert_array_equal(part, one)


@pytest.mark.parametrize("shape", [(201, 187), (3, 201, 187), (201, 187, 3)])
def test_boxes_of_an_image_in_blocks_are_those_of_the_whole(shape: Any, request: pytest.FixtureRequest) -> None:
    plane = RNG.integers(0, 5000, (201, 187)) > 4980
    plane = 900 * ndimage.gaussian_filter(plane.astype(float), 3)
    source = np.broadcast_to(plane[..., np.newaxis] if shape[-1] == 3 else plane, shape) + RNG.normal(0, 0.1, shape)
    pairs = [(source, np.array([[20, 20, 40, 40]], np.float32))]
    known = {"cell": 3}
    whole = choose_boxes(pairs, 0.5, ["cell"], known)
    found = whole.find(source)
    scratch = request.getfixturevalue("in_blocks")
    parts = choose_boxes(pairs, 0.5, ["cell"], known, scratch)
    assert parts.describe() == whole.describe()
    np.testing.assert_array_equal(parts.find(source, scratch).corners, found.corners)
    assert len(found.corners) > 5
    # Some of them lie in two bands.
    edges = [band.rows.stop for band in bands.bands((201, 187))]
    assert any(y0 < edge < y1 for edge in edges for y0, _, y1, _ in found.corners)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((203, 187), np.uint16), ((187, 203), np.float32), ((3, 101, 77), np.uint16), ((900, 9), np.uint16)],
)
@pytest.mark.parametrize("failed", ["", "prediction is constant", "contrast inverted"])
def test_residuals_in_blocks_are_those_of_the_whole(
    shape: tuple[int, ...], dtype: Any, failed: str, request: pytest.FixtureRequest
) -> None:
    clean = 400 + 3000 * np.clip(gaussian_filter(RNG.standard_normal(shape), (0,) * (len(shape) - 2) + (3, 3)), 0, None)
    source = (clean + 60 * RNG.standard_normal(shape)).astype(dtype)
    prediction = {"": 0.5 * gaussian_filter(clean, 1) + 7, "contrast inverted": -clean}.get(failed, np.full(shape, 5.0))
    score, maps = score_residual(source, prediction, name="a")
    assert (score.failed or "") == failed
    scratch = request.getfixturevalue("in_blocks")
    assert len(list(bands.bands(shape[-2:], 33, 9))) > 1
    mapped = [scratch.zeros(shape, each.dtype) for each in (source, prediction)]
    for array, values in zip(mapped, (source, prediction), strict=True):
        array[:] = values
    again, others = score_residual(*mapped, name="a", scratch=scratch)
    assert isinstance(others.residual, np.memmap)
    assert again.failed == score.failed
    numbers = [{name: value for name, value in vars(each).items() if name != "failed"} for each in (again, score)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-6, abs=1e-7, nan_ok=True)
    np.testing.assert_allclose(others.residual, maps.residual, atol=1e-3)
    np.testing.assert_allclose(others.deviation, maps.deviation, atol=1e-5)


def test_residuals_without_noise_are_compared_in_blocks_as_in_one_piece(request: pytest.FixtureRequest) -> None:
    """Most pixels have no noise at all, so that the finest scales are compared."""
    source = np.full((203, 187), 300.0)
    source[80:140, 60:150] += RNG.normal(0, 30, (60, 90))
    score, _ = score_residual(source, gaussian_filter(source, 1), name="a")
    again, _ = score_residual(
        source, gaussian_filter(source, 1), name="a", scratch=request.getfixturevalue("in_blocks")
    )
    assert 0 < score.noise_left < 1
    assert again.noise_left == pytest.approx(score.noise_left, rel=1e-9)


def test_frames_that_are_not_in_memory_have_the_mean_and_the_spots_of_those_that_are(in_blocks: Scratch) -> None:
    frames = RNG.poisson(100, (7, 40, 50)).astype(np.uint16)
    frames[3, 20, 30] += 2000
    mapped = in_blocks.zeros(frames.shape, np.uint16)
    mapped[:] = frames
    np.testing.assert_array_equal(mean_frame(mapped), frames.mean(axis=0, dtype=np.float64))
    (one, two) = (locate_spots(each, 8.0) for each in (frames, mapped))
    assert len(one.y) > 0
    np.testing.assert_array_equal(one.y, two.y)


@pytest.mark.parametrize(
    ("axes", "shape", "kind"),
    [
        ("YX", (203, 187), "image"),
        ("ZYX", (5, 101, 87), "image"),
        ("YXS", (203, 187, 3), "image"),
        ("CYX", (2, 203, 187), "image"),
        ("YX", (203, 187), "labels"),
        ("YX", (203, 187), "mask"),
    ],
)
def test_a_field_of_a_dataset_in_blocks_has_the_measures_of_the_whole(
    tmp_path: Path, axes: str, shape: tuple[int, ...], kind: Any, request: pytest.FixtureRequest
) -> None:
    plane = np.clip(gaussian_filter(RNG.standard_normal(shape), [3 * (axis in "YX") for axis in axes]), 0, None)
    clean = 200 + 3000 * plane / plane.std()
    target = np.roll(clean, 1, axes.index("X"))
    if kind != "image":
        target = ndimage.label(target > 1500)[0] if kind == "labels" else target > 1500
    images = {"source": clean + 300 * RNG.standard_normal(shape), "target": target}
    for role, pixels in images.items():
        dtype = np.uint8 if axes.endswith("S") else np.uint16
        scaled = pixels / 30 if dtype == np.uint8 else pixels
        write_image(tmp_path / f"{role}.tif", Image(np.clip(scaled, 0, None).astype(dtype), axes), compress=False)
    pictures = [
        Picture("train", role, "field", tmp_path / f"{role}.tif", axes, None, "image" if role == "source" else kind)
        for role in images
    ]
    whole = measure_field(pictures)
    parts = measure_field(pictures, request.getfixturevalue("in_blocks"))
    for part, one in zip(parts.records, whole.records, strict=True):
        assert part.values == pytest.approx(one.values, rel=1e-5, abs=1e-9)
        assert (part.digest, part.same, part.marked, part.problem) == (one.digest, one.same, one.marked, "")
        np.testing.assert_array_equal(part.sizes, one.sizes)
        assert (part.print is None) == (one.print is None) == (part.picture.kind != "image")
        if part.print is not None and one.print is not None:
            np.testing.assert_allclose(part.print, one.print, atol=1e-6)
    assert "likeness" in whole.records[1].values
    for part, one in zip(parts.thumbnails, whole.thumbnails, strict=True):
        np.testing.assert_array_equal(part, one)


def test_a_few_objects_between_the_windows_of_a_large_target_are_labels(
    in_blocks: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bands, "LARGE_PIXELS", 10**4)
    monkeypatch.setattr(bands, "SAMPLE_SIDE", 16)
    labels = np.zeros((400, 400), np.uint16)
    labels[60:66, 60:66], labels[60:66, 200:206] = 1, 2
    assert not any(labels[window].any() for window in bands.sample_windows(labels.shape))
    assert kind_of_target(labels) == "labels"
    assert in_blocks.folder is not None


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_what_a_target_holds_is_told_in_blocks_as_in_one_piece(in_blocks: Scratch, dtype: Any) -> None:
    grey = np.abs(RNG.normal(3, 2, (203, 187))).round()
    labels = ndimage.label(gaussian_filter(RNG.standard_normal((203, 187)), 3) > 0.1)[0]
    found = [kind_of_target(each.astype(dtype)) for each in (grey, labels, labels > 0, grey + 1)]
    assert found == ["image", "labels", "mask", "image"]
    assert kind_of_target((labels + 0.5).astype(np.float32)) == "image"
    assert in_blocks.folder is not None


@dataclass(frozen=True)
class Shaped:
    shape: tuple[int, ...]
    label: str = "image"
    role: str = ""
    source_sha256: str = ""


def test_an_image_that_is_gone_through_in_parts_is_refused_for_its_parts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(pixels=1000, planes=3)
    assert [held.of(shape) for shape in ((20, 30), (9000, 9000), (50, 10, 10), (50, 90, 90))] == [
        600,
        1000,
        1000,
        24300,
    ]
    monkeypatch.setattr(room, "available_memory", lambda: 10 * 1000)
    assert workers_that_fit([Shaped((9000, 9000))], 10, held) == 1
    with pytest.raises(OutOfMemoryError):
        workers_that_fit([Shaped((9000, 9000))], 10)
    with pytest.raises(OutOfMemoryError) as refused:
        workers_that_fit([Shaped((9000, 9000)), Shaped((50, 90, 90), "stack")], 10, held)
    assert mentions(refused.value.message, "stack", "50 x 90 x 90")


def test_a_plane_that_is_needed_whole_counts_whole_by_the_memory_of_its_image(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(pixels=100, planes=1, banded=False)
    assert [held.of(shape) for shape in ((20, 30), (5, 5), (50, 10, 20), (3, 4, 5))] == [600, 25, 200, 60]
    images = [Shaped((50, 10, 20), "coarse"), Shaped((50, 10, 10), "fine")]
    needed = {"coarse": 100, "fine": 400}
    monkeypatch.setattr(room, "available_memory", lambda: 2 * 40_000 + 1)
    monkeypatch.setattr(room, "workers_for", lambda _: 8)
    assert workers_that_fit(images, lambda image: needed[image.label], held) == 2
    monkeypatch.setattr(room, "available_memory", lambda: 39_000)
    with pytest.raises(OutOfMemoryError) as refused:
        workers_that_fit(images, lambda image: needed[image.label], held)
    assert mentions(refused.value.message, "fine", "50 x 10 x 10")


def test_the_size_of_a_stack_that_fits_is_that_of_its_planes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "available_memory", lambda: 10 * 8 * 100**2)
    with pytest.raises(OutOfMemoryError) as refused:
        workers_that_fit([Shaped((8, 200, 200), "stack")], 10)
    assert mentions(refused.value.message, "8 x 200 x 200", "100 x 100")


def test_people_are_told_once_that_a_baseline_was_chosen_on_windows() -> None:
    class Context:
        warnings: ClassVar[list[str]] = []

        def warn(self, text: str) -> None:
            self.warnings.append(text)

    warn_of_samples(Context(), (5000, 5000))  # type: ignore[arg-type]
    assert not Context.warnings
    warn_of_samples(Context(), (9000, 9000))  # type: ignore[arg-type]
    assert mentions(Context.warnings[0], "16 windows of 1024 x 1024")


@pytest.mark.parametrize(
    "window", [(slice(0, 40), slice(20, 61)), (slice(30, 73), slice(0, 71)), (slice(20, 50), slice(9, 60))]
)
def test_maps_of_a_window_are_those_of_the_whole(window: tuple[slice, slice]) -> None:
    target = gaussian_filter(RNG.standard_normal((73, 71)), 2) * 500
    image = 3 * target + 20 * RNG.standard_normal(target.shape)
    score, maps = score_scaled(image, with_range(target))
    found = maps_within(image, with_range(target), score, window)
    np.testing.assert_allclose(found.ssim, maps.ssim[window], atol=1e-5)
    np.testing.assert_allclose(found.rse, maps.rse[window], atol=1e-6)
