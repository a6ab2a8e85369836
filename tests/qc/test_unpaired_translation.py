"""Translation QC of models that were trained without pairs, in both directions, and of images in colour."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_data import save, write_kind
from scipy.ndimage import gaussian_filter
from support import publish_images, publish_kind, publish_model, read_published

from parfocal import v1
from parfocal.qc.metrics.baselines.linear import match_moments
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import read_image


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpaired training images, and test images that are pairs."""
    folder = write_kind(tmp_path_factory.mktemp("kinds"), "unpaired")
    for path in (folder / "test" / "target").iterdir():
        path.rename(path.with_name(f"field{int(path.stem[5:]) - 7}.tif"))
    return folder


@pytest.mark.parametrize("role", ["target", "source"])
def test_models_trained_without_pairs_are_judged_by_test_images_in_pairs(
    folder: Path, role: str, run_job: Any, s3: Any, tmp_path: Path
) -> None:
    store = s3.store()
    for path in (folder / "test" / role).iterdir():
        save(tmp_path / path.name, gaussian_filter(read_image(path).pixels.astype(np.float32), 0.4))
    dataset = publish_kind(store, f"unpaired-{role}", folder, "unpaired")
    spec = v1.EvaluationSpec(
        method="translation",
        dataset_uri=dataset,
        prediction_uri=publish_images(store, tmp_path, targets=(role,)),
        split="test",
        model_uri=publish_model(store, f"cycle-{role}", dataset),
    )
    job = run_job(v1.StartJobRequest(evaluation=spec))
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    summary = json.loads(read_published(store, job.outputs[0].uri, "summary.json"))
    assert summary["images"] == 3
    assert summary["baseline"]["pairs"] is False
    assert summary["baseline"]["images"] == (6 if role == "source" else 5)
    # What was predicted from is the other kind of image, which is worse than a slightly blurred target.
    assert summary["metrics"]["input"]["ssim"]["mean"] < summary["metrics"]["prediction"]["ssim"]["mean"] - 0.05


def test_moments_of_targets_are_matched_without_pairs() -> None:
    rng = np.random.default_rng(0)
    sources, targets = [rng.normal(10, 2, (30, 40)) for _ in range(3)], [rng.normal(70, 8, (20, 30)) for _ in range(2)]
    baseline = match_moments(sources, targets, 2)
    made = np.stack([baseline.apply(source) for source in sources])
    assert made.mean() == pytest.approx(np.mean(targets), rel=1e-3)
    assert made.std() == pytest.approx(np.std(targets), rel=0.02)
    assert (baseline.images, baseline.pairs) == (3, False)
    several = match_moments([np.stack([source, source]) for source in sources], targets, 2)
    np.testing.assert_allclose(several.apply(np.stack([sources[0]] * 2)), baseline.apply(sources[0]), rtol=1e-5)
    with pytest.raises(InvalidInputError):
        match_moments(sources, [], 2)
