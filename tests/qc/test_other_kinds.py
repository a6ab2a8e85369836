"""Models that are judged by a dataset made for models of another kind: refused, and the model keeps its verdict."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import mentions, publish_dataset, publish_images, publish_model

from parfocal import v1
from parfocal.runtime.images.files import Image, read_image, write_image
from parfocal.runtime.store.store import Location


@pytest.mark.parametrize(
    ("method", "learnt_from", "judged_by", "words"),
    [
        ("instances", "nuclei_folder", "pairs_folder", ("field0 (target)", "grey values")),
        ("semantic", "nuclei_folder", "pairs_folder", ("field0 (target)", "grey values")),
        ("restoration", "pairs_folder", "nuclei_folder", ("label images", "grey values")),
        ("translation", "pairs_folder", "nuclei_folder", ("label images", "grey values")),
    ],
)
def test_a_dataset_of_another_kind_is_refused(
    run_job: Any,
    s3: Any,
    request: pytest.FixtureRequest,
    method: str,
    learnt_from: str,
    judged_by: str,
    words: tuple[str, ...],
) -> None:
    store = s3.store()
    model = publish_model(store, "of-a-kind", publish_dataset(store, "kind", request.getfixturevalue(learnt_from)))
    folder = request.getfixturevalue(judged_by)
    job = run_job(request_of(store, method, folder, folder / "test" / "target", model))
    assert job.state == v1.JOB_STATE_FAILED
    assert job.error.reason == "INVALID_INPUT"
    assert mentions(job.error.text, *words)
    assert not store.folders(Location.parse(model) / "qc")


def test_dim_images_of_few_grey_values_are_no_labels(run_job: Any, s3: Any, pairs_folder: Path, tmp_path: Path) -> None:
    """Where the images of the training look the same, the targets are what they are taken for."""
    folder, store = tmp_path / "dim", s3.store()
    shutil.copytree(pairs_folder, folder)
    for path in folder.glob("*/target/*.tif"):
        image = read_image(path)
        pixels = np.arange(image.pixels.shape[1]) // 16 + np.zeros(image.pixels.shape)
        write_image(path, Image(pixels.astype(np.uint8), "YX", image.pixel_size))
    model = publish_model(store, "dim", publish_dataset(store, "dim", folder))
    job = run_job(request_of(store, "restoration", folder, folder / "test" / "target", model))
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text


def request_of(store: Any, method: str, folder: Path, predicted: Path, model: str) -> v1.StartJobRequest:
    """Return a request to judge predictions by the test images of a folder."""
    spec = v1.EvaluationSpec(
        method=method,
        dataset_uri=publish_dataset(store, "judging", folder),
        prediction_uri=publish_images(store, predicted),
        split="test",
        model_uri=model,
    )
    return v1.StartJobRequest(evaluation=spec)
