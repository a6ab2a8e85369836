"""Cellpose against the cellpose library: network, loss, schedule, flows, and the objects in an image and a volume."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cellpose import dynamics
from learner_suite import prepared, view_of
from support import nuclei_pair, nuclei_volumes

from parfocal.cellpose.network import Cellpose2D, Cellpose3D, flow_loss
from parfocal.cellpose.parameters import (
    Cellpose2DParameters,
    Cellpose3DParameters,
    Cellpose3DPredictionParameters,
    CellposePredictionParameters,
    WarmUpAndHalvings,
)
from parfocal.cellpose.segmentation import find_masks
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.prediction.tiling import Tiling
from parfocal.runtime.store.facts import Facts, Port

# Of PyTorch's own module that cellpose imports, and of cellpose's dynamics.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),
]
FACTS = Facts(
    inputs=(Port(role="source"),),
    targets=(Port(role="target", kind="labels"),),
    measured={"diameter": 15.0, "cell_threshold": 0.0, "flow_threshold": 0.4},
)
SMALL: dict[str, Any] = {"first_filters": 4, "patch_size": 64, "mean_diameter": 15, "precision": "float32"}


def trained(implementation: Any, parameters: Any, facts: Facts, steps: int = 100) -> Any:
    """Return a learner that has seen simulated nuclei for a few seconds."""
    learner = implementation.build(parameters, facts)
    learner.begin_epoch(0, 0.005)
    rng = np.random.default_rng(0)
    batches = []
    for _ in range(4):
        pairs = [nuclei_pair(rng, (64, 64)) for _ in range(4)]
        images = [Cellpose2D.normaliser.apply(image, Cellpose2D.normaliser.fit(image, "YX")) for image, _ in pairs]
        labels = np.stack([drawn for _, drawn in pairs])[..., np.newaxis].astype(np.int32)
        batches.append(prepared(Cellpose2D(), np.stack(images)[..., np.newaxis], labels, parameters, facts))
    for step in range(steps):
        learner.train_batch(batches[step % 4])
    return learner


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small model trained here, and the folder in which it is saved."""
    folder = tmp_path_factory.mktemp("model")
    implementation, parameters = Cellpose2D(), Cellpose2DParameters(**SMALL)
    learner = trained(implementation, parameters, FACTS)
    implementation.save(folder, parameters, FACTS, {"best": learner.weights()})
    return folder


def original(folder: Path, diameter: float, filters: int = 4) -> Any:
    """Return cellpose's own model with the saved weights; its network is made with fewer filters than usual."""
    from cellpose.models import CellposeModel
    from cellpose.resnet_torch import CPnet

    logging.getLogger("cellpose").setLevel(logging.ERROR)

    class Narrow(CPnet):
        """Cellpose expects styles of 256 numbers."""

        def forward(self, data: Any) -> Any:
            output, style, maps = super().forward(data)
            return output, torch.nn.functional.pad(style, (0, 256 - style.shape[1])), maps

    model = CellposeModel(gpu=False, pretrained_model=False, mkldnn=False)
    model.net = Narrow([2, *(filters * 2**level for level in range(4))], 3, sz=3, mkldnn=False)
    model.net.load_model(str(folder / "weights_best.cellpose"))
    model.net_ortho = None
    model.diam_mean = float(model.net.diam_mean)
    model.diam_labels = diameter
    return model


def test_the_network_has_as_many_parameters_as_that_of_the_publication() -> None:
    learner = Cellpose2D().build(Cellpose2DParameters(), Facts())
    module = learner.modules["network"]
    assert sum(weight.numel() for weight in module.parameters()) == 6_600_845
    assert len(learner.weights()) == 313


def test_the_full_network_opens_in_cellpose_itself(tmp_path: Path) -> None:
    from cellpose.models import CellposeModel

    implementation, parameters = Cellpose2D(), Cellpose2DParameters(seed=3)
    facts = Facts(measured={"diameter": 22.0})
    learner = implementation.build(parameters, facts)
    implementation.save(tmp_path, parameters, facts, {"best": learner.weights()})
    model = CellposeModel(gpu=False, mkldnn=False, pretrained_model=str(tmp_path / "weights_best.cellpose"))
    assert (float(model.diam_mean), float(model.diam_labels)) == (30.0, 22.0)
    for name, value in model.net.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), learner.weights()[name])


