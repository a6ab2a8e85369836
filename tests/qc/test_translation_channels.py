"""Translation QC of targets in colour: every channel is judged as a target of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_data import save
from scipy.ndimage import gaussian_filter
from support import publish_dataset, publish_images, read_published

from parfocal import v1
from parfocal.qc.evaluation.channels import channel_names
from parfocal.runtime.images.files import read_image
from parfocal.runtime.store.manifests import RESULT_MANIFEST, ResultManifest
from parfocal.runtime.store.store import Location


@pytest.mark.parametrize(
    ("axes", "shape", "names"),
    [
        ("YX", (5, 6), ()),
        ("YXS", (5, 6, 3), ("red", "green", "blue")),
        ("YXS", (5, 6, 4), ("red", "green", "blue")),
        ("CYX", (2, 5, 6), ("channel1", "channel2")),
    ],
)
def test_channels_have_names(axes: str, shape: tuple[int, ...], names: tuple[str, ...]) -> None:
    assert channel_names(axes, shape) == names


def colours_of(source: Any) -> Any:
    """Three channels of which two are linear functions of the source."""
    near = gaussian_filter(source.astype(float), 1)
    return np.clip(np.stack([source * 0.5, 255 - source, near], axis=-1), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(2)
    for split, count in (("train", 2), ("test", 3)):
        for number in range(count):
            blobs = gaussian_filter(rng.random((64, 72)), 2)
            source = (255 * (blobs - blobs.min()) / np.ptp(blobs)).astype(np.uint8)
            save(folder / split / "source" / f"field{number}.tif", source)
            save(folder / split / "target" / f"field{number}.tif", colours_of(source), "YXS")
    return folder


def evaluate(run_job: Any, store: Any, folder: Path, predicted: Path) -> v1.Job:
    spec = v1.EvaluationSpec(
        method="translation",
        dataset_uri=publish_dataset(store, "colours", folder),
        prediction_uri=publish_images(store, predicted),
        split="test",
    )
    job: v1.Job = run_job(v1.StartJobRequest(evaluation=spec))
    return job


def test_every_channel_has_scores_and_a_wrong_one_fails_the_model(
    run_job: Any, s3: Any, folder: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    for path in sorted((folder / "test" / "target").iterdir()):
        made = read_image(path).pixels.copy()
        made[..., 2] = rng.integers(0, 255, made.shape[:2])  # blue is noise
        save(tmp_path / path.name, made, "YXS")
    job = evaluate(run_job, s3.store(), folder, tmp_path)
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    summary = json.loads(read_published(s3.store(), job.outputs[0].uri, "summary.json"))
    assert list(summary["targets"]) == ["target_red", "target_green", "target_blue"]
    ssim = {role: each["metrics"]["prediction"]["ssim"]["mean"] for role, each in summary["targets"].items()}
    assert ssim["target_red"] == ssim["target_green"] == pytest.approx(1)
    assert ssim["target_blue"] < 0.5
    assert summary["verdict"] == "failed"
    assert summary["targets"]["target_blue"]["verdict"] == "failed"
    # The linear predictor of a channel was fitted to that channel of the training images.
    assert summary["targets"]["target_green"]["baseline"]["coefficients"] == [pytest.approx(-1, abs=0.02)]
    assert summary["targets"]["target_red"]["baseline"]["coefficients"] == [pytest.approx(0.5, abs=0.02)]


def test_models_of_images_in_colour_are_compared_channel_by_channel(
    run_job: Any, s3: Any, folder: Path, tmp_path: Path
) -> None:
    store, evaluations = s3.store(), []
    dataset = publish_dataset(store, "compared", folder)
    for name, noise in (("near", 2), ("far", 30)):
        for path in sorted((folder / "test" / "target").iterdir()):
            made = read_image(path).pixels + np.random.default_rng(4).normal(0, noise, (64, 72, 3))
            save(tmp_path / name / path.name, made.astype(np.float32), "YXS")
        prediction = publish_images(store, tmp_path / name)
        spec = v1.EvaluationSpec(method="translation", dataset_uri=dataset, prediction_uri=prediction, split="test")
        job = run_job(v1.StartJobRequest(evaluation=spec))
        assert not job.error.text
        evaluations.append(job.outputs[0].uri)
    compared = v1.ComparisonSpec(method="translation", dataset_uri=dataset, evaluation_uris=evaluations)
    job = run_job(v1.StartJobRequest(comparison=compared))
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    manifest = ResultManifest.read(store, Location.parse(job.outputs[0].uri) / RESULT_MANIFEST)
    pictures = {entry.public_name for entry in manifest.files if entry.public_name.startswith("images")}
    assert pictures == {"images.png", "images_target_green.png", "images_target_blue.png"}


def test_a_prediction_without_the_channels_of_its_target_is_a_failed_image(
    run_job: Any, s3: Any, folder: Path, tmp_path: Path
) -> None:
    for number, path in enumerate(sorted((folder / "test" / "target").iterdir())):
        made = read_image(path).pixels
        save(tmp_path / path.name, made[..., 0] if number == 0 else made, "YX" if number == 0 else "YXS")
    job = evaluate(run_job, s3.store(), folder, tmp_path)
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    summary = json.loads(read_published(s3.store(), job.outputs[0].uri, "summary.json"))
    lost = {f"target_{colour}/field0" for colour in ("red", "green", "blue")}
    assert set(summary["unscorable"]) == lost
    assert summary["verdict"] == "failed"
