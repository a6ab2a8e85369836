"""Images in colour through real jobs: trained on, predicted in both directions, and given back at their size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from contract_session import Session, single_image, struct
from example_data import save
from support import filament_pair, publish_kind, read_published

from parfocal import v1
from parfocal.runtime.images.files import read_image
from parfocal.runtime.store.manifests import MODEL_MANIFEST, ModelManifest
from parfocal.runtime.store.store import Location

SHAPE = (50, 70)


@pytest.fixture(scope="module")
def channel(start_service: Any) -> Iterator[grpc.Channel]:
    process = start_service("gan")
    with grpc.insecure_channel(process.address) as channel:
        yield channel
    process.stop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Filaments as a camera of 16 bits sees them, and in false colours of 8 bits."""
    folder, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    for split, count in (("train", 5), ("test", 2)):
        for number in range(count):
            source, target = filament_pair(rng, SHAPE)
            scaled = (target - target.min()) / (target.max() - target.min())
            colours = np.stack([255 * scaled, 200 * scaled**2, 100 * (1 - scaled)], axis=-1).astype(np.uint8)
            save(folder / split / "source" / f"field{number}.tif", source)
            save(folder / split / "target" / f"field{number}.tif", colours, "YXS")
    return folder


@pytest.mark.parametrize("method", ["pix2pix", "cyclegan"])
def test_images_in_colour_are_trained_on_and_predicted(
    method: str, channel: grpc.Channel, folder: Path, s3: Any, tmp_path: Path
) -> None:
    session, store = Session(None, method, channel), s3.store()
    kind = "paired" if method == "pix2pix" else "unpaired"
    dataset = publish_kind(store, f"colours-{method}", folder, kind)
    job = session.train(dataset)
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    # Kinds of image with different channels have no identity.
    assert any("identity_weight" in warning for warning in job.warnings) == (method == "cyclegan")
    model = ModelManifest.read(store, Location.parse(job.outputs[0].uri) / MODEL_MANIFEST)
    score = "ssim" if method == "pix2pix" else "distance"
    assert model.weights["best"].metric == score
    assert model.metrics[score] == model.weights["best"].value
    asked = {"direction": "target-to-source"} if method == "cyclegan" else {}
    for parameters, role, axes in (({}, "source", "YXS"), (asked, "target", "YX")):
        if not parameters and role == "target":
            continue
        spec = v1.PredictionSpec(
            model_uri=model_uri(job), input_uri=dataset, split="test",
            parameters=struct({"output_dtype": "like-input", **parameters}),
        )  # fmt: skip
        done = session.finish(session.jobs.StartJob(v1.StartJobRequest(prediction=spec)).job)
        assert done.state == v1.JOB_STATE_SUCCEEDED, done.error.text
        (tmp_path / "made.tif").write_bytes(read_published(store, done.outputs[0].uri, "field1.tif"))
        made, original = (read_image(path) for path in (tmp_path / "made.tif", folder / "test" / role / "field1.tif"))
        assert made.axes == axes
        assert made.pixels.shape == (*SHAPE, 3)[: len(axes)]
        assert made.pixels.dtype == original.pixels.dtype
        assert made.pixels.std() > 0


def model_uri(job: v1.Job) -> str:
    return str(job.outputs[0].uri)


def test_a_single_image_of_other_channels_is_refused(channel: grpc.Channel, folder: Path, s3: Any) -> None:
    session, store = Session(None, "pix2pix", channel), s3.store()
    job = session.train(publish_kind(store, "colours-single", folder, "paired"), epochs=1)
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    source = read_image(folder / "test" / "source" / "field0.tif").pixels
    made = single_image(session, model_uri(job), source)["prediction"]
    assert (made.shape, made.dtype) == ((*SHAPE, 3), np.float32)
    colours = read_image(folder / "test" / "target" / "field0.tif").pixels
    with pytest.raises(grpc.RpcError) as caught:
        single_image(session, model_uri(job), colours, "YXS")
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
