"""Classes of objects: targets and files as stardist makes them, and objects that keep their class to the end."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roifile
from learner_suite import LearnerSuite, images_of, prepared, view_of
from stardist import Rays_GoldenSpiral
from stardist.models import StarDist2D as OriginalStarDist2D
from stardist.models.model2d import StarDistData2D
from stardist.models.model3d import StarDistData3D

from parfocal.runtime.datasets.classes import object_classes
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import Image
from parfocal.runtime.prediction.loaded_model import LoadedModel, load_model, predict_image
from parfocal.runtime.prediction.tiling import Tiling
from parfocal.runtime.store.facts import Facts, Port
from parfocal.runtime.store.manifests import DatasetManifest, ImageEntry, ModelManifest
from parfocal.stardist import STARDIST_2D, STARDIST_3D
from parfocal.stardist.importing import import_model
from parfocal.stardist.network import StarDist2D, StarDist3D
from parfocal.stardist.parameters import (
    StarDist2DParameters,
    StarDist3DParameters,
    StarDistPredictionParameters,
    check_dataset,
)

# Keras' own way of saving.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
CLASSES = Facts(targets=(Port(role="target", kind="labels"), Port(role="target_class", kind="classes", classes=2)))
TINY: dict[str, Any] = {
    "network_depth": 2,
    "first_filters": 8,
    "patch_size": 64,
    "rays": 16,
    "learning_rate": 0.003,
    "classes": 2,
    "precision": "float32",
}
SMALL: dict[str, Any] = {"patch_size": 32, "patch_depth": 16, "rays": 32, "first_filters": 8, "learning_rate": 0.003}
ROUND, LONG = 1, 2
STEP = 40


def cells(seed: int, rows: int, columns: int) -> tuple[Any, Any, Any]:
    """Return labels, class image and picture of bright discs (class 1) and dim ellipses (class 2)."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((rows * STEP, columns * STEP))
    labels, drawn = np.zeros(y.shape, np.uint16), np.zeros(y.shape, np.uint8)
    for number, (row, column) in enumerate(np.ndindex(rows, columns), start=1):
        kind = ROUND if rng.random() < 0.5 else LONG
        long, short = (9, 9) if kind == ROUND else (15, 5.4)
        angle = rng.uniform(0, np.pi)
        dy, dx = (y - row * STEP - STEP // 2 - rng.integers(-3, 4), x - column * STEP - STEP // 2 - rng.integers(-3, 4))
        along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
        inside = (along / long) ** 2 + (across / short) ** 2 <= 1
        labels[inside], drawn[inside] = number, kind
    bright = np.array([0, 1, 0.6])[drawn]
    return labels, drawn, (bright + rng.normal(0, 0.1, y.shape)).astype(np.float32)


def class_of(labels: Any, drawn: Any) -> dict[int, int | None]:
    """Return the class of each label as stardist wants it: None where it is not known."""
    known = object_classes(labels, drawn, 2).tolist()
    return {label: known[label] or None for label in range(1, len(known))}


def with_unknown(labels: Any, drawn: Any) -> tuple[Any, Any]:
    """Return the images with an object of unknown class and one that counts for nothing."""
    drawn = np.where(labels == 2, 0, drawn)
    return np.where(labels == 3, -1, labels.astype(np.int32)), drawn


@pytest.mark.parametrize("grid", [1, 2, 4])
def test_targets_are_those_of_stardist(grid: int) -> None:
    labels, drawn, image = cells(3, 2, 2)
    labels, drawn = with_unknown(labels, drawn)
    targets = np.stack([labels, drawn], axis=-1)[np.newaxis, :64, :64]
    ours = prepared(StarDist2D(), image[np.newaxis], targets, StarDist2DParameters(**TINY, grid=grid), CLASSES).targets
    cut = labels[:64, :64]
    data = StarDistData2D(
        [image[:64, :64]],
        [cut],
        batch_size=1,
        n_rays=16,
        length=1,
        n_classes=2,
        classes=[class_of(labels, drawn)],
        patch_size=(64, 64),
        grid=(grid, grid),
    )
    _, theirs = data[0]
    assert len(ours) == len(theirs) == 3
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, other)
    assert {-1.0, 0.0, 1.0} == set(np.unique(ours[2]).tolist())


