"""What every method's network owes to the training loop, whatever framework it is made of.

A method's test module subclasses `LearnerSuite` and says which implementation and which parameters.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.methods.implementation import Channels
from parfocal.runtime.methods.service import load_object


class LearnerSuite:
    """Tests of one implementation. `parameters` are tiny; `other` has the same network and another seed."""

    path: str
    parameters: Any
    other: Any
    larger: Any
    channels = Channels()
    patch: tuple[int, ...]
    weights_suffix: str

    @pytest.fixture
    def implementation(self) -> Any:
        return load_object(self.path)()

    def batches(self, implementation: Any, count: int) -> Sequence[tuple[Any, Any]]:
        rng = np.random.default_rng(0)
        inputs = rng.random((count, 2, *self.patch, self.channels.inputs), dtype=np.float32)
        targets = (self.target_of(each) for each in inputs)
        return [
            (mine, implementation.prepare_targets(theirs, self.parameters))
            for mine, theirs in zip(inputs, targets, strict=True)
        ]

    def target_of(self, inputs: Any) -> Any:
        """Return something a network can learn in a few steps: each target is the first channel inverted."""
        return np.repeat(1 - inputs[..., :1], len(self.channels.targets), axis=-1)

    def test_training_lowers_the_loss_and_does_not_repeat_itself(self, implementation: Any) -> None:
        learner = implementation.build(self.parameters, self.channels)
        inputs, targets = self.batches(implementation, 1)[0]
        losses = [learner.train_batch(inputs, targets) for _ in range(20)]
        # No fixed share: a likelihood loss may cross zero.
        assert max(losses[-3:]) < min(losses[:3])
        assert learner.validate_batch(inputs, targets) == learner.validate_batch(inputs, targets)

    def test_a_restored_learner_goes_on_bit_for_bit(self, implementation: Any) -> None:
        batches = self.batches(implementation, 4)
        straight = implementation.build(self.parameters, self.channels)
        for inputs, targets in batches:
            straight.train_batch(inputs, targets)
        first = implementation.build(self.parameters, self.channels)
        for inputs, targets in batches[:2]:
            first.train_batch(inputs, targets)
        second = implementation.build(self.other, self.channels)
        second.set_weights(first.weights())
        second.set_optimiser_state(first.optimiser_state())
        second.learning_rate = first.learning_rate
        for inputs, targets in batches[2:]:
            second.train_batch(inputs, targets)
        for mine, theirs in zip(second.weights().values(), straight.weights().values(), strict=True):
            np.testing.assert_array_equal(mine, theirs)

    def test_the_learning_rate_can_be_set(self, implementation: Any) -> None:
        learner = implementation.build(self.parameters, self.channels)
        before = learner.weights()
        learner.learning_rate = 0.0
        learner.train_batch(*self.batches(implementation, 1)[0])
        trained = {name for name, value in learner.weights().items() if not np.array_equal(value, before[name])}
        assert all("running" in name or "moving" in name or "num_batches" in name for name in trained)

    def test_best_and_last_weights_come_back(self, implementation: Any, tmp_path: Path) -> None:
        best = implementation.build(self.parameters, self.channels)
        last = implementation.build(self.other, self.channels)
        implementation.save(tmp_path, self.parameters, self.channels, best.weights(), last.weights())
        batch = self.batches(implementation, 1)[0][0]
        for name, learner in (("best", best), ("last", last)):
            loaded = implementation.load(tmp_path, self.parameters, self.channels, name)
            np.testing.assert_array_equal(loaded.predict_batch(batch), learner.predict_batch(batch))

    def test_damaged_weights_are_refused(self, implementation: Any, tmp_path: Path) -> None:
        name = f"weights_best{self.weights_suffix}"
        (tmp_path / name).write_bytes(b"not a weights file")
        with pytest.raises(InvalidInputError, match=name):
            implementation.load(tmp_path, self.parameters, self.channels, "best")

    def test_weights_of_another_network_are_refused(self, implementation: Any) -> None:
        small = implementation.build(self.parameters, self.channels)
        large = implementation.build(self.larger, self.channels)
        with pytest.raises(InvalidInputError):
            small.set_weights(large.weights())

    def test_the_server_side_loads_no_framework(self) -> None:
        code = (
            f"import sys; import parfocal.runtime.server.__main__, {self.path.partition('.network')[0]}; "
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

        learner = implementation.build(self.parameters, self.channels)
        for inputs, targets in self.batches(implementation, 5):
            learner.train_batch(inputs, targets)
        geometry = implementation.geometry(self.parameters, self.channels)
        image = np.random.default_rng(0).random((*self.image, self.channels.inputs), dtype=np.float32)

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
