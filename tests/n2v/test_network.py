"""Noise2Void against its publications and against n2v itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_data import save
from learner_suite import (
    ImageLearnerSuite,
    assert_dropout_follows_from_seed_and_epoch,
    batch_of,
    prepared,
    view_of,
)
from scipy import ndimage
from support import filament_pair

from parfocal.n2v import N2V_2D
from parfocal.n2v.parameters import Noise2Void2DParameters, Noise2Void3DParameters, NoisePredictionParameters
from parfocal.runtime.datasets.folder import check_folder
from parfocal.runtime.datasets.view import FolderView
from parfocal.runtime.methods.implementation import ModelView
from parfocal.runtime.store.facts import Facts, Port
from parfocal.runtime.store.manifests import ModelManifest

# Keras 2 draws its seeds with numbers that are not whole.
pytestmark = pytest.mark.filterwarnings("ignore:non-integer arguments to randrange:DeprecationWarning")

GREY = Facts(inputs=(Port(role="source"),), targets=())
COLOUR = Facts(inputs=(Port(role="source", channels=3, channel_axis="C"),), targets=())
TINY: dict[str, Any] = {"first_filters": 4, "patch_size": 32, "precision": "float32", "masked_percent": 2.0}


@pytest.fixture(scope="module")
def n2v_2d() -> Any:
    from parfocal.n2v.network import Noise2Void2D

    return Noise2Void2D()


def view_of_folder(folder: Path, warnings: list[str], axes: str = "YX") -> FolderView:
    """Return a folder of images without targets as a training sees it."""
    report = check_folder(folder, kind="sources", axes=axes)
    place = folder / "copy"
    entries = []
    for item in report.items():
        (place / item.file).parent.mkdir(parents=True, exist_ok=True)
        entries.append(item.write(place / item.file))
    manifest = report.manifest((), entries, project="p", dataset="d", version=1)
    return FolderView(
        manifest=manifest, axes="YX", minimum_images=1, scratch=folder / "scratch", folder=place, warn=warnings.append
    )


def count(learner: Any) -> int:
    return sum(array.size for array in learner.weights().values())


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, 288_577),
        ({"variant": "n2v2"}, 326_465),
        ({"variant": "structn2v"}, 288_577),
        ({"kernel_size": 5}, 796_993),
        ({"network_depth": 3}, 1_047_009),
    ],
)
def test_the_network_has_the_number_of_parameters_of_n2v(
    n2v_2d: Any, parameters: dict[str, Any], expected: int
) -> None:
    assert count(n2v_2d.build(Noise2Void2DParameters(**parameters), GREY)) == expected


def test_channels_and_volumes_have_the_numbers_of_n2v(n2v_2d: Any) -> None:
    from parfocal.n2v.network import Noise2Void3D

    assert count(Noise2Void3D().build(Noise2Void3DParameters(), GREY)) == 860_545
    assert count(n2v_2d.build(Noise2Void2DParameters(), COLOUR)) == 865_731


def test_the_loss_is_the_squared_error_in_blind_spots_alone(n2v_2d: Any) -> None:
    parameters = Noise2Void2DParameters(**TINY)
    learner = n2v_2d.build(parameters, GREY)
    inputs = np.random.default_rng(0).normal(size=(2, 32, 32, 1)).astype(np.float32)
    batch = prepared(n2v_2d, inputs, None, parameters, GREY)
    values, mask = np.split(batch.targets, 2, axis=-1)
    assert 20 < mask.sum() < 80
    np.testing.assert_array_equal(values, inputs * mask)
    error = (learner.predict_batch(batch.input) - inputs)[mask == 1]
    assert learner.validate_batch(batch)["loss"] == pytest.approx(float(np.mean(error**2)), rel=1e-4)


def test_each_channel_has_a_network_of_its_own(n2v_2d: Any) -> None:
    """n2v itself gives all of them the last channel: nothing of the first one would be seen."""
    learner = n2v_2d.build(Noise2Void2DParameters(**TINY), COLOUR)
    inputs = np.random.default_rng(0).random((1, 32, 32, 3), dtype=np.float32)
    before = learner.predict_batch(inputs)
    for channel in range(3):
        changed = inputs.copy()
        changed[..., channel] += 1
        after = learner.predict_batch(changed)
        assert [bool((after[..., other] != before[..., other]).any()) for other in range(3)] == [
            other == channel for other in range(3)
        ]
    batch = prepared(n2v_2d, inputs, None, Noise2Void2DParameters(**TINY), COLOUR)
    hidden = batch.targets[..., 3:]
    assert not (hidden[..., 0] * hidden[..., 1]).all(where=hidden[..., 0] == 1)  # places differ from channel to channel
    assert np.isfinite(learner.train_batch(batch)["loss"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of n2v
@pytest.mark.parametrize("variant", ["n2v", "n2v2", "structn2v"])
def test_the_saved_folder_opens_in_n2v_with_the_same_prediction(n2v_2d: Any, tmp_path: Path, variant: str) -> None:
    from n2v.models import N2V

    from parfocal.runtime.images.files import Image
    from parfocal.runtime.prediction.loaded_model import load_model, predict_image

    parameters = Noise2Void2DParameters(**TINY, variant=variant, struct_direction="y", struct_length=5)
    image = np.random.default_rng(0).normal(300, 40, (64, 96)).astype(np.float32)
    # n2v has the constants of the training images, here of this one.
    port = Port(role="source", offset=(float(image.mean()),), scale=(float(image.std()),))
    facts = Facts(inputs=(port,), targets=())
    folder = tmp_path / "model"
    folder.mkdir()
    n2v_2d.save(folder, parameters, facts, {"best": n2v_2d.build(parameters, facts).weights()})
    manifest = ModelManifest(
        project="p", model="m", version=1, service="n2v", method="n2v-2d", job="j", dataset_uri="", axes="YX",
        parameters=parameters.model_dump(), normaliser=n2v_2d.normaliser.model_dump(), facts=facts,
    )  # fmt: skip
    model = load_model(N2V_2D, manifest, folder, weights="best")
    found = predict_image(model, Image(image, "YX"), NoisePredictionParameters(), tmp_path, "a").finish()
    opened = N2V(None, name="model", basedir=str(tmp_path))
    expected = opened.predict(image, "YX")
    np.testing.assert_allclose(found.images["prediction"].pixels, expected, rtol=1e-5, atol=1e-5 * np.ptp(expected))
    mask = opened.config.structN2Vmask
    assert mask == ([[1], [1], [1], [1], [1]] if variant == "structn2v" else None)


def test_noise_is_removed_without_a_clean_image(n2v_2d: Any) -> None:
    rng = np.random.default_rng(0)
    clean = np.stack([filament_pair(rng, (64, 64))[1] for _ in range(8)]).astype(np.float32)[..., np.newaxis]
    clean = (clean - clean.mean()) / clean.std()
    noisy = clean + rng.normal(size=clean.shape).astype(np.float32)
    parameters = Noise2Void2DParameters(**TINY | {"first_filters": 8, "masked_percent": 5.0}, learning_rate=0.003)
    learner = n2v_2d.build(parameters, GREY)
    for _ in range(150):
        learner.train_batch(n2v_2d.prepare(batch_of(noisy[:7]), parameters, GREY, rng))
    # Moving means of batch normalisation follow slowly.
    error = float(np.mean((learner.predict_batch(noisy[7:]) - clean[7:]) ** 2))
    assert error < 0.5 * np.mean((noisy[7:] - clean[7:]) ** 2)


def test_the_direction_of_structured_noise_is_taken_from_the_images(n2v_2d: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(2):
        stripes = ndimage.uniform_filter1d(rng.normal(size=(96, 96)), 3, axis=1)
        pixels = (1000 + 300 * stripes).astype(np.uint16)
        save(tmp_path / "train" / "source" / f"a{number}.tif", pixels)
    warnings: list[str] = []
    data = view_of_folder(tmp_path, warnings)

    def opened(**values: Any) -> Any:
        warnings.clear()
        return n2v_2d.open(data, Noise2Void2DParameters(**TINY, **values)).parameters

    found = opened(variant="structn2v")
    assert (found.struct_direction, found.struct_length) == ("x", 5)
    assert not any("structn2v" in each for each in warnings)
    found = opened(variant="structn2v", struct_direction="y", struct_length=7)
    assert (found.struct_direction, found.struct_length) == ("y", 7)
    opened()
    assert any("structn2v" in each for each in warnings)


def test_movies_are_trained_on_frame_by_frame(n2v_2d: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    brightness = 100 * np.arange(1, 5)[:, np.newaxis, np.newaxis]  # of four frames
    for number in range(5):
        movie = rng.poisson(brightness + np.zeros((4, 40, 48))).astype(np.uint16)
        save(tmp_path / "train" / "source" / f"a{number}.tif", movie, "TYX")
    parameters = Noise2Void2DParameters(**TINY, patches_per_image=2, batch_size=8)
    opened = n2v_2d.open(view_of_folder(tmp_path, [], "TYX"), parameters)
    sampler = opened.batches.sampler
    assert (len(sampler.sources), sampler.axes, len(sampler.regions)) == (20, "YX", 16)
    # A whole movie is held out, and the record names movies.
    assert {region["stem"] for region in opened.record.split["validation"]}.isdisjoint(
        region["stem"] for region in opened.record.split["training"]
    )
    assert len(opened.record.split["training"]) == 4
    assert len(list(opened.validation_images())) == 4
    assert opened.batches.steps_per_epoch == 4
    batch = opened.batches.batch(0, 0)
    assert batch.input.shape == (8, 32, 32, 1)
    # Each frame by its own mean and deviation, as in prediction.
    np.testing.assert_allclose(batch.input.mean(axis=(1, 2, 3)), 0, atol=0.2)
    np.testing.assert_allclose(batch.input.std(axis=(1, 2, 3)), 1, atol=0.1)


def test_a_single_movie_holds_out_a_block_of_each_frame(n2v_2d: Any, tmp_path: Path) -> None:
    movie = np.random.default_rng(0).poisson(50, (3, 2, 40, 120)).astype(np.uint16)
    save(tmp_path / "train" / "source" / "a.tif", movie, "TCYX")
    opened = n2v_2d.open(view_of_folder(tmp_path, [], "TCYX"), Noise2Void2DParameters(**TINY))
    assert opened.facts.input_channels == 2
    images = list(opened.validation_images())
    assert [image.input.shape for image in images] == [(40, 32, 2)] * 3


def test_dropout_would_follow_from_seed_and_epoch() -> None:
    """Keras 2 keeps its random numbers elsewhere than Keras 3; the driver sets both."""
    assert_dropout_follows_from_seed_and_epoch()


class _Suite(ImageLearnerSuite):
    facts = GREY
    rounding = 0.15  # which is why predictions are in float32 unless something else is asked for
    weights_suffix = ".h5"

    def target_of(self, inputs: Any) -> Any:  # noqa: ARG002
        return None

    def view(self) -> ModelView:
        return view_of(self.parameters, self.facts, "z-score", "ZYX"[-len(self.patch) :])


class TestNoise2Void2D(_Suite):
    path = "parfocal.n2v.network:Noise2Void2D"
    parameters = Noise2Void2DParameters(**TINY, learning_rate=0.003)
    other = Noise2Void2DParameters(**TINY, learning_rate=0.003, seed=9)
    larger = Noise2Void2DParameters(**TINY | {"first_filters": 8})
    patch = (32, 32)
    image = (152, 132)
    tile = (96, 96)


class TestN2V2(TestNoise2Void2D):
    parameters = Noise2Void2DParameters(**TINY, learning_rate=0.003, variant="n2v2")
    other = Noise2Void2DParameters(**TINY, learning_rate=0.003, variant="n2v2", seed=9)
    larger = Noise2Void2DParameters(**TINY | {"first_filters": 8}, variant="n2v2")


class TestNoise2Void3D(_Suite):
    path = "parfocal.n2v.network:Noise2Void3D"
    parameters = Noise2Void3DParameters(**TINY, learning_rate=0.003, patch_depth=8)
    other = Noise2Void3DParameters(**TINY, learning_rate=0.003, patch_depth=8, seed=9)
    larger = Noise2Void3DParameters(**TINY | {"first_filters": 8})
    patch = (8, 32, 32)
    image = (12, 100, 52)
    tile = (12, 64, 52)
