"""fnet: the network of the publication, its loss, and what it owes to the training loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from learner_suite import BFLOAT16, ImageLearnerSuite, batch_of, view_of
from support import filament_pair

from parfocal.fnet.parameters import Fnet2DParameters, Fnet3DParameters, FnetParameters, check_dataset
from parfocal.runtime.errors import InvalidInputError, InvalidParameterError
from parfocal.runtime.methods.device import Device, cpu_flags
from parfocal.runtime.methods.implementation import Batch
from parfocal.runtime.store.facts import Facts, Port
from parfocal.runtime.store.manifests import DatasetManifest, ImageEntry

TINY: dict[str, Any] = {"first_filters": 4, "patch_size": 32, "learning_rate": 0.003, "precision": "float32"}
TWO_TARGETS = Facts(inputs=(Port(role="source", channels=3),), targets=(Port(role="target"), Port(role="target_MAP2")))


class TestFnet2D(ImageLearnerSuite):
    path = "parfocal.fnet.network:Fnet2D"
    parameters = Fnet2DParameters(**TINY)
    other = Fnet2DParameters(**TINY, seed=9)
    larger = Fnet2DParameters(**TINY | {"first_filters": 8})
    facts = TWO_TARGETS
    patch = (32, 32)
    image = (192, 128)
    tile = (112, 128)
    weights_suffix = ".safetensors"
    tolerance = 0.01  # in standard deviations of the target, see Fnet.geometry


class TestFnet3D(ImageLearnerSuite):
    path = "parfocal.fnet.network:Fnet3D"
    parameters = Fnet3DParameters(**TINY, patch_depth=16)
    other = Fnet3DParameters(**TINY, patch_depth=16, seed=9)
    larger = Fnet3DParameters(**TINY | {"first_filters": 8})
    patch = (16, 32, 32)
    image = (16, 128, 48)
    tile = (16, 112, 48)
    weights_suffix = ".safetensors"
    tolerance = 0.01


@pytest.mark.parametrize(("spatial", "expected"), [(2, 8_116_225), (3, 23_280_769)])
def test_the_network_has_as_many_parameters_as_the_published_one(spatial: int, expected: int) -> None:
    from parfocal.fnet.network import FnetModule

    module = FnetModule(spatial, 1, 1, 32)
    assert sum(weight.numel() for weight in module.parameters()) == expected


def test_the_loss_is_the_mean_squared_error_of_all_targets() -> None:
    from parfocal.fnet.network import Fnet2D

    learner = Fnet2D().build(Fnet2DParameters(**TINY), TWO_TARGETS)
    rng = np.random.default_rng(0)
    inputs, targets = rng.random((2, 32, 32, 3), np.float32), rng.random((2, 32, 32, 2), np.float32)
    expected = np.mean((learner.predict_batch(inputs).astype(np.float64) - targets) ** 2)
    assert learner.validate_batch(batch_of(inputs, targets))["loss"] == pytest.approx(expected, rel=1e-5)


def test_each_target_is_an_image_of_its_own() -> None:
    from parfocal.fnet.network import Fnet2D

    output = np.stack([np.full((4, 4), 1.0, np.float32), np.full((4, 4), 2.0, np.float32)], axis=-1)
    images = Fnet2D().interpret(output, Fnet2DParameters(**TINY), TWO_TARGETS)
    assert {name: (float(each.pixels[0, 0]), each.values) for name, each in images.items()} == {
        "prediction": (1.0, "intensity"),
        "target_MAP2": (2.0, "intensity"),
    }


def test_a_pickled_file_is_not_opened(tmp_path: Path) -> None:
    import torch

    from parfocal.fnet.network import Fnet2D

    torch.save({"a": torch.zeros(1)}, tmp_path / "weights_best.safetensors")
    with pytest.raises(InvalidInputError, match="damaged"):
        Fnet2D().load(tmp_path, view_of(Fnet2DParameters(**TINY)), "best")


def dataset(*roles: str) -> DatasetManifest:
    images = tuple(
        ImageEntry(
            split="train", role=role, stem="a", file=f"train/{role}/a.tif", shape=(64, 64), dtype="u2", axes="YX"
        )
        for role in roles
    )
    return DatasetManifest(project="p", dataset="d", version=1, images=images)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("", ("target", "target_A", "target_B")),
        ("target_B", ("target_B",)),
        ("target_B , target", ("target_B", "target")),
    ],
)
def test_targets_are_all_or_those_named(wanted: str, expected: tuple[str, ...]) -> None:
    parameters = FnetParameters(targets=wanted)
    assert parameters.roles(dataset("target_B", "source", "target", "target_A")).targets == expected


def test_a_target_named_twice_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="twice"):
        FnetParameters(targets="target,target").roles(dataset("target"))


@pytest.mark.parametrize("wanted", ["DAPI", "target,", "../target", "target;target_A"])
def test_what_is_no_target_is_refused(wanted: str) -> None:
    from parfocal import v1
    from parfocal.fnet import FNET_2D

    with pytest.raises(InvalidParameterError, match="targets"):
        FNET_2D.parse(v1.JOB_KIND_TRAINING, {"targets": wanted})


@pytest.mark.parametrize(("steps", "epochs", "expected"), [(0, 7, 7), (1, 7, 1), (10, 7, 1), (11, 7, 2)])
def test_steps_are_rounded_up_to_epochs(steps: int, epochs: int, expected: int) -> None:
    assert FnetParameters(steps=steps, epochs=epochs).total_epochs(10) == expected


@pytest.mark.skipif(not {"amx_bf16", "avx512_bf16"} & cpu_flags(), reason="the processor has no bfloat16")
@pytest.mark.parametrize("planes", [1, 2, 3, 4, 16])
def test_gradients_of_volumes_in_bfloat16_are_those_of_float32(planes: int) -> None:
    import torch

    from parfocal.runtime.frameworks import torch as driver

    rng = np.random.default_rng(0)
    inputs, targets = (rng.standard_normal((2, planes, 4, 6, 32), np.float32) for _ in range(2))
    gradients = []
    for precision in ("float32", "bfloat16", "bfloat16"):
        torch.manual_seed(0)
        convolution = torch.nn.Conv3d(32, 32, 3, padding=1)
        optimiser = torch.optim.SGD(convolution.parameters(), lr=0.0)
        learner = driver.SupervisedLearner(
            convolution, optimiser, torch.nn.functional.mse_loss, 0, Device(precision=precision)
        )
        learner.train_batch(batch_of(inputs, targets))
        assert convolution.weight.grad is not None
        gradients.append(convolution.weight.grad.numpy())
    exact, fast, again = gradients
    assert np.linalg.norm(fast - exact) < 0.01 * np.linalg.norm(exact)
    np.testing.assert_array_equal(fast, again)


def row(*between: Any) -> Any:
    """Return a learner of convolutions in a row, in bfloat16, and its module."""
    import torch

    from parfocal.runtime.frameworks.torch import SupervisedLearner

    torch.manual_seed(0)
    module = torch.nn.Sequential(*(torch.nn.Conv2d(1, 1, 3, padding=1) for _ in range(4)), *between)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.0)
    return SupervisedLearner(module, optimiser, torch.nn.functional.mse_loss, 0, BFLOAT16), module


def precisions(learner: Any, module: Any) -> list[str]:
    """Return the type of what each convolution puts out."""
    import torch

    seen: list[str] = []
    pixels = np.zeros((1, 8, 8, 1), np.float32)
    learner.predict_batch(pixels)  # looks at the order in a copy
    for part in module.modules():
        if isinstance(part, torch.nn.Conv2d):
            part.register_forward_hook(lambda _, __, output: seen.append(str(output.dtype).removeprefix("torch.")))
    learner.predict_batch(pixels)
    return seen


def test_the_last_two_convolutions_that_are_carried_out_stay_in_float32() -> None:
    import torch

    assert precisions(*row()) == ["bfloat16", "bfloat16", "float32", "float32"]

    class Backwards(torch.nn.Sequential):
        def forward(self, x: Any) -> Any:
            for part in reversed(list(self)):
                x = part(x)
            return x

    learner, module = row()
    module.__class__ = Backwards
    assert precisions(learner, module) == ["bfloat16", "bfloat16", "float32", "float32"]


def test_a_module_may_name_its_tail() -> None:
    learner, module = row()
    module.tail = [module[3]]
    assert precisions(learner, module) == ["bfloat16", "bfloat16", "bfloat16", "float32"]


def test_training_leaves_no_trace_of_prediction() -> None:
    learner, module = row()
    module.train()
    pixels = np.random.default_rng(0).random((1, 8, 8, 1), np.float32)
    before = learner.train_batch(batch_of(pixels, pixels))["loss"]
    learner.predict_batch(pixels)
    assert learner.train_batch(batch_of(pixels, pixels))["loss"] == before
    assert not any("forward" in vars(part) for part in module.modules())


def test_predicted_stains_are_as_good_in_bfloat16_as_in_float32() -> None:
    from parfocal.fnet.network import Fnet2D

    rng = np.random.default_rng(0)
    pairs = np.stack([filament_pair(rng, (64, 64)) for _ in range(9)]).astype(np.float32)[..., np.newaxis]
    pairs = (pairs - pairs.mean()) / pairs.std()
    source, target = pairs[:, 0], pairs[:, 1]
    parameters = Fnet2DParameters(**TINY)
    learner = Fnet2D().build(parameters, Facts())
    for step in range(40):
        chosen = [step % 7, (step + 3) % 7]
        learner.train_batch(batch_of(source[chosen], target[chosen]))
    rounded = Fnet2D(BFLOAT16).build(parameters, Facts())
    rounded.set_weights(learner.weights())
    exact, fast = (each.predict_batch(source[7:]) for each in (learner, rounded))

    def decibels(images: Any) -> float:
        return float(-10 * np.log10(np.mean((images - target[7:]) ** 2) / np.ptp(target[7:]) ** 2))

    assert decibels(exact) > decibels(np.zeros_like(exact)) + 3
    # Which of both is a little nearer to the target is chance, and so small a network magnifies it.
    assert decibels(fast) > decibels(exact) - 0.02
    assert len(np.unique(fast)) > 0.97 * len(np.unique(exact))


def test_a_gpu_is_described_as_it_is_and_repeats_itself() -> None:
    import torch

    from parfocal.fnet.network import Fnet2D
    from parfocal.runtime.frameworks.torch import describe_device

    device = describe_device()
    if not torch.cuda.is_available():
        assert device.kind == "cpu"
        pytest.skip("PyTorch sees no GPU: what it says of one was not tested")
    assert (device.kind, device.name) == ("cuda", torch.cuda.get_device_name(0))
    assert device.memory > 2**30
    assert (device.capability, device.cuda) == (torch.cuda.get_device_capability(0), torch.version.cuda)
    pixels = np.random.default_rng(0).random((4, 32, 32, 1), np.float32)
    chosen, _ = device.choose("auto", 2, training=True)
    runs = []
    for _ in range(2):
        learner = Fnet2D(chosen).build(Fnet2DParameters(**TINY), Facts())
        assert {weight.device.type for weight in learner.modules["network"].parameters()} == {"cuda"}
        losses = [learner.train_batch(batch_of(pixels, 1 - pixels))["loss"] for _ in range(5)]
        runs.append((losses, learner.predict_batch(pixels).tobytes()))
    assert runs[0] == runs[1]
    exact = Fnet2D(device).build(Fnet2DParameters(**TINY), Facts())
    processor = Fnet2D().build(Fnet2DParameters(**TINY), Facts())
    for each in (exact, processor):
        each.set_weights(learner.weights())
    np.testing.assert_allclose(exact.predict_batch(pixels), processor.predict_batch(pixels), atol=1e-4)


def test_several_networks_with_dropout_go_on_bit_for_bit() -> None:
    import torch

    from parfocal.runtime.frameworks.torch import TorchLearner, prepare

    class Two(TorchLearner):
        def train_batch(self, batch: Batch) -> dict[str, float]:
            first, second = self.modules.values()
            made = self.forward(first, batch.input)
            judged = self.forward(second, made.detach())
            return {
                "first": self.step("a", torch.nn.functional.mse_loss(made, self.tensor(batch.targets))),
                "second": self.step("b", judged.square().mean()),
            }

        def validate_batch(self, batch: Batch) -> dict[str, float]:
            return {"first": float((self.infer(self.modules["first"], batch.input) ** 2).mean())}

    def build() -> Two:
        prepare(5)
        modules = {
            name: torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3, padding=1), torch.nn.Dropout(0.5))
            for name in ("first", "second")
        }
        optimisers = {
            "a": torch.optim.Adam(modules["first"].parameters()),
            "b": torch.optim.SGD(modules["second"].parameters(), momentum=0.9),
        }
        return Two(modules, optimisers, 5, Device())

    pixels = np.random.default_rng(0).random((2, 16, 16, 1), np.float32)
    batch = batch_of(pixels, 1 - pixels)
    straight, resumed = build(), build()
    straight.begin_epoch(0, 0.1)
    for _ in range(3):
        straight.train_batch(batch)
    resumed.set_weights(straight.weights())
    resumed.set_state(straight.state())
    torch.rand(7)  # whatever else has drawn random numbers
    losses = []
    for learner in (straight, resumed):
        learner.begin_epoch(1, 0.1)
        losses.append([learner.train_batch(batch) for _ in range(3)])
    assert losses[0] == losses[1]
    assert len({each["first"] for each in losses[0]}) == 3
    assert {name.partition(".")[0] for name in straight.weights()} == {"first", "second"}
    for mine, theirs in zip(resumed.weights().values(), straight.weights().values(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_step_of_a_single_smallest_patch_is_refused() -> None:
    dataset = DatasetManifest(project="p", dataset="d", version=1, images=())
    with pytest.raises(InvalidInputError, match="batch_size"):
        check_dataset(Fnet2DParameters(patch_size=16, batch_size=1), dataset)
    with pytest.raises(InvalidInputError, match="batch_size"):
        check_dataset(Fnet3DParameters(patch_size=16, patch_depth=16, batch_size=1), dataset)
