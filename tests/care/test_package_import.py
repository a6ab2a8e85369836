"""Packages of bioimage.io with networks of csbdeep: arrays alone are read, and the package's example must come out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from csbdeep.models import CARE, Config
from csbdeep.utils import normalize
from package_maker import PERCENTILES, described, packed

from parfocal.care import CARE_2D, CARE_3D
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.packages.importing import import_package

# Of Keras' own way of saving.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
MODULE = "parfocal.care"


def theirs(folder: Path, axes: str, taken: Any, **values: Any) -> tuple[Path, Any]:
    """Return the file of a whole model as Keras saves it, and the network's output for an input."""
    model = CARE(Config(axes, unet_n_first=4, train_tensorboard=False, **values), None, None).keras_model
    path = folder / "care.h5"
    model.save(path)
    spatial = tuple(range(1, taken.ndim - 1))
    return path, model.predict(normalize(taken, 1.0, 99.8, axis=spatial), verbose=0)


@pytest.mark.parametrize(
    ("method", "shape", "values"),
    [
        (CARE_2D, (1, 64, 48, 1), {"probabilistic": True, "unet_n_depth": 3, "unet_kern_size": 5}),
        (CARE_3D, (1, 8, 32, 32, 1), {"probabilistic": False}),
    ],
)
def test_a_network_without_csbdeeps_configuration_is_known_by_its_arrays(
    tmp_path: Path, method: Any, shape: tuple[int, ...], values: dict[str, Any]
) -> None:
    taken = np.random.default_rng(0).integers(100, 900, shape).astype(np.float32)
    path, made = theirs(tmp_path, method.axes, taken, **values)
    axes = method.axes.lower()
    before = [{**PERCENTILES, "kwargs": {**PERCENTILES["kwargs"], "axes": axes}}]
    content = described(weights={"keras_hdf5": "care.h5"}, axes=f"b{axes}c", before=before)
    package = packed(tmp_path / "package", content, [path], taken, made)
    assert package.method == ""
    (tmp_path / "model").mkdir()
    fields = import_package(MODULE, method, package, tmp_path / "model")
    assert fields["parameters"]["probabilistic"] == values["probabilistic"]
    assert (fields["normaliser"]["low"], fields["normaliser"]["high"]) == (1.0, 99.8)
    assert fields["package"]["example_difference"] < 1e-5


def test_steps_and_networks_that_care_does_not_have_are_refused(tmp_path: Path) -> None:
    taken = np.random.default_rng(0).integers(100, 900, (1, 32, 32, 1)).astype(np.float32)
    path, made = theirs(tmp_path, "YX", taken, probabilistic=False, unet_residual=False)
    (tmp_path / "model").mkdir()
    for changed, message in (
        ({}, "does not give what the package says"),
        ({"behind": [{"name": "scale_range", "kwargs": {"reference_tensor": "input"}}]}, "scale_range"),
        ({"weights": {"onnx": "care.h5", "torchscript": "care.h5"}}, "onnx: .*torchscript: "),
    ):
        content = described(**{"weights": {"keras_hdf5": "care.h5"}, **changed})
        package = packed(tmp_path / "package", content, [path], taken, made)
        with pytest.raises(InvalidInputError, match=message):
            import_package(MODULE, CARE_2D, package, tmp_path / "model")
    # What the package says of the network is not believed.
    config = tmp_path / "config.json"
    given = vars(Config("YX", unet_n_first=8, train_tensorboard=False))
    config.write_text(json.dumps({name: value for name, value in given.items() if name != "train_loss"}))
    content = described(weights={"keras_hdf5": "care.h5"}, attachments=["config.json"])
    package = packed(tmp_path / "package", content, [path, config], taken, made)
    assert package.method == "care-2d"
    with pytest.raises(InvalidInputError, match="do not belong together"):
        import_package(MODULE, CARE_2D, package, tmp_path / "model")
