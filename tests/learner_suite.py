"""What every method's network owes to the training loop, whatever framework it is made of.

A method's test module subclasses `LearnerSuite` and says which implementation and which parameters.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.methods.device import Device
from parfocal.runtime.methods.implementation import Batch, ModelView, ValidationImage
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.methods.service import load_object
from parfocal.runtime.store.facts import Facts, Port

FACTS = Facts()
# Where the processor has no fast bfloat16 it is computed all the same, only slower.
BFLOAT16 = Device(precision="bfloat16")


def batch_of(inputs: Any, targets: Any = None) -> Batch:
    """Return arrays as a batch of a method with one input."""
    return Batch({"source": inputs}, targets, len(inputs))


def prepared(implementation: Any, inputs: Any, targets: Any, parameters: Any, facts: Facts = FACTS) -> Batch:
    """Return a batch as the method's loss takes it."""
    return implementation.prepare(batch_of(inputs, targets), parameters, facts, np.random.default_rng(0))  # type: ignore[no-any-return]


def images_of(*pairs: tuple[Any, Any]) -> Iterator[ValidationImage]:
    """Yield images and targets without channels as calibration sees them."""
    for image, target in pairs:
        yield ValidationImage("a", {"source": image[..., np.newaxis]}, target[..., np.newaxis])


def facts_of_classes(classes: int = 2, channels: int = 1, **measured: Any) -> Facts:
    """Return the facts of a training on images with so many channels and classes, whose values are their numbers."""
    return Facts(
        inputs=(Port(role="source", channels=channels),),
        targets=(Port(role="target", kind="classes", classes=classes - 1),),
        measured={"class_values": list(range(classes)), **measured},
    )


def view_of(parameters: Any, facts: Facts = FACTS, rule: Any = "percentile", axes: str = "YX") -> ModelView:
    """Return a model as loading and predicting see it."""
    return ModelView(parameters, facts, Normaliser(rule=rule), axes)


def assert_dropout_follows_from_seed_and_epoch() -> None:
    """Assert that Keras' random numbers inside layers are those of seed and epoch, after a resumption as well."""
    from parfocal.runtime.frameworks import keras

    def build() -> keras.KerasLearner:
        keras.prepare(5, Device())
        layers = keras.keras.layers
        inputs = keras.keras.Input((None, None, 1))
        outputs = layers.Conv2D(1, 3, padding="same")(layers.Dropout(0.5)(inputs))
        model = keras.keras.Model(inputs, outputs)
        model.compile(optimizer=keras.keras.optimizers.Adam(0.01), loss="mse")
        return keras.KerasLearner(model, 5, Device())

    pixels = np.random.default_rng(0).random((2, 16, 16, 1), np.float32)
    batch = batch_of(pixels, 1 - pixels)
    straight, resumed = build(), build()
    straight.begin_epoch(0, 0.01)
    for _ in range(3):
        straight.train_batch(batch)
    resumed.set_weights(straight.weights())
    resumed.set_state(straight.state())
    losses = []
    for learner in (straight, resumed):
        learner.begin_epoch(1, 0.0)
        losses.append([learner.train_batch(batch)["loss"] for _ in range(3)])
    assert losses[0] == losses[1]
    # With a rate of 0 nothing but dropout changes.
    assert len(set(losses[0])) == 3
    straight.begin_epoch(2, 0.0)
    assert straight.train_batch(batch)["loss"] not in losses[0]