@pytest.mark.parametrize("grid", [1, 2])
def test_targets_of_volumes_are_those_of_stardist(grid: int) -> None:
    z, y, x = np.indices((16, 32, 32))
    labels = np.zeros(z.shape, np.int32)
    for number, centre in enumerate([(4, 9, 9), (10, 22, 20), (11, 8, 24)], start=1):
        labels[(2 * (z - centre[0])) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 <= 36] = number
    drawn = np.array([0, 2, 0, 1], np.uint8)[labels]
    parameters = StarDist3DParameters(**SMALL, grid=grid, anisotropy=2, classes=2)
    targets = np.stack([labels, drawn], axis=-1)[np.newaxis]
    ours = prepared(StarDist3D(), targets, targets, parameters, CLASSES).targets
    data = StarDistData3D(
        [labels.astype(np.float32)],
        [labels],
        1,
        Rays_GoldenSpiral(32, anisotropy=(2, 1, 1)),
        1,
        n_classes=2,
        classes=[class_of(labels, drawn)],
        patch_size=(16, 32, 32),
        grid=(1, grid, grid),
        anisotropy=(2, 1, 1),
    )
    _, theirs = data[0]
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-6)


def test_objects_of_unknown_class_do_not_change_the_loss_of_classes() -> None:
    parameters = StarDist2DParameters(**TINY, seed=1)
    implementation = StarDist2D()
    learner = implementation.build(parameters, CLASSES)
    labels, drawn, image = (each[np.newaxis, :64, :64] for each in cells(0, 2, 2))

    def loss(drawn: Any) -> float:
        targets = np.stack([labels, drawn], axis=-1)
        batch = prepared(implementation, image[..., np.newaxis], targets, parameters, CLASSES)
        return float(learner.validate_batch(batch)["loss"])

    # All classes count alike and a new network knows nothing, so what is left out makes the sum smaller.
    assert loss(np.where(labels == 1, 0, drawn)) < loss(drawn)
    assert loss(np.zeros_like(drawn)) < loss(np.where(labels == 1, 0, drawn))


