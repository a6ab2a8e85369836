"""pix2pix and CycleGAN: losses, prediction, and what they owe to the training loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from learner_suite import LearnerSuite, batch_of

from parfocal.gan import CYCLEGAN, PIX2PIX
from parfocal.gan.parameters import (
    CycleGanParameters,
    CycleGanPredictionParameters,
    Pix2PixParameters,
    Pix2PixPredictionParameters,
)
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import Image
from parfocal.runtime.methods.device import Device
from parfocal.runtime.methods.implementation import Batch, ModelView, ValidationImage
from parfocal.runtime.prediction.outputs import ResultOutputs
from parfocal.runtime.prediction.unit import ArrayUnit, Stack, split_units
from parfocal.runtime.store.facts import Facts, Port
from parfocal.runtime.store.manifests import TURNED_BACK, DatasetManifest, ImageEntry

PAIRS: dict[str, Any] = {"first_filters": 4, "patch_size": 32, "network_depth": 3, "precision": "float32"}
CYCLES: dict[str, Any] = {
    "first_filters": 4,
    "patch_size": 32,
    "residual_blocks": 1,
    "pool_size": 3,
    "precision": "float32",
}
GREY = Facts(
    inputs=(Port(role="source", offset=(100.0,), scale=(200.0,)),),
    targets=(Port(role="target", offset=(7.0,), scale=(50.0,)),),
)
# A grey image into one in colour.
COLOUR = Facts(
    inputs=(Port(role="source", offset=(100.0,), scale=(200.0,)),),
    targets=(
        Port(role="target", channels=3, channel_axis="S", offset=(10.0, 20.0, 30.0), scale=(100.0, 100.0, 100.0)),
    ),
)


class TestPix2Pix(LearnerSuite):
    path = "parfocal.gan.network:Pix2Pix"
    parameters = Pix2PixParameters(**PAIRS, learning_rate=0.002)
    other = Pix2PixParameters(**PAIRS, learning_rate=0.002, seed=9)
    larger = Pix2PixParameters(**PAIRS | {"first_filters": 8})
    facts = GREY
    patch = (32, 32)
    weights_suffix = ".safetensors"
    falling = "l1"


class TestPix2PixWithDropout(TestPix2Pix):
    """The deepest levels have dropout, whose random numbers must follow from the epoch."""

    parameters = Pix2PixParameters(**PAIRS | {"network_depth": 6, "patch_size": 64}, learning_rate=0.002)
    other = Pix2PixParameters(**PAIRS | {"network_depth": 6, "patch_size": 64}, learning_rate=0.002, seed=9)
    facts = COLOUR
    patch = (64, 64)

    def target_of(self, inputs: Any) -> Any:
        return np.repeat(1 - inputs[..., :1], 3, axis=-1)


class TestCycleGan(LearnerSuite):
    path = "parfocal.gan.network:CycleGan"
    parameters = CycleGanParameters(**CYCLES, learning_rate=0.002)
    other = CycleGanParameters(**CYCLES, learning_rate=0.002, seed=9)
    larger = CycleGanParameters(**CYCLES | {"first_filters": 8})
    facts = GREY
    patch = (32, 32)
    weights_suffix = ".safetensors"
    falling = "cycle"

    def batches(self, implementation: Any, count: int) -> Sequence[Batch]:  # noqa: ARG002
        return [unpaired_batch(self.facts, seed) for seed in range(count)]

    def test_pools_and_both_optimisers_are_in_the_state(self, implementation: Any) -> None:
        learner = self.begun(implementation, self.parameters)
        for batch in self.batches(implementation, 3):
            learner.train_batch(batch)
        state = learner.state()
        assert state["pool source"].shape == state["pool target"].shape == (3, 1, 32, 32)
        assert {name.split(" ")[0] for name in state} == {"generators", "discriminators", "pool"}


class TestCycleGanWithColours(TestCycleGan):
    """Grey images of one kind and images in colour of the other."""

    facts = COLOUR

    def test_pools_and_both_optimisers_are_in_the_state(self, implementation: Any) -> None:
        learner = self.begun(implementation, self.parameters)
        losses = learner.train_batch(self.batches(implementation, 1)[0])
        assert set(losses) == {"cycle", "generator", "discriminator"}  # no identity of other channels
        assert learner.state()["pool target"].shape == (2, 3, 32, 32)


def unpaired_batch(facts: Facts, seed: int = 0, side: int = 32) -> Batch:
    rng = np.random.default_rng(seed)
    ports = (facts.inputs[0], facts.targets[0])
    return Batch({port.role: rng.random((2, side, side, port.channels), np.float32) for port in ports}, None, 2)


def sigmoid_cross_entropy(logits: Any, real: float) -> float:
    values = np.asarray(logits, np.float64)
    chance = 1 / (1 + np.exp(-values))
    return float(-np.mean(real * np.log(chance) + (1 - real) * np.log(1 - chance)))


def in_training(learner: Any, name: str, *images: Any) -> Any:
    """Return what a network in training gives for arrays with channels first, as float64."""
    import torch

    with torch.no_grad():
        joined = torch.cat([torch.as_tensor(np.asarray(image, np.float32)) for image in images], dim=1)
        return learner.forward(learner.modules[name], joined).numpy().astype(np.float64)


def first(values: Any) -> Any:
    """Return normalised images as the networks see them, channels first."""
    return np.moveaxis(np.asarray(values, np.float64) * 1.6 - 0.8, -1, 1)


def test_losses_of_pix2pix_are_those_of_the_publication() -> None:
    from parfocal.gan.network import Pix2Pix

    learner = Pix2Pix().build(Pix2PixParameters(**PAIRS), COLOUR)
    learner.begin_epoch(0, 0.0)  # nothing changes between the steps of the two networks
    rng = np.random.default_rng(0)
    source, target = rng.random((2, 32, 32, 1), np.float32), rng.random((2, 32, 32, 3), np.float32)
    a, b = first(source), first(target)
    made = in_training(learner, "generator", a)
    wrong, right = (in_training(learner, "discriminator", a, shown) for shown in (made, b))
    expected = {
        "l1": np.mean(np.abs(made - b)),
        "generator": sigmoid_cross_entropy(wrong, 1),
        "discriminator": (sigmoid_cross_entropy(wrong, 0) + sigmoid_cross_entropy(right, 1)) / 2,
    }
    assert learner.train_batch(batch_of(source, target)) == pytest.approx(expected, rel=1e-5)


def test_losses_of_cyclegan_are_those_of_the_publication() -> None:
    from parfocal.gan.network import CycleGan

    learner = CycleGan().build(CycleGanParameters(**CYCLES), GREY)
    learner.begin_epoch(0, 0.0)
    batch = unpaired_batch(GREY)
    a, b = (first(batch.inputs[role]) for role in ("source", "target"))
    made_b, made_a = in_training(learner, "forwards", a), in_training(learner, "backwards", b)
    again_a, again_b = in_training(learner, "backwards", made_b), in_training(learner, "forwards", made_a)
    same_a, same_b = in_training(learner, "backwards", a), in_training(learner, "forwards", b)
    says = {
        name: in_training(learner, judge, image)
        for name, judge, image in (
            ("a", "of_source", a),
            ("made a", "of_source", made_a),
            ("b", "of_target", b),
            ("made b", "of_target", made_b),
        )
    }
    expected = {
        "cycle": np.mean(np.abs(again_a - a)) + np.mean(np.abs(again_b - b)),
        "identity": np.mean(np.abs(same_a - a)) + np.mean(np.abs(same_b - b)),
        "generator": np.mean((says["made a"] - 1) ** 2) + np.mean((says["made b"] - 1) ** 2),
        "discriminator": sum(np.mean((says[k] - 1) ** 2) + np.mean(says[f"made {k}"] ** 2) for k in "ab") / 2,
    }
    assert learner.train_batch(batch) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weights", [(10.0, 0.5), (3.0, 0.0)])
def test_weights_of_losses_are_those_of_the_parameters(weights: tuple[float, float]) -> None:
    """The gradient that generators get is that of the weighted sum."""
    import torch

    from parfocal.gan.network import CycleGan

    cycle, identity = weights
    chosen = CycleGanParameters(**CYCLES, cycle_weight=cycle, identity_weight=identity)
    learner = CycleGan().build(chosen, GREY)
    learner.begin_epoch(0, 0.0)
    batch = unpaired_batch(GREY)
    learner.train_batch(batch)
    generators = learner.modules["forwards"], learner.modules["backwards"]
    given = [weight.grad.clone() for module in generators for weight in module.parameters()]
    forwards, backwards = generators
    a, b = (torch.as_tensor(first(batch.inputs[role]).astype(np.float32)) for role in ("source", "target"))
    made_b, made_a = forwards(a), backwards(b)
    loss = cycle * ((backwards(made_b) - a).abs().mean() + (forwards(made_a) - b).abs().mean())
    loss = loss + cycle * identity * ((forwards(b) - b).abs().mean() + (backwards(a) - a).abs().mean())
    for judge, made in (("of_target", made_b), ("of_source", made_a)):
        loss = loss + ((learner.modules[judge](made) - 1) ** 2).mean()
    expected = torch.autograd.grad(loss, [weight for module in generators for weight in module.parameters()])
    for mine, theirs in zip(given, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_the_learning_rate_is_that_of_the_publication() -> None:
    schedule, rates = Pix2PixParameters().schedule(), []
    for epoch in range(200):
        rates.append(schedule.learning_rate)
        schedule = schedule.after_epoch(epoch + 1, {})
    expected = [2e-4 * (1 - max(0, epoch + 1 - 100) / 101) for epoch in range(200)]
    np.testing.assert_allclose(rates, expected)
    assert CycleGanParameters().schedule() == Pix2PixParameters().schedule()


def test_published_settings_are_the_defaults() -> None:
    pairs, cycles = Pix2PixParameters(), CycleGanParameters()
    assert (pairs.epochs, pairs.batch_size, pairs.l1_weight, pairs.network_depth) == (200, 1, 100, 8)
    assert (cycles.cycle_weight, cycles.identity_weight, cycles.pool_size, cycles.residual_blocks) == (10, 0.5, 50, 9)
    assert {each.first_filters for each in (pairs, cycles)} == {64}
    assert {each.patch_size for each in (pairs, cycles)} == {256}


def predicted(implementation: Any, learner: Any, facts: Facts, pixels: Any, tmp_path: Any, **asked: Any) -> Image:
    """Return the prediction of one image, as a job makes it."""
    cycle = type(implementation).__name__ == "CycleGan"
    method, rule = (CYCLEGAN, CYCLES) if cycle else (PIX2PIX, PAIRS)
    parameters = (CycleGanPredictionParameters if cycle else Pix2PixPredictionParameters)(**asked)
    trained = (CycleGanParameters if cycle else Pix2PixParameters)(**rule)
    view = ModelView(trained, facts, implementation.normaliser, "YX")
    axes = "YXS" if pixels.ndim == 3 else "YX"
    channels = facts.directed(backwards=parameters.backwards).input_channels
    stack, units = split_units(method, channels, Image(pixels, axes, None), parameters, Device())
    like = pixels.dtype if parameters.like_input else None
    outputs = ResultOutputs(tmp_path, "a", "YX", stack, None, like=like)
    for number, unit in enumerate(units):
        implementation.predict(learner, unit, view, parameters, outputs.unit(number, unit.shape))
    images = outputs.finish().images
    assert list(images) == (["prediction", TURNED_BACK] if asked.get(TURNED_BACK) else ["prediction"])
    return images[TURNED_BACK if asked.get(TURNED_BACK) else "prediction"]


@pytest.fixture
def pix2pix() -> tuple[Any, Any]:
    from parfocal.gan.network import Pix2Pix

    implementation = Pix2Pix()
    learner = implementation.build(Pix2PixParameters(**PAIRS), COLOUR)
    learner.begin_epoch(0, 0.001)
    rng = np.random.default_rng(0)
    for _ in range(3):
        batch = batch_of(rng.random((2, 32, 32, 1), np.float32), rng.random((2, 32, 32, 3), np.float32))
        learner.train_batch(batch)
    return implementation, learner


@pytest.fixture
def cyclegan() -> tuple[Any, Any]:
    from parfocal.gan.network import CycleGan

    implementation = CycleGan()
    return implementation, implementation.build(CycleGanParameters(**CYCLES), COLOUR)


def test_sixteen_bits_become_an_image_in_colour_of_the_same_size(pix2pix: Any, tmp_path: Any) -> None:
    pixels = np.random.default_rng(0).integers(100, 60000, (37, 53)).astype(np.uint16)
    image = predicted(*pix2pix, COLOUR, pixels, tmp_path)
    assert (image.axes, image.pixels.shape, image.pixels.dtype) == ("YXS", (37, 53, 3), np.float32)
    # Full depth: many more values than 8 bits have, on the scale of each channel of the targets.
    assert len(np.unique(image.pixels)) > 3000
    assert np.all((image.pixels > [-3, 7, 17]) & (image.pixels < [123, 133, 143]))
    rounded = predicted(*pix2pix, COLOUR, pixels, tmp_path, output_dtype="like-input")
    np.testing.assert_allclose(rounded.pixels, np.rint(image.pixels.clip(0)), atol=0)
    assert rounded.pixels.dtype == np.uint16


def test_predictions_of_pix2pix_repeat_unless_dropout_is_asked_for(pix2pix: Any, tmp_path: Any) -> None:
    """The published behaviour is random; here it is asked for, and follows from a seed."""
    from parfocal.gan.network import Pix2Pix

    parameters = Pix2PixParameters(**PAIRS | {"network_depth": 6, "patch_size": 64})
    implementation = Pix2Pix()
    learner = implementation.build(parameters, COLOUR)
    pixels = np.random.default_rng(0).random((64, 70), np.float32)
    view = ModelView(parameters, COLOUR, implementation.normaliser, "YX")

    def predict(**asked: Any) -> Any:
        outputs = ResultOutputs(tmp_path, "a", "YX", Stack(), None)
        unit = ArrayUnit(pixels, "YX", 2**20)
        implementation.predict(learner, unit, view, Pix2PixPredictionParameters(**asked), outputs.unit(0, unit.shape))
        return outputs.finish().images["prediction"].pixels

    before = {name: value for name, value in learner.weights().items() if "running" in name}
    plain, first_seed = predict(), predict(dropout=True, seed=1)
    np.testing.assert_array_equal(predict(dropout=True, seed=1), first_seed)
    assert np.any(predict(dropout=True, seed=2) != first_seed)
    assert np.any(plain != first_seed)
    np.testing.assert_array_equal(predict(seed=5), plain)
    for name, value in before.items():
        np.testing.assert_array_equal(learner.weights()[name], value)


def test_both_directions_of_cyclegan_predict(cyclegan: Any, tmp_path: Any) -> None:
    rng = np.random.default_rng(0)
    grey, colour = rng.integers(0, 4000, (37, 53)).astype(np.uint16), rng.integers(0, 255, (41, 32, 3)).astype(np.uint8)
    there = predicted(*cyclegan, COLOUR, grey, tmp_path)
    assert (there.axes, there.pixels.shape) == ("YXS", (37, 53, 3))
    back = predicted(*cyclegan, COLOUR, colour, tmp_path, direction="target-to-source")
    assert (back.axes, back.pixels.shape) == ("YX", (41, 32))
    # Grey values of the kind that is made, with what lies beyond the percentiles.
    assert 75 < back.pixels.min() < back.pixels.max() < 325
    np.testing.assert_array_equal(predicted(*cyclegan, COLOUR, grey, tmp_path).pixels, there.pixels)


@pytest.mark.parametrize("direction", ["source-to-target", "target-to-source"])
def test_what_cyclegan_makes_is_turned_back_on_the_scale_of_the_image(
    cyclegan: Any, direction: str, tmp_path: Any
) -> None:
    implementation, learner = cyclegan
    backwards = direction == "target-to-source"
    shape, axes = ((40, 48, 3), "YXS") if backwards else ((40, 48), "YX")
    pixels = np.random.default_rng(1).integers(10, 200, shape).astype(np.uint8)
    image = predicted(*cyclegan, COLOUR, pixels, tmp_path, direction=direction, turned_back=True)
    assert (image.axes, image.pixels.shape, image.pixels.dtype) == (axes, shape, np.float32)
    constants = implementation.normaliser.fit(pixels, axes)
    values = implementation.normaliser.apply(pixels, constants).reshape(1, 40, 48, -1)
    for way in (backwards, not backwards):
        with learner.directed(backwards=way):
            values = learner.predict_batch(values)
    expected = implementation.normaliser.undo(values.reshape(shape), constants)
    np.testing.assert_allclose(image.pixels, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 5), (9, 130), (75, 100)])
def test_any_size_is_predicted_in_tiles_that_fade_into_each_other(cyclegan: Any, shape: Any, tmp_path: Any) -> None:
    pixels = np.random.default_rng(0).random(shape, np.float32)
    done: list[int] = []
    implementation, learner = cyclegan
    view = ModelView(CycleGanParameters(**CYCLES), COLOUR, implementation.normaliser, "YX")
    outputs = ResultOutputs(tmp_path, "a", "YX", Stack(), None)
    unit = ArrayUnit(pixels, "YX", 32**2, lambda _, total: done.append(total))
    implementation.predict(learner, unit, view, CycleGanPredictionParameters(), outputs.unit(0, unit.shape))
    image = outputs.finish().images["prediction"].pixels
    assert image.shape == (*shape, 3)
    assert np.isfinite(image).all()
    if shape == (75, 100):
        assert done[-1] > 4
        # Steps from pixel to pixel are no larger where tiles end than elsewhere.
        steps = np.abs(np.diff(image, axis=1)).mean(axis=(0, 2))
        assert steps.max() < 2 * np.median(steps)


def test_pix2pix_is_scored_by_similarity_and_correlation() -> None:
    from parfocal.gan.network import Pix2Pix
    from parfocal.gan.scores import structural_similarity
    from parfocal.runtime.images.correlation import pearson_of

    implementation, parameters = Pix2Pix(), Pix2PixParameters(**PAIRS)
    learner = implementation.build(parameters, GREY)
    rng = np.random.default_rng(0)
    image = ValidationImage("a", {"source": rng.random((40, 48, 1), np.float32)}, rng.random((40, 48, 1), np.float32))
    scores = implementation.assess(learner, iter([image]), parameters, GREY)
    made = learner.predict_batch(image.input[np.newaxis])[0]
    assert scores["pearson"] == pytest.approx(np.corrcoef(made.ravel(), image.targets.ravel())[0, 1], abs=1e-6)
    assert scores["ssim"] == pytest.approx(structural_similarity(made, image.targets), abs=1e-6)
    assert pearson_of([(made, 3 - made)]) == pytest.approx(-1)
    assert np.isnan(pearson_of([(made, np.zeros_like(made))]))


def test_structural_similarity_is_the_mean_over_channels() -> None:
    from parfocal.gan.scores import structural_similarity
    from parfocal.runtime.images.ssim import mean_ssim, ssim_map

    rng = np.random.default_rng(0)
    first_image, second = rng.random((16, 20, 2)), rng.random((16, 20, 2))
    each = [mean_ssim(ssim_map(first_image[..., channel], second[..., channel])) for channel in (0, 1)]
    assert structural_similarity(first_image, second) == pytest.approx(np.mean(each))
    assert structural_similarity(second, second) == pytest.approx(1)


def test_cyclegan_is_scored_by_cycle_error_and_distance(cyclegan: Any) -> None:
    implementation, learner = cyclegan
    rng = np.random.default_rng(0)
    inputs = {"source": rng.random((48, 40, 1), np.float32), "target": rng.random((48, 40, 3), np.float32)}
    scores = implementation.assess(
        learner, iter([ValidationImage("a", inputs, None)]), CycleGanParameters(**CYCLES), COLOUR
    )
    there = learner.predict_batch(inputs["source"][np.newaxis])
    with learner.directed(backwards=True):
        again, made = learner.predict_batch(there), learner.predict_batch(inputs["target"][np.newaxis])
    errors = [
        np.mean(np.abs(again - inputs["source"])),
        np.mean(np.abs(learner.predict_batch(made) - inputs["target"])),
    ]
    assert scores["cycle_error"] == pytest.approx(np.mean(errors), rel=1e-4)
    assert scores["distance"] > 0


def manifest(*images: tuple[str, tuple[int, ...], str]) -> DatasetManifest:
    entries = tuple(
        ImageEntry(
            split="train", role=role, stem="a", file=f"train/{role}/a.tif", shape=shape, dtype="uint8", axes=axes
        )
        for role, shape, axes in images
    )
    return DatasetManifest(project="p", dataset="d", version=1, images=entries)


def test_patches_must_fit_the_network_and_the_images() -> None:
    assert PIX2PIX.validate is not None
    assert CYCLEGAN.validate is not None
    large = manifest(("source", (300, 300, 3), "YXS"), ("target", (300, 300, 3), "YXS"))
    PIX2PIX.validate(Pix2PixParameters(), large)
    CYCLEGAN.validate(CycleGanParameters(), large)
    with pytest.raises(InvalidInputError) as caught:
        PIX2PIX.validate(Pix2PixParameters(patch_size=128), large)
    assert [violation.field for violation in caught.value.violations] == ["patch_size"]
    small = manifest(("source", (300, 300), "YX"), ("target", (300, 200, 3), "YXS"))
    for method, parameters in ((PIX2PIX, Pix2PixParameters()), (CYCLEGAN, CycleGanParameters())):
        assert method.validate is not None
        with pytest.raises(InvalidInputError) as caught:
            method.validate(parameters, small)
        assert [violation.field for violation in caught.value.violations] == ["patch_size", "train/target/a.tif"]


def test_what_networks_see_and_make_are_inverse_to_each_other() -> None:
    from parfocal.gan.network import from_network, to_network

    values = np.linspace(-0.2, 1.2, 15).astype(np.float32)
    np.testing.assert_allclose(from_network(to_network(values)), values, atol=1e-6)
    assert to_network(np.array([0, 1], np.float32)).tolist() == pytest.approx([-0.8, 0.8])
