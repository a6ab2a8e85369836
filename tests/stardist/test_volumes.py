"""StarDist for volumes against its publication and against stardist itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from learner_suite import LearnerSuite

from parfocal.runtime.methods.implementation import Channels, Tiling
from parfocal.stardist.parameters import StarDist3DParameters, StarDistPredictionParameters

# Keras' own way of saving.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def balls(shape: tuple[int, int, int], centres: list[tuple[int, int, int]], radius: int = 6, squeeze: float = 2) -> Any:
    """Return a label volume of balls whose planes lie `squeeze` pixels apart, and the volume they are seen in."""
    z, y, x = np.indices(shape)
    labels = np.zeros(shape, np.uint16)
    for number, (plane, row, column) in enumerate(centres, start=1):
        inside = (squeeze * (z - plane)) ** 2 + (y - row) ** 2 + (x - column) ** 2 <= radius**2
        labels[inside] = number
    noise = np.random.default_rng(0).normal(0, 0.05, shape)
    return labels, ((labels > 0) + noise).astype(np.float32)


SMALL: dict[str, Any] = {"patch_size": 32, "patch_depth": 16, "rays": 32, "first_filters": 8, "learning_rate": 0.003}
THREE = [(4, 9, 9), (10, 22, 20), (11, 8, 24)]


@pytest.fixture(scope="module")
def stardist_3d() -> Any:
    from parfocal.stardist.network import StarDist3D

    return StarDist3D()


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"backbone": "unet", "grid": 1}, 1_119_969),
        ({"backbone": "resnet", "grid": 1}, 494_081),
        ({"backbone": "resnet", "grid": 2}, 1_547_201),
    ],
)
def test_the_networks_for_volumes_have_the_published_number_of_parameters(
    stardist_3d: Any, parameters: dict[str, Any], expected: int
) -> None:
    learner = stardist_3d.build(StarDist3DParameters(**parameters, anisotropy=2), Channels())
    assert sum(array.size for array in learner.weights().values()) == expected


@pytest.mark.parametrize("grid", [1, 2])
def test_targets_of_volumes_are_those_of_stardist(stardist_3d: Any, grid: int) -> None:
    from stardist import Rays_GoldenSpiral
    from stardist.models.model3d import StarDistData3D

    labels, image = balls((16, 32, 32), THREE)
    parameters = StarDist3DParameters(**SMALL, grid=grid, anisotropy=2)
    ours = stardist_3d.prepare_targets(labels[np.newaxis, ..., np.newaxis], parameters)
    data = StarDistData3D(
        [image],
        [labels.astype(np.int32)],
        1,
        Rays_GoldenSpiral(32, anisotropy=(2, 1, 1)),
        1,
        patch_size=(16, 32, 32),
        grid=(1, grid, grid),
        anisotropy=(2, 1, 1),
    )
    _, theirs = data[0]
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-6)


def test_anisotropy_is_measured_from_the_labels_unless_it_is_given(stardist_3d: Any) -> None:
    labels, _ = balls((16, 32, 32), THREE)
    blank, unknown = np.zeros_like(labels), np.full(labels.shape, -1)
    measured = stardist_3d.resolve(StarDist3DParameters(**SMALL), [blank, labels, unknown])
    assert measured.anisotropy == pytest.approx(2, abs=0.2)
    given = StarDist3DParameters(**SMALL, anisotropy=3)
    assert stardist_3d.resolve(given, [labels]).anisotropy == 3


def test_a_trained_network_finds_the_objects_of_a_volume(stardist_3d: Any, tmp_path: Path) -> None:
    parameters = StarDist3DParameters(**SMALL, anisotropy=2)
    learner = stardist_3d.build(parameters, Channels())
    labels, image = balls((16, 32, 32), THREE)
    targets = stardist_3d.prepare_targets(labels[np.newaxis, ..., np.newaxis], parameters)
    for _ in range(120):
        learner.train_batch(image[np.newaxis, ..., np.newaxis], targets)
    stardist_3d.save(tmp_path, parameters, Channels(), learner.weights(), learner.weights())
    stardist_3d.calibrate(tmp_path, parameters, Channels(), [(image, labels)])
    loaded = stardist_3d.load(tmp_path, parameters, Channels(), "best")
    objects = stardist_3d.find_objects(loaded, image, StarDistPredictionParameters(), Tiling(512**3))
    assert len(objects.probability) == 3
    assert objects.labels.shape == labels.shape
    assert len(objects.outlines) == 0
    both = np.sum((objects.labels > 0) & (labels > 0)) / np.sum((objects.labels > 0) | (labels > 0))
    assert both > 0.7


class TestStarDist3D(LearnerSuite):
    path = "parfocal.stardist.network:StarDist3D"
    parameters = StarDist3DParameters(**SMALL, anisotropy=2)
    other = StarDist3DParameters(**SMALL, anisotropy=2, seed=9)
    larger = StarDist3DParameters(**SMALL | {"first_filters": 16}, anisotropy=2)
    patch = (16, 32, 32)
    weights_suffix = ".h5"

    def target_of(self, inputs: Any) -> Any:
        labels, _ = balls((16, 32, 32), THREE)
        return np.broadcast_to(labels[..., np.newaxis], (len(inputs), *self.patch, 1))
