"""Deep-STORM: what it owes to the training loop, and its network, loss, target and decoder against the publication."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from learner_suite import LearnerSuite

from parfocal.deepstorm.heatmaps import SPIKE, heat_map, kernel, locate, spikes
from parfocal.deepstorm.parameters import DeepStormParameters
from parfocal.runtime.datasets.coordinates import Localisations
from parfocal.runtime.store.facts import Facts, Port

TINY: dict[str, Any] = {"first_filters": 4, "upsampling": 4, "learning_rate": 0.003, "precision": "float32"}


class TestDeepStorm(LearnerSuite):
    path = "parfocal.deepstorm.network:DeepStorm"
    parameters = DeepStormParameters(**TINY)
    other = DeepStormParameters(**TINY, seed=9)
    larger = DeepStormParameters(**TINY | {"first_filters": 8})
    facts = Facts(inputs=(Port(role="source"),), targets=(Port(role="target", kind="points"),))
    patch = (16, 16)
    weights_suffix = ".safetensors"
    rounding = 0.05

    def target_of(self, inputs: Any) -> Any:
        """Return an emitter in the brightest pixel of each patch."""
        places = [np.unravel_index(int(np.argmax(each[..., 0])), each.shape[:2]) for each in inputs]
        return [
            Localisations(np.zeros(1, np.int64), np.array([y + 0.5]), np.array([x + 0.5]), np.array([np.nan]))
            for y, x in places
        ]


def test_the_network_has_the_published_number_of_parameters() -> None:
    import torch

    from parfocal.deepstorm.modules import DeepStormModule

    with torch.device("meta"):
        module = DeepStormModule(8, 32)
    running = sum(
        value.numel() for name, value in module.state_dict().items() if name.endswith(("running_mean", "running_var"))
    )
    trained = sum(weight.numel() for weight in module.parameters())
    assert (trained, trained + running) == (1_366_208, 1_368_128)


@pytest.mark.parametrize("upsampling", [1, 2, 3, 4, 8, 16])
def test_an_emitter_at_a_known_place_is_found_there(upsampling: int) -> None:
    y, x = np.array([3.0625]), np.array([11.9375])
    output = np.zeros((8 * upsampling, 16 * upsampling), np.float32)
    output[spikes(y, x, (8, 16), upsampling)] = SPIKE
    found_y, found_x, confidence = locate(output, upsampling, 0.5)
    assert confidence == pytest.approx(1)
    # The centre of the fine pixel that it lies in.
    assert found_y == pytest.approx((np.floor(y * upsampling) + 0.5) / upsampling)
    assert found_x == pytest.approx((np.floor(x * upsampling) + 0.5) / upsampling)
    assert np.abs(np.concatenate([found_y - y, found_x - x])).max() <= 0.5 / upsampling


def test_the_target_is_the_published_one() -> None:
    target = heat_map(np.array([2.0, 2.01]), np.array([3.0, 3.01]), (6, 6), 8)
    assert target.max() == pytest.approx(15.92, abs=0.005)
    # The second emitter lies in the same fine pixel and counts once.
    assert target.sum() == pytest.approx(100, rel=1e-4)
    assert np.unravel_index(int(target.argmax()), target.shape) == (16, 24)
    y, x = np.mgrid[-3:4, -3:4]
    gauss = np.exp(-0.5 * (x**2 + y**2))
    np.testing.assert_allclose(target[13:20, 21:28], 100 * gauss / gauss.sum(), rtol=1e-5)


def test_the_loss_is_that_of_an_independent_computation() -> None:
    import torch
    from scipy.signal import convolve2d

    from parfocal.deepstorm.modules import deep_storm_loss

    rng = np.random.default_rng(0)
    output, target = rng.normal(size=(2, 24, 16)), rng.normal(size=(2, 24, 16))
    gauss = 2 * np.outer(kernel(), kernel())
    blurred = np.stack([convolve2d(each, gauss, mode="same") for each in output])
    expected = np.mean((blurred - target) ** 2) + np.mean(np.abs(output))
    tensors = (torch.from_numpy(each[:, np.newaxis]) for each in (output, target))
    assert float(deep_storm_loss(*tensors)) == pytest.approx(expected, rel=1e-5)


def test_perfect_spikes_leave_only_the_price_of_their_sum() -> None:
    import torch

    from parfocal.deepstorm.modules import deep_storm_loss

    y, x = np.array([4.3, 2.2]), np.array([5.1, 9.7])
    target = heat_map(y, x, (8, 16), 4)[np.newaxis, np.newaxis]
    output = np.where(spikes(y, x, (8, 16), 4), np.float32(SPIKE), np.float32(0))[np.newaxis, np.newaxis]
    loss = float(deep_storm_loss(torch.from_numpy(output), torch.from_numpy(target)))
    assert loss == pytest.approx(2 * SPIKE / output.size, rel=1e-4)


def test_decoding_keeps_to_its_threshold_and_neighbourhood() -> None:
    output = np.zeros((24, 24), np.float32)
    output[5, 5], output[5, 6] = 30, 20
    output[5, 9] = 25
    output[15, 15] = output[15, 16] = 20
    y, x, confidence = locate(output, 1, 0.1)
    assert list(zip(y, x, strict=True)) == [(5.5, pytest.approx(5.9)), (5.5, 9.5), (15.5, 16.0)]
    assert confidence == pytest.approx([1, 0.5, 0.8])
    assert locate(output, 1, 0.1, centroid=False)[1] == pytest.approx([5.5, 9.5, 15.5])
    assert len(locate(output, 1, 0.6)[0]) == 2
    assert len(locate(output, 1, 0.1, neighbourhood=9)[0]) == 2


def test_tiles_give_what_the_whole_frame_gives() -> None:
    from parfocal.runtime.methods.service import load_object

    implementation = load_object(TestDeepStorm.path)()
    learner = implementation.build(TestDeepStorm.parameters, TestDeepStorm.facts)
    learner.begin_epoch(0, 0.003)
    suite = TestDeepStorm()
    for batch in suite.batches(implementation, 3):
        learner.train_batch(batch)
    frame = np.random.default_rng(1).random((50, 36, 1), dtype=np.float32)
    whole = implementation.apply(learner, frame, TestDeepStorm.parameters, 2**20)
    tiled = implementation.apply(learner, frame, TestDeepStorm.parameters, 30 * 30 * 16)
    assert whole.shape == (200, 144)
    np.testing.assert_allclose(tiled, whole, atol=1e-4 * np.ptp(whole))
