"""Restoration QC as a job: a real QC service, a real store, predictions made from the targets."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity
from support import mentions, publish_dataset, publish_images, read_published

from parfocal import v1
from parfocal.qc.metrics.images.fit import scale_target
from parfocal.qc.metrics.images.foreground import find_foreground
from parfocal.qc.metrics.images.microssim import fit_micro_ssim, micro_ssim, micro_ssim_map, sample_for_fit
from parfocal.qc.metrics.images.resolution import fourier_correlation
from parfocal.qc.metrics.images.restoration import score_scaled
from parfocal.runtime.images.files import Image, PixelSize, read_image, write_image
from parfocal.runtime.images.ssim import mean_ssim_by_part
from parfocal.runtime.store.manifests import RESULT_MANIFEST, ResultManifest
from parfocal.runtime.store.store import Location

Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def stacks_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training and three test pairs of stacks whose first plane is empty."""
    folder, random = tmp_path_factory.mktemp("stacks"), np.random.default_rng(3)
    for split, count in (("train", 2), ("test", 3)):
        for number in range(count):
            clean = np.clip(gaussian_filter(random.standard_normal((12, 40, 44)), (1, 2, 2)), 0, None)
            clean = (100 + 3000 * clean / clean.max()).astype(np.uint16)
            clean[0] = 100
            noisy = np.clip(clean + 250 * random.standard_normal(clean.shape), 0, None).astype(np.uint16)
            for role, pixels in (("source", noisy), ("target", clean)):
                path = folder / split / role / f"stack{number}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_image(path, Image(pixels, "ZYX", PixelSize(0.1, 0.1, 0.3)))
    return folder


@pytest.fixture(scope="module")
def evaluate(run_job: Any, s3: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., v1.Job]:
    """Evaluate images made of sources and targets as if a model had predicted them."""
    store = s3.store()

    def run(folder: Path, predict: Predict, width: float | None = None) -> v1.Job:
        made = tmp_path_factory.mktemp("predicted")
        for path in (folder / "test" / "target").iterdir():
            source, target = (read_image(folder / "test" / role / path.name).pixels for role in ("source", "target"))
            write_image(made / path.name, Image(predict(source, target), "ZYX"[-target.ndim :], None))
            if width is not None:
                (made / "uncertainty").mkdir(exist_ok=True)
                uncertainty = np.full(target.shape, width, np.float32)
                write_image(made / "uncertainty" / path.name, Image(uncertainty, "ZYX"[-target.ndim :], None))
        spec = v1.EvaluationSpec(
            method="restoration",
            dataset_uri=publish_dataset(store, made.name, folder),
            prediction_uri=publish_images(store, made),
            split="test",
        )
        return run_job(v1.StartJobRequest(evaluation=spec))

    return run


def denoised(source: Any, target: Any) -> Any:
    return (target + 0.2 * (source.astype(np.float32) - target)).astype(np.float32)


def published(s3: Any, job: v1.Job, name: str) -> str:
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    return read_published(s3.store(), job.outputs[0].uri, name).decode()


def test_images_have_all_numbers(evaluate: Any, s3: Any, pairs_folder: Path) -> None:
    job = evaluate(pairs_folder, denoised)
    summary = json.loads(published(s3, job, "summary.json"))
    assert summary["verdict"] == "passed", summary["reasons"]
    rows = list(csv.DictReader(io.StringIO(published(s3, job, "metrics.csv"))))
    assert len(rows) == 9
    assert job.metrics["prediction_ssim_inside"] == pytest.approx(
        summary["metrics"]["prediction"]["ssim_inside"]["mean"]
    )
    folder = pairs_folder / "test"
    images = {
        path.stem: [read_image(folder / role / path.name).pixels for role in ("source", "target")]
        for path in (folder / "source").iterdir()
    }
    fit = fit_micro_ssim([sample_for_fit(source, target, windows=None) for source, target in images.values()])
    for row in (row for row in rows if row["kind"] == "input"):
        source, target = images[row["image"]]
        mask = find_foreground(target).mask
        score, _ = score_scaled(source, scale_target(target), foreground=mask)
        assert float(row["ms_ssim"]) == pytest.approx(score.ms_ssim)
        assert float(row["ms_ssim_inside"]) == pytest.approx(score.ms_ssim_inside)
        assert float(row["ms_ssim_outside"]) == pytest.approx(score.ms_ssim_outside)
        parts = mean_ssim_by_part(micro_ssim_map(source, target, fit), mask)
        for part, value in zip(("inside", "outside"), parts, strict=True):
            assert float(row[f"micro_ssim_{part}"]) == pytest.approx(value, abs=1e-6)
        assert float(row["micro_ssim"]) == pytest.approx(micro_ssim(source, target, fit), abs=1e-6)
        assert float(row["foreground_fraction"]) == find_foreground(target).fraction
        curve = fourier_correlation(source, target)
        assert float(row["resolution_px"]) == pytest.approx(curve.resolution)
        assert float(row["resolution_um"]) == pytest.approx(0.1 * curve.resolution)
        assert row["volume_ssim"] == ""
    curves = list(csv.DictReader(io.StringIO(published(s3, job, "frc.csv"))))
    assert {(row["image"], row["kind"]) for row in curves} == {(row["image"], row["kind"]) for row in rows}
    result = ResultManifest.read(s3.store(), Location.parse(job.outputs[0].uri) / RESULT_MANIFEST)
    assert {"frc.png", "figure.png", "examples.png", "report.pdf", "report.html"} <= {
        entry.public_name for entry in result.files
    }
    assert float(curves[0]["frequency_per_um"]) == pytest.approx(10 * float(curves[0]["frequency_per_px"]), rel=1e-5)


