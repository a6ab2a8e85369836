"""CARE against its publication and against csbdeep itself."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from learner_suite import (
    BFLOAT16,
    ImageLearnerSuite,
    assert_dropout_follows_from_seed_and_epoch,
    batch_of,
    images_of,
    view_of,
)
from support import filament_pair

from parfocal.care import CARE_2D
from parfocal.care.parameters import Care2DParameters, Care3DParameters, CarePredictionParameters
from parfocal.runtime.store.facts import Facts

TINY: dict[str, Any] = {
    "network_depth": 2, "kernel_size": 3, "first_filters": 4, "patch_size": 32, "precision": "float32"
}  # fmt: skip


@pytest.fixture(scope="module")
def care() -> Any:
    from parfocal.care.network import Care2D

    return Care2D()


def count(learner: Any) -> int:
    return sum(array.size for array in learner.weights().values())


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, 3_790_850),
        ({"network_depth": 2, "probabilistic": False}, 922_977),
        ({"network_depth": 2}, 923_010),
    ],
)
def test_the_network_has_the_published_number_of_parameters(
    care: Any, parameters: dict[str, Any], expected: int
) -> None:
    assert count(care.build(Care2DParameters(**parameters), Facts())) == expected


def test_the_loss_is_the_laplace_likelihood(care: Any) -> None:
    learner = care.build(Care2DParameters(**TINY), Facts())
    rng = np.random.default_rng(0)
    inputs, targets = rng.random((2, 2, 32, 32, 1), dtype=np.float32)
    mean, scale = np.moveaxis(learner.predict_batch(inputs).astype(np.float64), -1, 0)
    expected = np.mean(np.abs(mean - targets[..., 0]) / scale + np.log(scale) + np.log(2))
    assert learner.validate_batch(batch_of(inputs, targets))["loss"] == pytest.approx(expected, rel=1e-4)


def test_without_probabilistic_the_loss_is_the_absolute_error(care: Any) -> None:
    learner = care.build(Care2DParameters(**TINY, probabilistic=False), Facts())
    inputs, targets = np.random.default_rng(0).random((2, 2, 32, 32, 1), dtype=np.float32)
    expected = np.mean(np.abs(learner.predict_batch(inputs) - targets))
    assert learner.validate_batch(batch_of(inputs, targets))["loss"] == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own way of saving
def test_the_saved_folder_opens_in_csbdeep_with_the_same_prediction(care: Any, tmp_path: Path) -> None:
    from csbdeep.models import CARE

    parameters = Care2DParameters(**TINY)
    learner, other = care.build(parameters, Facts()), care.build(Care2DParameters(**TINY, seed=9), Facts())
    folder = tmp_path / "model"
    folder.mkdir()
    care.save(folder, parameters, Facts(), {"best": learner.weights(), "last": other.weights()})
    view = view_of(parameters)
    image = np.random.default_rng(0).random((1, 32, 32, 1), dtype=np.float32)
    expected = learner.predict_batch(image)
    opened = CARE(None, name="model", basedir=str(tmp_path))
    opened.load_weights("weights_best.h5")
    np.testing.assert_allclose(opened.keras_model(image).numpy(), expected, atol=1e-6)
    np.testing.assert_array_equal(care.load(folder, view, "best").predict_batch(image), expected)
    np.testing.assert_array_equal(care.load(folder, view, "last").predict_batch(image), other.predict_batch(image))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own way of saving
def test_after_calibration_the_intervals_hold_what_they_say(care: Any, tmp_path: Path) -> None:
    from parfocal.runtime.images.files import Image
    from parfocal.runtime.prediction.loaded_model import load_model, predict_image
    from parfocal.runtime.store.manifests import ModelManifest

    parameters = Care2DParameters(**TINY)
    learner = care.build(parameters, Facts())
    care.save(tmp_path, parameters, Facts(), {"best": learner.weights()})
    rng = np.random.default_rng(0)
    pairs = [rng.random((2, 100, 120), dtype=np.float32) for _ in range(2)]
    calibrated_facts = care.calibrate(learner, images_of(*pairs), parameters, Facts())
    predicted = []
    for facts in (Facts(), calibrated_facts):
        manifest = ModelManifest(
            project="p", model="m", version=1, service="care", method="care-2d", job="j",
            parameters=parameters.model_dump(), axes="YX", normaliser={"rule": "none"}, dataset_uri="",
            facts=facts,
        )  # fmt: skip
        model = load_model(CARE_2D, manifest, tmp_path, weights="best")
        image = Image(pairs[0][0], "YX", None)
        wanted = CarePredictionParameters(uncertainty=True)
        predicted.append(predict_image(model, image, wanted, tmp_path, "a").finish().images)
    factor = calibrated_facts.measured["uncertainty_factor"]
    raw, calibrated = (images["uncertainty"].pixels for images in predicted)
    np.testing.assert_allclose(calibrated, factor * raw, rtol=1e-5)
    # The factor is that of both images, the coverage that of one of them.
    inside = np.abs(pairs[0][1] - predicted[1]["prediction"].pixels) <= np.log(10) * calibrated
    assert inside.mean() == pytest.approx(0.9, abs=0.01)
    plain = Care2DParameters(**TINY, probabilistic=False)
    assert care.calibrate(learner, images_of(*pairs), plain, Facts()) == Facts()


def test_bfloat16_learns_like_float32_and_repeats_itself() -> None:
    from parfocal.care.network import Care2D
    from parfocal.runtime.frameworks import keras

    device, why = keras.describe_device().choose("auto", 2, training=True)
    if device.precision != "bfloat16":
        pytest.skip(f"nothing is trained in bfloat16 here: {why}")
    rng = np.random.default_rng(0)
    inputs = rng.random((8, 32, 32, 1), dtype=np.float32)
    runs = []
    for each in (replace(device, precision="float32"), device, device):
        learner = Care2D(each).build(Care2DParameters(**TINY, learning_rate=0.003), Facts())
        losses = [learner.train_batch(batch_of(inputs, 1 - inputs))["loss"] for _ in range(30)]
        runs.append((losses, learner.predict_batch(inputs)))
    (exact, _), (rough, predicted), (again, repeated) = runs
    assert rough != exact  # the arithmetic is really another one
    np.testing.assert_allclose(rough, exact, atol=0.05)
    assert again == rough
    np.testing.assert_array_equal(repeated, predicted)


def test_restored_images_are_as_good_in_bfloat16_as_in_float32() -> None:
    from parfocal.care.network import Care2D

    rng = np.random.default_rng(0)
    pairs = np.stack([filament_pair(rng, (64, 64)) for _ in range(9)]).astype(np.float32)[..., np.newaxis] / 1000
    noisy, clean = pairs[:, 0], pairs[:, 1]
    parameters = Care2DParameters(**TINY | {"first_filters": 8}, learning_rate=0.003, probabilistic=False)
    learner = Care2D().build(parameters, Facts())
    for step in range(120):
        chosen = [step % 7, (step + 3) % 7]
        learner.train_batch(batch_of(noisy[chosen], clean[chosen]))
    rounded = Care2D(BFLOAT16).build(parameters, Facts())
    rounded.set_weights(learner.weights())
    exact, fast = (each.predict_batch(noisy[7:]) for each in (learner, rounded))

    def decibels(images: Any) -> float:
        return float(-10 * np.log10(np.mean((images - clean[7:]) ** 2) / np.ptp(clean[7:]) ** 2))

    assert decibels(exact) > decibels(noisy[7:]) + 3  # the training changed something that could be lost
    assert decibels(fast) == pytest.approx(decibels(exact), abs=0.02)
    assert len(np.unique(fast)) > 0.97 * len(np.unique(exact))
    assert 0 < np.abs(fast - exact).max() < 0.01 * np.ptp(exact)


def test_the_tail_of_the_network_stays_in_float32(care: Any) -> None:
    from parfocal.care.network import Care2D

    parameters = Care2DParameters(**TINY)
    reduced = {
        layer.name: layer.compute_dtype
        for layer in Care2D(BFLOAT16).build(parameters, Facts()).model.layers
        if layer.weights
    }
    assert reduced.pop("up_level_0_no_2") == "float32"
    ends = [name for name in reduced if name.startswith("conv2d")]
    assert [reduced.pop(name) for name in ends] == ["float32", "float32"]  # the mean and the scale
    assert set(reduced.values()) == {"bfloat16"}
    exact = care.build(parameters, Facts()).model
    assert {layer.compute_dtype for layer in exact.layers} == {"float32"}


def test_a_network_trained_in_bfloat16_layer_by_layer_learns_like_one_in_float32() -> None:
    """What GPUs do; the processor can do it as well, only not faster."""
    from parfocal.care.network import Care2D
    from parfocal.runtime.frameworks import keras

    inputs = np.random.default_rng(0).random((4, 32, 32, 1), dtype=np.float32)
    losses = []
    for reduce in (False, True):
        learner = Care2D().build(Care2DParameters(**TINY, learning_rate=0.003), Facts())
        if reduce:
            keras.compute_body_in(learner.model, "bfloat16")
        losses.append([learner.train_batch(batch_of(inputs, 1 - inputs))["loss"] for _ in range(20)])
    assert losses[0] != losses[1]
    np.testing.assert_allclose(losses[1], losses[0], atol=0.05)


def test_tensorflow_describes_the_processor_or_the_gpu_that_it_sees() -> None:
    import tensorflow as tf

    from parfocal.runtime.frameworks import keras

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        assert keras.describe_device().kind == "cpu"
        pytest.skip("TensorFlow sees no GPU: what it says of one was not tested")
    code = """if True:
        import numpy as np, sys
        from parfocal.care.network import Care2D
        from parfocal.care.parameters import Care2DParameters
        from parfocal.runtime.frameworks import keras
        from parfocal.runtime.methods.implementation import Batch
        from parfocal.runtime.store.facts import Facts
        device, _ = keras.describe_device().choose("auto", 2, training=True)
        assert device.kind == "cuda" and device.memory > 2**30 and device.capability and device.cuda and device.name
        pixels = np.random.default_rng(0).random((4, 32, 32, 1), dtype=np.float32)
        runs = []
        for _ in range(2):
            learner = Care2D(device).build(Care2DParameters(network_depth=2, first_filters=8), Facts())
            assert all("GPU" in variable.value.device for variable in learner.model.weights)
            runs.append([learner.train_batch(Batch({"source": pixels}, 1 - pixels, 4))["loss"] for _ in range(5)])
        assert runs[0] == runs[1], runs
    """
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own way of saving
class TestCare2D(ImageLearnerSuite):
    path = "parfocal.care.network:Care2D"
    parameters = Care2DParameters(**TINY, learning_rate=0.003)
    other = Care2DParameters(**TINY, learning_rate=0.003, seed=9)
    larger = Care2DParameters(**TINY | {"first_filters": 8})
    patch = (32, 32)
    image = (152, 132)
    tile = (96, 96)
    weights_suffix = ".h5"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own way of saving
class TestCare3D(ImageLearnerSuite):
    path = "parfocal.care.network:Care3D"
    parameters = Care3DParameters(**TINY, learning_rate=0.003, patch_depth=8)
    other = Care3DParameters(**TINY, learning_rate=0.003, patch_depth=8, seed=9)
    larger = Care3DParameters(**TINY | {"first_filters": 8})
    patch = (8, 32, 32)
    image = (12, 100, 52)
    tile = (12, 64, 52)
    weights_suffix = ".h5"


def test_dropout_follows_from_seed_and_epoch() -> None:
    assert_dropout_follows_from_seed_and_epoch()