def test_the_loss_is_that_of_cellpose() -> None:
    from cellpose.train import _loss_fn_seg

    rng = np.random.default_rng(0)
    output = torch.from_numpy(rng.normal(size=(2, 3, 8, 8)).astype(np.float32))
    targets = rng.random((2, 3, 8, 8)).astype(np.float32)
    cell = torch.from_numpy((targets[:, 0] > 0.5).astype(np.float32))
    flows = torch.from_numpy(targets[:, 1:])
    expected = float(_loss_fn_seg(targets, output, torch.device("cpu")))
    assert float(flow_loss(output, cell, flows, torch.ones_like(cell))["loss"]) == pytest.approx(expected, rel=1e-6)
    # Zero output, flow (0.6, 0.8) everywhere, half of the pixels in objects.
    cell = torch.zeros(1, 4, 4)
    cell[:, :2] = 1
    flows = torch.tensor([0.6, 0.8]).reshape(1, 2, 1, 1).expand(1, 2, 4, 4)
    assert float(flow_loss(torch.zeros(1, 3, 4, 4), cell, flows, torch.ones(1, 4, 4))["loss"]) == pytest.approx(
        6.94315, abs=1e-5
    )


def test_pixels_that_nobody_annotated_count_for_nothing() -> None:
    labels = np.zeros((1, 16, 16, 1), np.int32)
    labels[:, 2:8, 2:8], labels[:, :, 10:] = 1, -1
    batch = prepared(Cellpose2D(), np.zeros((1, 16, 16, 1), np.float32), labels, Cellpose2DParameters())
    output = torch.zeros(1, 3, 16, 16)
    changed = output.clone()
    changed[..., 10:] = 7.0
    targets = [torch.from_numpy(each) for each in batch.targets]
    assert float(flow_loss(output, *targets)["loss"]) == float(flow_loss(changed, *targets)["loss"])


