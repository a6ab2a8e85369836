"""Residual QC as a job: inputs found through the prediction, in a plain folder and in a dataset."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from support import mentions, publish_dataset, read_published

from parfocal import v1
from parfocal.runtime.errors import NotFoundError
from parfocal.runtime.images.files import Image, PixelSize, read_image, write_image
from parfocal.runtime.rpc_errors import from_rpc_error
from parfocal.runtime.store.manifests import RESULT_MANIFEST, ResultFile, ResultManifest
from parfocal.runtime.store.names import result_location
from parfocal.runtime.store.publish import folder_files, publish, upload_files
from parfocal.runtime.store.store import Location

Judge = Callable[..., v1.Job]


@pytest.fixture(scope="module")
def judge(run_job: Any, s3: Any, pairs_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """Judge the sources or targets of the test images, changed by a function, as if a model had predicted them."""
    store = s3.store()
    dataset = publish_dataset(store, "residuals", pairs_folder)

    def run(
        role: str,
        change: Callable[[Any], Any] = np.asarray,
        *,
        plain: bool = False,
        unlike: bool = False,
        black: str = "",
        axes: str = "YX",
    ) -> v1.Job:
        folder = tmp_path_factory.mktemp("predicted")
        for path in (pairs_folder / "test" / role).iterdir():
            pixels = change(read_image(path).pixels)
            write_image(folder / path.name, Image(pixels.reshape(_shape(pixels, axes)), axes, None))
        place = result_location(store, "default", folder.name)
        files = upload_files(store, place, folder_files(folder))
        uri = dataset
        if plain:
            uri = str(place / "inputs")
            inputs = tmp_path_factory.mktemp("inputs")
            for path in (pairs_folder / "test" / "source").iterdir():
                pixels = read_image(path).pixels
                pixels = np.zeros_like(pixels) if path.stem in black else pixels
                write_image(inputs / path.name, Image(pixels.reshape(_shape(pixels, axes)), axes, PixelSize(0.2, 0.3)))
            upload_files(store, place / "inputs", folder_files(inputs))
        manifest = ResultManifest(
            project="default",
            job="none",
            service="test",
            method="test",
            kind="prediction",
            input_uri=uri,
            split="" if plain else "test",
            files=files,
            images=(ResultFile(input="field1.tif", input_sha256="0", drift=("it is noisier",) if unlike else ()),),
        )
        spec = v1.EvaluationSpec(method="residuals", prediction_uri=publish(store, place, RESULT_MANIFEST, manifest))
        return run_job(v1.StartJobRequest(evaluation=spec))

    return run


def _shape(pixels: Any, axes: str) -> tuple[int, ...]:
    """Return the shape in which the rows of an image are cut into two planes for each axis besides Y and X."""
    stacked = (2,) * (len(axes) - 2)
    return (*stacked, pixels.shape[0] // 2 ** len(stacked), pixels.shape[1])


def read(job: v1.Job, s3: Any) -> tuple[ResultManifest, dict[str, Any]]:
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    place, store = Location.parse(job.outputs[0].uri), s3.store()
    return ResultManifest.read(store, place / RESULT_MANIFEST), json.loads(
        read_published(store, str(place), "summary.json")
    )


@pytest.mark.parametrize("plain", [True, False], ids=["folder", "dataset"])
def test_targets_in_the_place_of_predictions_pass(judge: Judge, s3: Any, plain: bool) -> None:
    result, summary = read(judge("target", plain=plain), s3)
    names = {entry.public_name for entry in result.files}
    assert {"report.pdf", "report.html", "figure.png", "metrics.csv", "maps/deviation/field0.tif"} <= names
    assert result.verdict["state"] == "passed", result.verdict["reasons"]
    assert summary["metrics"]["prediction"]["agreement"]["mean"] > 0.99
    assert summary["baseline"]["sigma_pixels"] > 0
    assert len(result.images) == 3


def test_what_was_blurred_away_fails(judge: Judge, s3: Any) -> None:
    result, summary = read(judge("source", lambda pixels: gaussian_filter(pixels.astype(np.float32), 6)), s3)
    assert result.verdict["state"] == "failed"
    assert summary["metrics"]["prediction"]["structure"]["mean"] > 1.5


def test_the_input_itself_fails_for_its_noise(judge: Judge, s3: Any) -> None:
    result, _ = read(judge("source"), s3)
    assert mentions(" ".join(result.verdict["reasons"]), "100 %", "noise", "left")


@pytest.mark.parametrize("axes", ["TYX", "TZYX"])
def test_maps_have_the_axes_and_the_pixel_size_of_their_image(judge: Judge, s3: Any, tmp_path: Path, axes: str) -> None:
    job = judge("target", plain=True, axes=axes)
    read(job, s3)
    (tmp_path / "map.tif").write_bytes(read_published(s3.store(), job.outputs[0].uri, "maps/residual/field0.tif"))
    image = read_image(tmp_path / "map.tif")
    assert image.axes == axes
    assert image.pixel_size is not None
    assert (image.pixel_size.x, image.pixel_size.y) == pytest.approx((0.2, 0.3))


def test_images_unlike_the_training_are_named(judge: Judge, s3: Any) -> None:
    result, _ = read(judge("target", unlike=True), s3)
    assert any(mentions(remark, "1 image ", "unlike", ": field1.") for remark in result.verdict["remarks"])


@pytest.mark.parametrize("field", ["dataset_uri", "model_uri"])
def test_what_would_not_be_looked_at_is_refused(run_job: Any, field: str) -> None:
    spec = v1.EvaluationSpec(
        method="residuals", prediction_uri="s3://parfocal-results/default/none", **{field: "s3://a/b"}
    )
    with pytest.raises(grpc.RpcError) as caught:
        run_job(v1.StartJobRequest(evaluation=spec))
    assert [each.field for each in from_rpc_error(caught.value, "").violations] == [f"evaluation.{field}"]


def test_a_prediction_that_is_not_there_is_not_found(run_job: Any) -> None:
    spec = v1.EvaluationSpec(method="residuals", prediction_uri="s3://parfocal-results/default/none")
    with pytest.raises(grpc.RpcError) as caught:
        run_job(v1.StartJobRequest(evaluation=spec))
    assert isinstance(from_rpc_error(caught.value, ""), NotFoundError)


def test_images_without_noise_are_left_out_by_name(judge: Judge, s3: Any) -> None:
    job = judge("target", plain=True, black="field1")
    result, summary = read(job, s3)
    assert summary["images"] == 2
    assert any(mentions(warning, "field1: ", "no noise") for warning in result.warnings)
    assert any(mentions(remark, "1 of 3 images", "judged", "field1 (no noise)") for remark in result.verdict["remarks"])
    nothing = judge("target", plain=True, black="field0 field1 field2")
    assert nothing.state == v1.JOB_STATE_FAILED
    assert "contrast" in nothing.error.text


def test_one_prediction_that_cannot_be_scored_is_a_failed_image(judge: Judge, s3: Any) -> None:
    changes = iter([lambda pixels: np.where(np.arange(pixels.shape[1]) < 3, np.inf, pixels), np.asarray, np.asarray])
    result, summary = read(judge("target", lambda pixels: next(changes)(pixels).astype(np.float32)), s3)
    assert result.verdict["state"] == "failed"
    (bad,) = summary["unscorable"]
    reason = result.verdict["reasons"][0]
    assert mentions(reason, "1 of 3 predictions", "scored", f"prediction {bad} has ")
    assert "NaN, infinite" in reason
    assert summary["images"] == 2
    assert summary["metrics"]["prediction"]["agreement"]["mean"] > 0.99
    assert [image.input for image in result.images if image.reason] == [bad]
    assert any(warning.startswith(f"The prediction of {bad} was not scored. ") for warning in result.warnings)