@pytest.mark.parametrize(
    ("kind", "parameters", "extra"),
    [
        (StarDist2D, StarDist2DParameters(), 3 * 129 + 32 * 9 * 128 + 128),
        (StarDist3D, StarDist3DParameters(anisotropy=1), 3 * 129 + 32 * 27 * 128 + 128),
    ],
)
def test_classes_add_a_head_to_the_network_and_nothing_else(kind: Any, parameters: Any, extra: int) -> None:
    def size(parameters: Any, facts: Facts) -> int:
        return sum(array.size for array in kind().build(parameters, facts).weights().values())

    assert size(parameters.model_copy(update={"classes": 2}), CLASSES) - size(parameters, Facts()) == extra


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A small network that knows discs from ellipses, and the folder it was saved to."""
    implementation, parameters = StarDist2D(), StarDist2DParameters(**TINY)
    learner = implementation.build(parameters, CLASSES)
    for seed in range(0, 440, 2):
        left, right = cells(seed, 2, 4), cells(seed + 1, 2, 4)
        labels, drawn, image = (
            np.stack([each[:64, start : start + 64] for each in pair for start in (0, 64)])
            for pair in zip(left, right, strict=True)
        )
        targets = np.stack([labels, drawn], axis=-1)
        learner.train_batch(prepared(implementation, image[..., np.newaxis], targets, parameters, CLASSES))
    folder = tmp_path_factory.mktemp("model") / "cells"
    folder.mkdir()
    labels, _, image = cells(1000, 6, 6)
    facts = implementation.calibrate(learner, images_of((image, labels)), parameters, CLASSES)
    implementation.save(folder, parameters, facts, {"best": learner.weights()})
    return implementation.load(folder, view_of(parameters, facts), "best"), folder


def loaded(learner: Any) -> LoadedModel:
    return LoadedModel(
        method=STARDIST_2D,
        manifest=ModelManifest.model_construct(),
        view=view_of(StarDist2DParameters(**TINY), CLASSES, "none"),  # the network was trained on these very values
        implementation=StarDist2D(),
        learner=learner,
    )


def agreement(labels: Any, drawn: Any, found: Any) -> tuple[int, int, int]:
    """Return objects, those found (their middle lies in a found one), and those found with their class."""
    known = object_classes(labels, drawn, 2)
    there = right = 0
    for label in range(1, len(known)):
        middle = tuple(int(np.median(places)) for places in np.nonzero(labels == label))
        if number := int(found.labels[middle]):
            there += 1
            right += int(found.classes[number - 1] == known[label])
    return len(known) - 1, there, right


def test_a_trained_network_tells_classes_apart_whole_and_in_tiles(trained: Any) -> None:
    learner, _ = trained
    labels, drawn, image = cells(2000, 8, 8)
    parameters = StarDistPredictionParameters()
    whole, tiled = (StarDist2D().find_objects(learner, image, parameters, Tiling(edge**2)) for edge in (512, 100))
    objects, there, right = agreement(labels, drawn, whole)
    assert there >= 0.75 * objects
    assert right >= 0.9 * there
    assert whole.class_probability is not None
    assert whole.class_probability.shape == (len(whole.probability), 3)
    np.testing.assert_allclose(whole.class_probability.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(tiled.labels, whole.labels)
    np.testing.assert_array_equal(tiled.classes, whole.classes)


def test_a_stack_has_classes_in_its_image_table_and_regions(trained: Any, tmp_path: Path) -> None:
    learner, _ = trained
    frames = [cells(seed, 2, 3)[2] for seed in (2001, 2002)] + [np.zeros((2 * STEP, 3 * STEP), np.float32)]
    stack = Image(np.stack(frames), "TYX")
    together = predict_image(loaded(learner), stack, StarDistPredictionParameters(), tmp_path, "a").finish()
    classes, labels = together.images["target_class"], together.images["prediction"].pixels
    assert (classes.axes, classes.pixels.dtype, classes.pixels.shape) == ("TYX", np.uint8, labels.shape)
    assert not classes.pixels[labels == 0].any()
    names = together.files
    with (tmp_path / names["objects"]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == together.counts["objects"] == together.counts["class_1"] + together.counts["class_2"] > 6
    assert {row["class"] for row in rows} == {"1", "2"}
    for row in rows:
        found = classes.pixels[int(row["plane"])][labels[int(row["plane"])] == int(row["label"])]
        assert set(found.tolist()) == {int(row["class"])}
        assert 1 / 3 < float(row["class_probability"]) <= 1
    groups = [roi.group for roi in roifile.roiread(tmp_path / names["rois"])]
    assert groups == [int(row["class"]) for row in rows]
    with (tmp_path / names["trackmate"]).open(newline="") as file:
        assert next(csv.reader(file)) == ["frame", "id", "name", "x", "y", "z", "radius", "quality"]


def test_images_without_objects_have_no_classes(trained: Any, tmp_path: Path) -> None:
    learner, _ = trained
    image = Image(np.zeros((70, 90), np.float32), "YX")
    empty = predict_image(loaded(learner), image, StarDistPredictionParameters(), tmp_path, "a").finish()
    assert not empty.images["target_class"].pixels.any()
    assert (tmp_path / empty.files["objects"]).read_text().splitlines() == [
        "plane,label,y_px,x_px,area_px,probability,class,class_probability,"
        "intensity_mean,intensity_min,intensity_max,intensity_integrated,"
        "perimeter_px,major_axis_px,minor_axis_px,eccentricity,solidity"
    ]


def test_the_saved_folder_opens_in_stardist_and_comes_back_by_import(trained: Any, tmp_path: Path) -> None:
    learner, folder = trained
    _, _, image = cells(2003, 2, 3)
    original = OriginalStarDist2D(None, folder.name, str(folder.parent))
    labels, details = original.predict_instances(image)
    found = StarDist2D().find_objects(learner, image, StarDistPredictionParameters(), Tiling(512**2))
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.classes, details["class_id"])
    np.testing.assert_allclose(found.class_probability, details["class_prob"], rtol=1e-5)
    contents = import_model(STARDIST_2D, folder, tmp_path)
    assert contents["parameters"]["classes"] == 2
    places = {"project": "p", "model": "m", "version": 1, "service": "stardist", "job": "", "dataset_uri": ""}
    manifest = ModelManifest.model_validate({**contents, **places})
    again = load_model(STARDIST_2D, manifest, tmp_path, weights="best")
    assert again.view.facts.targets == CLASSES.targets
    imported = again.implementation.find_objects(again.learner, image, StarDistPredictionParameters(), Tiling(512**2))
    np.testing.assert_array_equal(imported.classes, details["class_id"])


def test_the_configuration_without_classes_has_none(tmp_path: Path) -> None:
    parameters = StarDist2DParameters(**TINY | {"classes": 0})
    learner = StarDist2D().build(parameters, Facts())
    StarDist2D().save(tmp_path, parameters, Facts(), {"best": learner.weights()})
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["n_classes"], config["train_loss_weights"]) == (None, [1, 0.2])


def dataset(**dtypes: str) -> DatasetManifest:
    return DatasetManifest(
        project="p",
        dataset="d",
        version=1,
        images=tuple(
            ImageEntry(
                split="train",
                role=role,
                stem="a",
                file=f"train/{role}/a.tif",
                shape=(512, 512),
                dtype=dtype,
                axes="YX",
            )
            for role, dtype in dtypes.items()
        ),
    )


def test_a_dataset_without_class_images_is_refused_before_the_job() -> None:
    parameters = StarDist2DParameters(classes=2)
    with pytest.raises(InvalidInputError, match=r"no class images.*train/target_class.*classes to 0"):
        parameters.roles(dataset(source="uint8", target="uint16"))


def test_class_images_of_broken_numbers_are_refused_by_name() -> None:
    images = dataset(source="uint8", target="uint16", target_class="float32")
    check_dataset(StarDist2DParameters(), images)
    with pytest.raises(InvalidInputError, match=r"train/target_class/a\.tif.*class images"):
        check_dataset(StarDist2DParameters(classes=2), images)


class TestStarDist2DWithClasses(LearnerSuite):
    path = "parfocal.stardist.network:StarDist2D"
    parameters = StarDist2DParameters(**TINY)
    other = StarDist2DParameters(**TINY, seed=9)
    larger = StarDist2DParameters(**TINY | {"classes": 3})
    channels = CLASSES
    patch = (64, 64)
    weights_suffix = ".h5"

    def target_of(self, inputs: Any) -> Any:
        labels, drawn, _ = cells(0, 2, 2)
        both = np.stack([labels, drawn], axis=-1)[:64, :64]
        return np.broadcast_to(both, (len(inputs), *both.shape))


def test_a_trained_network_tells_classes_apart_in_volumes(tmp_path: Path) -> None:
    z, y, x = np.indices((16, 32, 64))
    labels = np.zeros(z.shape, np.uint16)
    sizes = (5, 5, 8, 8)
    for number, (centre, size) in enumerate(zip((10, 24, 40, 56), sizes, strict=True), start=1):
        labels[(2 * (z - 8)) ** 2 + (y - 16) ** 2 + (x - centre) ** 2 <= size**2] = number
    drawn = np.array([0, 1, 1, 2, 2], np.uint8)[labels]
    image = ((labels > 0) + np.random.default_rng(0).normal(0, 0.05, z.shape)).astype(np.float32)
    implementation = STARDIST_3D.load()
    parameters = StarDist3DParameters(**SMALL, anisotropy=2, classes=2)
    learner = implementation.build(parameters, CLASSES)
    targets = np.stack([labels, drawn], axis=-1)[np.newaxis]
    batch = prepared(implementation, image[np.newaxis, ..., np.newaxis], targets, parameters, CLASSES)
    for _ in range(120):
        learner.train_batch(batch)
    facts = implementation.calibrate(learner, images_of((image, labels)), parameters, CLASSES)
    implementation.save(tmp_path, parameters, facts, {"best": learner.weights()})
    best = implementation.load(tmp_path, view_of(parameters, facts, axes="ZYX"), "best")
    found = implementation.find_objects(best, image, StarDistPredictionParameters(), Tiling(512**3))
    assert agreement(labels, drawn, found) == (4, 4, 4)