@pytest.mark.parametrize("epochs", [150, 400])
def test_the_learning_rate_falls_as_in_cellpose(epochs: int) -> None:
    rates = np.append(np.full(10, np.nan), 0.005 * np.ones(epochs - 10))
    last = 100 if epochs > 300 else 50
    rates[-last:] = 0.005 * 0.5 ** np.repeat(np.arange(1, 11), last // 10)
    schedule = WarmUpAndHalvings.of(0.005, epochs)
    found = [schedule.learning_rate]
    for epoch in range(1, epochs):
        schedule = schedule.after_epoch(epoch, {})
        found.append(schedule.learning_rate)
    np.testing.assert_allclose(found[10:], rates[10:])
    assert 0 < found[0] < found[5] < found[10] == 0.005
    assert found[-1] == pytest.approx(0.005 / 1024)
    # A checkpoint has nothing but these values.
    assert WarmUpAndHalvings.of(0.005, epochs).restored(schedule.state()) == schedule


def test_perfect_flows_of_a_disc_give_it_back_and_those_of_a_very_large_one_nothing() -> None:
    y, x = np.indices((80, 80))
    disc = ((y - 40) ** 2 + (x - 40) ** 2 <= 15**2).astype(np.int32)
    large = ((y - 40) ** 2 + (x - 40) ** 2 <= 38**2).astype(np.int32)
    settings = {"scale": 1.0, "cell_threshold": 0.0, "flow_threshold": 0.4, "minimum_size": 15}
    for labels, fraction, left in ((disc, 0.4, True), (large, 0.4, False), (large, 1.0, True)):
        flows = dynamics.masks_to_flows(labels)
        outputs = np.stack([*(5 * flows), np.where(labels, 6.0, -6.0)], axis=-1).astype(np.float32)
        masks = find_masks(outputs, largest_fraction=fraction, **settings)
        assert bool(masks.any()) is left
        if left:
            assert np.mean((masks > 0) == (labels > 0)) > 0.99


def test_a_small_object_does_not_take_another_one_with_it() -> None:
    """Cellpose numbers objects anew after it has looked for small ones, and discards their neighbours in the list."""
    labels = np.zeros((60, 60), np.int32)
    labels[2:6, 2:5], labels[20:40, 5:25], labels[20:40, 32:52] = 1, 2, 3
    flows = np.stack([*(5 * dynamics.masks_to_flows(labels)), np.where(labels, 6.0, -6.0)], axis=-1)
    settings = {"scale": 1.0, "cell_threshold": 0.0, "minimum_size": 15, "largest_fraction": 0.4}
    flows[20:40, 32:52, :2] = flows[20:40, 32:52, 1::-1]  # wrong ones: the third object goes for them
    masks = find_masks(flows.astype(np.float32), flow_threshold=0.4, **settings)
    assert masks[30, 15] > 0
    assert masks[4, 3] == 0


@pytest.mark.parametrize(("side", "diameter", "least"), [(96, 0.0, 1.0), (300, 0.0, 0.97), (200, 22.0, 1.0)])
def test_the_objects_are_those_of_cellpose(saved: Path, side: int, diameter: float, least: float) -> None:
    """One tile: the same labels; several tiles, whose seams lie elsewhere: an overlap of 97 %; and scaled images."""
    image = nuclei_pair(np.random.default_rng(5), (side, side))[0]
    implementation = Cellpose2D()
    parameters = Cellpose2DParameters(**SMALL)
    learner = implementation.load(saved, view_of(parameters, FACTS), "best")
    normaliser = Cellpose2D.normaliser
    normalised = normaliser.apply(image, normaliser.fit(image, "YX"))
    asked = CellposePredictionParameters(diameter=diameter, flow_threshold=1.0)
    ours = implementation.find_objects(learner, normalised, asked, Tiling(2**22))
    model = original(saved, FACTS.measured["diameter"])
    theirs = model.eval(image, channels=[0, 0], diameter=diameter or None, flow_threshold=1.0)[0]
    assert ours.labels.max() >= 3
    assert len(ours.probability) == len(ours.outlines) == ours.labels.max()
    both, either = ((ours.labels > 0) & (theirs > 0)).sum(), ((ours.labels > 0) | (theirs > 0)).sum()
    assert both / either >= least
    if least == 1.0:
        np.testing.assert_array_equal(ours.labels, theirs)


def test_the_objects_in_a_volume_are_those_of_cellpose(saved: Path) -> None:
    volume = nuclei_volumes(np.random.default_rng(5), (12, 40, 48))[0]
    implementation, parameters = Cellpose3D(), Cellpose3DParameters(**SMALL)
    facts = FACTS.with_measured(anisotropy=2.0)
    learner = implementation.load(saved, view_of(parameters, facts, axes="ZYX"), "best")
    normaliser = Normaliser(low=1.0, high=99.0)
    normalised = normaliser.apply(volume, normaliser.fit(volume, "ZYX"))
    model = original(saved, FACTS.measured["diameter"])
    ours = implementation.find_objects(learner, normalised, Cellpose3DPredictionParameters(), Tiling(2**22))
    theirs = model.eval(volume, channels=[0, 0], z_axis=0, do_3D=True, anisotropy=2.0)[0]
    assert ours.labels.max() >= 3
    np.testing.assert_array_equal(ours.labels, theirs)
    stitching = Cellpose3DPredictionParameters(assembly="stitched", stitch_threshold=0.3, flow_threshold=1.0)
    ours = implementation.find_objects(learner, normalised, stitching, Tiling(2**22))
    theirs = model.eval(volume, channels=[0, 0], z_axis=0, stitch_threshold=0.3, flow_threshold=1.0)[0]
    both, either = ((ours.labels > 0) & (theirs > 0)).sum(), ((ours.labels > 0) | (theirs > 0)).sum()
    assert ours.labels.any()
    assert both / either > 0.97


def test_objects_of_large_images_are_found_in_windows_each_once() -> None:
    """The same objects as without windows; the dynamics of an image of any size need the memory of one window."""
    labels = nuclei_pair(np.random.default_rng(2), (200, 260))[1].astype(np.int32)
    flows = np.stack([*(5 * dynamics.masks_to_flows(labels)), np.where(labels, 6.0, -6.0)], axis=-1).astype(np.float32)
    settings = {
        "scale": 1.0,
        "cell_threshold": 0.0,
        "flow_threshold": 0.4,
        "minimum_size": 15,
        "largest_fraction": 0.4,
    }
    whole, parts = (find_masks(flows, window=window, **settings) for window in (4096, 96))
    assert whole.max() == parts.max() > 30
    pairs = np.unique(np.stack([whole.ravel(), parts.ravel()]), axis=1)
    assert pairs.shape[1] == whole.max() + 1
