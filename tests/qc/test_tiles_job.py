"""Tiles as a job: a real QC service and a real store; every pixel of every level 0 is that of the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import nuclei_pair, publish_dataset, publish_images, publish_kind, write_pairs

from parfocal import v1
from parfocal.runtime.datasets.layers import Layer, layers_at
from parfocal.runtime.images.files import Image, PixelSize, read_image, write_image
from parfocal.runtime.images.pyramid import INFO, THUMBNAIL, decode_tile, tile_shape
from parfocal.runtime.store.store import Location, Store


def shown(store: Store, layer: Layer, z: int = 0) -> NDArray[Any]:
    """Put level 0 of a plane together from the store, by its description alone."""
    info = json.loads(store.read(store.derived / layer.digest / INFO))
    height, width = info["levels"][0]

    def tile(row: int, column: int) -> NDArray[Any]:
        shape = tile_shape(height, width, 0, row, column)
        assert shape is not None
        return decode_tile(
            store.read(store.derived / layer.digest / f"0/0/0/{z}/{row}/{column}"), shape, info["tile_dtype"]
        )

    return np.block([[tile(row, column) for column in range(-(-width // 512))] for row in range(-(-height // 512))])


def test_a_dataset_and_a_result_are_cut_and_an_unreadable_image_is_named(run_job: Any, s3: Any, tmp_path: Path) -> None:
    store = s3.store()
    folder = write_pairs(tmp_path / "nuclei", nuclei_pair, (520, 600))
    dataset = publish_kind(store, "tiled", folder, "labels")
    predicted = tmp_path / "predicted"
    predicted.mkdir()
    volume = np.random.default_rng(0).normal(size=(3, 40, 50)).astype(np.float32)
    write_image(predicted / "stack.tif", Image(volume, "ZYX", PixelSize(0.1, 0.1, 0.3)))
    (predicted / "broken.tif").write_bytes((predicted / "stack.tif").read_bytes()[:5000])
    result = publish_images(store, predicted)
    request = v1.StartJobRequest(derivation=v1.DerivationSpec(method="tiles", input_uris=[dataset, result]))
    job = run_job(request)
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    assert len(job.warnings) == 1
    assert "broken.tif" in job.warnings[0]
    layers = layers_at(store, Location.parse(dataset))
    for layer in layers.all():
        split, _, stem = layer.image.partition(":")
        assert np.array_equal(shown(store, layer), read_image(folder / split / layer.name / f"{stem}.tif").pixels)
        assert store.read(store.derived / layer.digest / THUMBNAIL).startswith(b"\x89PNG")
    kinds = {layer.name: json.loads(store.read(store.derived / layer.digest / INFO))["kind"] for layer in layers.all()}
    assert kinds == {"source": "intensities", "target": "labels"}
    made = layers_at(store, Location.parse(result)).images
    assert np.array_equal(shown(store, made["stack.tif"]["prediction"], z=2), volume[2])
    broken = json.loads(store.read(store.derived / made["broken.tif"]["prediction"].digest / INFO))
    assert broken["state"] == "failed"
    assert "truncated" in broken["reason"]


def test_tiles_are_made_once_unless_all_are_wanted_again(run_job: Any, s3: Any, tmp_path: Path) -> None:
    store = s3.store()
    dataset = publish_dataset(store, "again", write_pairs(tmp_path / "again", nuclei_pair, (40, 50)))
    layer = layers_at(store, Location.parse(dataset)).all()[0]
    place = store.derived / layer.digest / "0/0/0/0/0/0"

    def derive(**parameters: Any) -> None:
        spec = v1.DerivationSpec(method="tiles", input_uris=[dataset])
        spec.parameters.update(parameters)
        assert run_job(v1.StartJobRequest(derivation=spec)).state == v1.JOB_STATE_SUCCEEDED

    derive()
    store.delete(place)
    derive()
    assert not store.exists(place)
    derive(again=True)
    assert store.exists(place)


@pytest.mark.parametrize("uris", [[], ["s3://parfocal-datasets/default/none/1"], ["nowhere"]], ids=str)
def test_a_request_without_anything_published_is_refused(jobs: v1.JobServiceStub, uris: list[str]) -> None:
    import grpc

    with pytest.raises(grpc.RpcError) as caught:
        jobs.StartJob(v1.StartJobRequest(derivation=v1.DerivationSpec(method="tiles", input_uris=uris)))
    assert caught.value.code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
