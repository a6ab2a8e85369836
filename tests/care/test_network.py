"""CARE against its publication and against csbdeep itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parfocal.care.parameters import Care2DParameters
from parfocal.runtime.errors import InvalidInputError

TINY: dict[str, Any] = {"network_depth": 2, "kernel_size": 3, "first_filters": 4, "patch_size": 32}


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
    assert count(care.build(Care2DParameters(**parameters))) == expected


def test_the_loss_is_the_laplace_likelihood(care: Any) -> None:
    learner = care.build(Care2DParameters(**TINY))
    rng = np.random.default_rng(0)
    inputs, targets = rng.random((2, 2, 32, 32, 1), dtype=np.float32)
    mean, scale = np.moveaxis(learner.predict_batch(inputs).astype(np.float64), -1, 0)
    expected = np.mean(np.abs(mean - targets[..., 0]) / scale + np.log(scale) + np.log(2))
    assert learner.validate_batch(inputs, targets) == pytest.approx(expected, rel=1e-4)


def test_without_probabilistic_the_loss_is_the_absolute_error(care: Any) -> None:
    learner = care.build(Care2DParameters(**TINY, probabilistic=False))
    inputs, targets = np.random.default_rng(0).random((2, 2, 32, 32, 1), dtype=np.float32)
    expected = np.mean(np.abs(learner.predict_batch(inputs) - targets))
    assert learner.validate_batch(inputs, targets) == pytest.approx(float(expected), rel=1e-4)


def test_training_lowers_the_loss(care: Any) -> None:
    learner = care.build(Care2DParameters(**TINY, learning_rate=0.003))
    rng = np.random.default_rng(0)
    targets = rng.random((4, 32, 32, 1), dtype=np.float32).cumsum(1) / 16
    inputs = targets + rng.normal(0, 0.3, targets.shape).astype(np.float32)
    first = learner.train_batch(inputs, targets)
    for _ in range(30):
        last = learner.train_batch(inputs, targets)
    assert last < first - 0.2


def test_a_restored_learner_goes_on_bit_for_bit(care: Any) -> None:
    batches = np.random.default_rng(0).random((4, 2, 2, 32, 32, 1), dtype=np.float32)
    straight = care.build(Care2DParameters(**TINY))
    for inputs, targets in batches:
        straight.train_batch(inputs, targets)
    first = care.build(Care2DParameters(**TINY))
    for inputs, targets in batches[:2]:
        first.train_batch(inputs, targets)
    second = care.build(Care2DParameters(**TINY, seed=5))
    second.set_weights(first.weights())
    second.set_optimiser_state(first.optimiser_state())
    for inputs, targets in batches[2:]:
        second.train_batch(inputs, targets)
    for mine, theirs in zip(second.weights().values(), straight.weights().values(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own way of saving
def test_the_saved_folder_opens_in_csbdeep_with_the_same_prediction(care: Any, tmp_path: Path) -> None:
    from csbdeep.models import CARE

    parameters = Care2DParameters(**TINY)
    learner, other = care.build(parameters), care.build(Care2DParameters(**TINY, seed=9))
    folder = tmp_path / "model"
    folder.mkdir()
    care.save(folder, parameters, learner.weights(), other.weights())
    image = np.random.default_rng(0).random((1, 32, 32, 1), dtype=np.float32)
    expected = learner.predict_batch(image)
    opened = CARE(None, name="model", basedir=str(tmp_path))
    opened.load_weights("weights_best.h5")
    np.testing.assert_allclose(opened.keras_model(image).numpy(), expected, atol=1e-6)
    np.testing.assert_array_equal(care.load(folder, parameters, "best").predict_batch(image), expected)
    np.testing.assert_array_equal(
        care.load(folder, parameters, "last").predict_batch(image), other.predict_batch(image)
    )


def test_damaged_weights_are_refused(care: Any, tmp_path: Path) -> None:
    (tmp_path / "weights_best.h5").write_bytes(b"not a weights file")
    with pytest.raises(InvalidInputError, match=r"weights_best\.h5"):
        care.load(tmp_path, Care2DParameters(**TINY), "best")


def test_weights_of_another_network_are_refused(care: Any) -> None:
    small = care.build(Care2DParameters(**TINY))
    large = care.build(Care2DParameters(**TINY | {"first_filters": 8}))
    with pytest.raises(InvalidInputError):
        small.set_weights(large.weights())


def test_tiled_prediction_equals_the_whole_image(care: Any) -> None:
    from parfocal.runtime.tiling import predict_tiled

    parameters = Care2DParameters(**TINY)
    learner, geometry = care.build(parameters), care.geometry(parameters)
    image = np.random.default_rng(0).random((150, 131), dtype=np.float32)

    def run(tile: tuple[int, int]) -> Any:
        return predict_tiled(
            lambda batch: learner.predict_batch(batch[..., np.newaxis]),
            image,
            tile_shape=tile,
            overlap=geometry.overlap,
            divisor=geometry.divisor,
            output_channels=geometry.output_channels,
        )

    # The border of the padded image differs, so only what lies a receptive field inside is compared.
    inner = (slice(geometry.overlap, -geometry.overlap),) * 2
    np.testing.assert_allclose(run((96, 96))[inner], run((152, 132))[inner], atol=1e-5)


def test_the_server_side_of_care_loads_no_framework() -> None:
    code = (
        "import sys; import parfocal.runtime.server.__main__, parfocal.care; "
        "bad = {'tensorflow', 'keras', 'torch', 'csbdeep'} & set(sys.modules); sys.exit(', '.join(bad) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