class LearnerSuite:
    """Tests of one implementation. `parameters` are tiny; `other` has the same network and another seed.

    `falling` is the loss that a few steps lower; `rounding` is by how much of their range the outputs may change in
    bfloat16.
    """

    path: str
    parameters: Any
    other: Any
    larger: Any
    facts = FACTS
    patch: tuple[int, ...]
    weights_suffix: str
    falling = "loss"
    rounding = 0.02

    @pytest.fixture
    def implementation(self) -> Any:
        return load_object(self.path)()

    def batches(self, implementation: Any, count: int) -> Sequence[Batch]:
        rng = np.random.default_rng(0)
        inputs = rng.random((count, 2, *self.patch, self.facts.input_channels), dtype=np.float32)
        return [
            implementation.prepare(batch_of(each, self.target_of(each)), self.parameters, self.facts, rng)
            for each in inputs
        ]

    def begun(self, implementation: Any, parameters: Any) -> Any:
        """Return a new learner at the beginning of its first epoch."""
        learner = implementation.build(parameters, self.facts)
        learner.begin_epoch(0, parameters.learning_rate)
        return learner

    def view(self) -> ModelView:
        return view_of(self.parameters, self.facts, axes="ZYX"[-len(self.patch) :])

    def target_of(self, inputs: Any) -> Any:
        """Return something a network can learn in a few steps: each target is the first channel inverted."""
        return np.repeat(1 - inputs[..., :1], len(self.facts.targets), axis=-1)

    def test_training_lowers_the_loss_and_does_not_repeat_itself(self, implementation: Any) -> None:
        learner = self.begun(implementation, self.parameters)
        batch = self.batches(implementation, 1)[0]
        losses = [learner.train_batch(batch)[self.falling] for _ in range(20)]
        # No fixed share: a likelihood loss may cross zero.
        assert max(losses[-3:]) < min(losses[:3])
        assert learner.validate_batch(batch) == learner.validate_batch(batch)

    def test_a_restored_learner_goes_on_bit_for_bit(self, implementation: Any) -> None:
        batches = self.batches(implementation, 4)
        straight, resumed = (self.begun(implementation, self.parameters) for _ in range(2))
        for batch in batches[:2]:
            straight.train_batch(batch)
        resumed.train_batch(batches[3])
        resumed.set_weights(straight.weights())
        resumed.set_state(straight.state())
        for learner in (straight, resumed):
            learner.begin_epoch(1, self.parameters.learning_rate / 2)
            for batch in batches[2:]:
                learner.train_batch(batch)
        for mine, theirs in zip(resumed.weights().values(), straight.weights().values(), strict=True):
            np.testing.assert_array_equal(mine, theirs)

    def test_a_prediction_between_two_epochs_changes_nothing(self, implementation: Any) -> None:
        batches = self.batches(implementation, 4)

        def trained(*, looked_at: bool) -> Any:
            # One after the other: what is random in a network comes from generators that both share.
            learner = self.begun(implementation, self.parameters)
            for batch in batches[:2]:
                learner.train_batch(batch)
            if looked_at:
                learner.predict_batch(batches[3].input)
            learner.begin_epoch(1, self.parameters.learning_rate)
            for batch in batches[2:]:
                learner.train_batch(batch)
            return learner

        straight, looked_at = trained(looked_at=False), trained(looked_at=True)
        for name in ("weights", "state"):
            mine, theirs = (getattr(learner, name)() for learner in (looked_at, straight))
            # Keras numbers the layers of two networks in one process differently.
            for value, other in zip(mine.values(), theirs.values(), strict=True):
                np.testing.assert_array_equal(value, other)

    def test_the_learning_rate_can_be_set(self, implementation: Any) -> None:
        learner = implementation.build(self.parameters, self.facts)
        before = learner.weights()
        learner.begin_epoch(0, 0.0)
        learner.train_batch(self.batches(implementation, 1)[0])
        trained = {name for name, value in learner.weights().items() if not np.array_equal(value, before[name])}
        assert all("running" in name or "moving" in name or "num_batches" in name for name in trained)

    def test_kept_weights_come_back(self, implementation: Any, tmp_path: Path) -> None:
        learners = {
            "best": implementation.build(self.parameters, self.facts),
            "last": implementation.build(self.other, self.facts),
        }
        weights = {name: learner.weights() for name, learner in learners.items()}
        implementation.save(tmp_path, self.parameters, self.facts, weights)
        inputs = self.batches(implementation, 1)[0].input
        for name, learner in learners.items():
            loaded = implementation.load(tmp_path, self.view(), name)
            np.testing.assert_array_equal(loaded.predict_batch(inputs), learner.predict_batch(inputs))

    def test_a_prediction_does_not_depend_on_those_before(self, implementation: Any) -> None:
        learner = implementation.build(self.parameters, self.facts)
        first, second = (batch.input for batch in self.batches(implementation, 2))
        fresh = implementation.build(self.parameters, self.facts).predict_batch(second)
        learner.predict_batch(np.concatenate([first, first]))
        np.testing.assert_array_equal(learner.predict_batch(second), fresh)

    def test_predictions_in_bfloat16_are_nearly_those_of_float32(self, implementation: Any) -> None:
        batches = self.batches(implementation, 5)
        learner = self.begun(implementation, self.parameters)
        for batch in batches:
            learner.train_batch(batch)
        fast = load_object(self.path)(BFLOAT16).build(self.parameters, self.facts)
        fast.set_weights(learner.weights())
        exact, rounded = (each.predict_batch(batches[0].input) for each in (learner, fast))
        assert not np.array_equal(rounded, exact)  # the arithmetic is really another one
        assert np.abs(rounded - exact).max() < self.rounding * np.ptp(exact)
        # The tail is in float32: in bfloat16 alone a few hundred values are left.
        assert len(np.unique(rounded)) > 0.95 * len(np.unique(exact))

    def test_damaged_weights_are_refused(self, implementation: Any, tmp_path: Path) -> None:
        name = f"weights_best{self.weights_suffix}"
        (tmp_path / name).write_bytes(b"not a weights file")
        with pytest.raises(InvalidInputError, match=name):
            implementation.load(tmp_path, self.view(), "best")

    def test_weights_of_another_network_are_refused(self, implementation: Any) -> None:
        small = implementation.build(self.parameters, self.facts)
        large = implementation.build(self.larger, self.facts)
        with pytest.raises(InvalidInputError):
            small.set_weights(large.weights())

    def test_the_server_side_loads_no_framework(self) -> None:
        code = (
            f"import sys; import parfocal.runtime.server.__main__, {self.path.partition(':')[0].rpartition('.')[0]}; "
            "bad = {'tensorflow', 'keras', 'torch', 'csbdeep', 'stardist'} & set(sys.modules); "
            "sys.exit(', '.join(bad) or 0)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class ImageLearnerSuite(LearnerSuite):
    """Tests of an implementation that turns images into images."""

    image: tuple[int, ...]
    tile: tuple[int, ...]
    tolerance = 1e-5

    def test_tiled_prediction_equals_the_whole_image(self, implementation: Any) -> None:
        from parfocal.runtime.prediction.tiling import predict_tiled

        learner = self.begun(implementation, self.parameters)
        for batch in self.batches(implementation, 5):
            learner.train_batch(batch)
        geometry = implementation.geometry(self.parameters, self.facts)
        image = np.random.default_rng(0).random((*self.image, self.facts.input_channels), dtype=np.float32)

        def run(tile: tuple[int, ...]) -> Any:
            return predict_tiled(
                learner.predict_batch,
                image,
                tile_shape=tile,
                overlap=geometry.overlap,
                divisor=geometry.divisor,
                output_channels=geometry.output_channels,
            )

        np.testing.assert_allclose(run(self.tile), run(self.image), atol=self.tolerance)
