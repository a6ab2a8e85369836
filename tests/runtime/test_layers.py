"""Which images published datasets and results have to show."""

from __future__ import annotations

import pytest

from parfocal.runtime.datasets.layers import layers_of_dataset, layers_of_result
from parfocal.runtime.errors import NotFoundError
from parfocal.runtime.store.manifests import DatasetManifest, FileEntry, ImageEntry, ResultFile, ResultManifest
from parfocal.runtime.store.store import Location

PLACE = Location("bucket", "project/name/1")


def entries(*names: str) -> tuple[FileEntry, ...]:
    return tuple(FileEntry(name=name, size=1, sha256=f"{index:064x}") for index, name in enumerate(names))


def result(kind: str, files: tuple[FileEntry, ...], *images: ResultFile) -> ResultManifest:
    return ResultManifest(project="p", job="j", service="s", method="m", kind=kind, files=files, images=images)


def test_a_dataset_shows_each_field_of_view_with_its_roles_and_knows_labels() -> None:
    names = ("train/source/a.tif", "train/target/a.tif", "train/target_class/a.tif", "test/source/a.tif")
    images = tuple(
        ImageEntry(split=split, role=role, stem="a", file=name, shape=(4, 4), dtype="uint16", axes="YX")
        for name in names
        for split, role, _ in (name.split("/"),)
    )
    dataset = DatasetManifest(
        project="p", dataset="d", version=1, kind="labels", images=images, files=entries(*names, "unlisted.tif")
    )
    layers = layers_of_dataset(PLACE, dataset)
    assert {image: {name: layer.labels for name, layer in found.items()} for image, found in layers.images.items()} == {
        "train:a": {"source": False, "target": True, "target_class": True},
        "test:a": {"source": False},
    }
    assert layers.find("test:a", "source").entry.name == "test/source/a.tif"
    with pytest.raises(NotFoundError, match="no layer 'target'; it has source"):
        layers.find("test:a", "target")
    with pytest.raises(NotFoundError, match="no image 'a'"):
        layers.find("a", "source")


def test_a_prediction_shows_its_outputs_that_are_images() -> None:
    names = ("a0001/b.tif", "a0001/probability/b.tif", "a0001/objects/b.csv", "a0001/overlay/b.png", "a0001/run.csv")
    kinds = {"prediction": names[0], "probability": names[1], "objects": names[2], "overlay": names[3]}
    made = ResultFile(input="b.tif", input_sha256="", outputs=kinds)
    failed = ResultFile(input="c.tif", input_sha256="", reason="it is damaged")
    layers = layers_of_result(PLACE, result("prediction", entries(*names), made, failed))
    assert {name: layer.labels for name, layer in layers.images["b.tif"].items()} == {
        "prediction": True,
        "probability": False,
    }
    assert list(layers.images) == ["b.tif"]
    restored = ResultFile(input="b.tif", input_sha256="", outputs={"prediction": names[0]})
    assert (
        not layers_of_result(PLACE, result("prediction", entries(names[0]), restored))
        .find("b.tif", "prediction")
        .labels
    )


def test_an_evaluation_shows_its_maps_of_one_target_or_of_several() -> None:
    names = (
        "a0001/maps/prediction/rse/f1.tif",
        "a0001/maps/input/rse/f1.tif",
        "a0001/maps/prediction/rse/target_DAPI/f1.tif",
        "a0001/figure.png",
    )
    files = entries(*names)
    elsewhere = {"prediction": "s3://results/p/other"}
    single = ResultFile(input="f1", input_sha256="", outputs=elsewhere)
    several = ResultFile(input="target_DAPI/f1", input_sha256="", outputs=elsewhere)
    layers = layers_of_result(PLACE, result("evaluation", files, single, several))
    assert {"maps.prediction.rse", "maps.input.rse"} <= set(layers.images["f1"])
    assert layers.find("target_DAPI:f1", "maps.prediction.rse").entry == files[2]