def test_stacks_are_scored_by_plane_and_as_volumes(evaluate: Any, s3: Any, stacks_folder: Path) -> None:
    job = evaluate(stacks_folder, denoised)
    summary = json.loads(published(s3, job, "summary.json"))
    assert summary["verdict"] == "passed", summary["reasons"]
    for name in ("ms_ssim_inside", "micro_ssim_inside", "micro_ssim_outside"):
        assert summary["metrics"]["prediction"][name]["mean"] > summary["metrics"]["input"][name]["mean"]
    assert summary["metrics"]["prediction"]["volume_psnr"]["mean"] > summary["metrics"]["input"]["volume_psnr"]["mean"]
    rows = [row for row in csv.DictReader(io.StringIO(published(s3, job, "metrics.csv"))) if row["image"] == "stack0"]
    assert len(rows) == 33  # the empty plane has no score
    row = next(row for row in rows if row["kind"] == "input")
    source, target = (read_image(stacks_folder / "test" / role / "stack0.tif").pixels for role in ("source", "target"))
    low, high = np.percentile(target, [0.1, 99.9])
    scaled = (target - low) / (high - low)
    slope, offset = np.polyfit(source.ravel().astype(float), scaled.ravel(), 1)
    expected = structural_similarity(
        np.clip(slope * source + offset, 0, 1),
        np.clip(scaled, 0, 1),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
    )
    assert float(row["volume_ssim"]) == pytest.approx(expected, abs=1e-6)
    mask = find_foreground(target).mask
    r = np.corrcoef(source[mask], target[mask])[0, 1]
    assert float(row["volume_snr_inside"]) == pytest.approx(-10 * np.log10(1 - r**2))
    inside = summary["metrics"]["prediction"]["volume_ssim_inside"]["mean"]
    assert inside > summary["metrics"]["input"]["volume_ssim_inside"]["mean"]
    result = ResultManifest.read(s3.store(), Location.parse(job.outputs[0].uri) / RESULT_MANIFEST)
    assert result.verdict["state"] == "passed"
    assert "examples.png" in {entry.public_name for entry in result.files}


@pytest.mark.parametrize(("width", "words"), [(30.0, "uncertainty is calibrated"), (6.0, "uncertainty is too small")])
def test_an_uncertainty_is_checked_and_drawn(
    evaluate: Any, s3: Any, request: pytest.FixtureRequest, width: float, words: str
) -> None:
    folder = request.getfixturevalue("pairs_folder" if width == 30 else "stacks_folder")
    noise = np.random.default_rng(1)
    job = evaluate(folder, lambda _, target: target + noise.laplace(0, 30, target.shape).astype(np.float32), width)
    summary = json.loads(published(s3, job, "summary.json"))
    assert words in " ".join(summary["remarks"])
    rows = list(csv.DictReader(io.StringIO(published(s3, job, "metrics.csv"))))
    values = [float(row["coverage_90"]) for row in rows if row["kind"] == "prediction"]
    assert summary["metrics"]["prediction"]["coverage_90"]["mean"] == pytest.approx(np.mean(values))
    assert not any(row["coverage_90"] for row in rows if row["kind"] != "prediction")
    assert len(published(s3, job, "coverage.csv").splitlines()) == 4
    result = ResultManifest.read(s3.store(), Location.parse(job.outputs[0].uri) / RESULT_MANIFEST)
    assert "reliability.png" in {entry.public_name for entry in result.files}


def test_one_prediction_that_cannot_be_scored_is_a_failed_image(evaluate: Any, s3: Any, stacks_folder: Path) -> None:
    seen: list[None] = []

    def one_diverged(source: Any, target: Any) -> Any:
        prediction = denoised(source, target)
        if not seen:
            prediction[4] = np.nan
        seen.append(None)
        return prediction

    job = evaluate(stacks_folder, one_diverged)
    summary = json.loads(published(s3, job, "summary.json"))
    (bad,) = summary["unscorable"]
    assert summary["verdict"] == "failed"
    (reason,) = summary["reasons"]
    assert mentions(reason, "1 of 3 predictions", "scored", f"{bad} (prediction), slice 4: ", "1760 of 1760", "1e+30")
    assert summary["images"] == 2
    assert summary["metrics"]["prediction"]["psnr"]["mean"] > summary["metrics"]["input"]["psnr"]["mean"]
    rows = list(csv.DictReader(io.StringIO(published(s3, job, "metrics.csv"))))
    assert {row["image"] for row in rows} == {"stack0", "stack1", "stack2"} - {bad}
    assert all(row["micro_ssim"] for row in rows)


def test_a_target_without_contrast_is_left_out_by_name(evaluate: Any, s3: Any, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for split, stem in (("train", "a"), ("test", "b"), ("test", "c")):
        clean = 100 * gaussian_filter(random.standard_normal((64, 64)), 3).astype(np.float32)
        noisy = clean + random.standard_normal(clean.shape).astype(np.float32)
        for role, pixels in (("source", noisy), ("target", np.full_like(clean, 7) if stem == "c" else clean)):
            path = tmp_path / split / role / f"{stem}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, Image(pixels, "YX", None))
    job = evaluate(tmp_path, lambda source, _: source)
    assert job.state == v1.JOB_STATE_SUCCEEDED
    assert any(text.startswith("c ") and "constant" in text for text in job.warnings)
    assert {row["image"] for row in csv.DictReader(io.StringIO(published(s3, job, "metrics.csv")))} == {"b"}
