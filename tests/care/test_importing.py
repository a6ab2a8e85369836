"""CARE models made by csbdeep itself: they predict the same here, and only the described network is taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from csbdeep.models import CARE, Config
from support import mentions

from parfocal.care import CARE_2D, CARE_3D
from parfocal.care.importing import import_model, main
from parfocal.care.parameters import CarePredictionParameters
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import Image
from parfocal.runtime.prediction.loaded_model import load_model, predict_image
from parfocal.runtime.store.manifests import ModelManifest

# Of Keras' own way of saving.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def written(folder: Path, axes: str = "YX", **values: Any) -> Any:
    """Return a model that csbdeep has written to a folder, with random weights."""
    config = Config(axes, unet_n_first=4, train_batch_size=8, train_tensorboard=False, **values)
    model = CARE(config, folder.name, str(folder.parent))
    model.keras_model.save_weights(str(folder / "weights_best.h5"))
    return model


def published(source: Path, target: Path, method: Any = CARE_2D) -> tuple[ModelManifest, Path]:
    """Return the manifest that an import makes, and the folder of the model's files."""
    target.mkdir(parents=True, exist_ok=True)
    contents = import_model(method, source, target)
    places = {"project": "p", "model": "m", "version": 1, "service": "care", "job": "", "dataset_uri": ""}
    return ModelManifest.model_validate({**contents, **places}), target


@pytest.mark.parametrize(
    ("method", "shape", "values"),
    [
        (CARE_2D, (100, 132), {"probabilistic": True, "unet_n_depth": 3, "unet_kern_size": 5}),
        (CARE_2D, (64, 64), {"probabilistic": False}),
        (CARE_3D, (12, 40, 48), {"probabilistic": False}),
    ],
)
def test_an_imported_model_predicts_as_csbdeep_does(
    tmp_path: Path, method: Any, shape: tuple[int, ...], values: dict[str, Any]
) -> None:
    original = written(tmp_path / "outside", method.axes, **values)
    manifest, files = published(tmp_path / "outside", tmp_path / "model", method)
    assert "weights_last.h5" not in manifest.warnings[0]
    assert manifest.parameters["batch_size"] == 8
    model = load_model(method, manifest, files, weights="best")
    image = np.random.default_rng(0).integers(100, 4000, shape).astype(np.uint16)
    expected = original.predict(image, method.axes)
    found = predict_image(
        model, Image(image, method.axes), CarePredictionParameters(precision="float32"), tmp_path, "a"
    ).finish()
    np.testing.assert_allclose(found.images["prediction"].pixels, expected, rtol=1e-5, atol=1e-5 * np.ptp(expected))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"unet_n_first": 8}, "belong together"),
        ({"unet_n_first": 10**9}, "unet_n_first"),
        ({"unet_residual": False}, "unet_residual is False"),
        ({"n_channel_in": 2}, "n_channel_in is 2"),
        ({"probabilistic": "yes"}, "probabilistic"),
        ({"axes": "ZYXC"}, "axes"),
    ],
)
def test_a_network_that_is_not_the_described_one_is_refused(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    written(tmp_path / "outside")
    path = tmp_path / "outside" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    with pytest.raises(InvalidInputError, match=message):
        published(tmp_path / "outside", tmp_path / "model")


def test_the_report_says_why_a_folder_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert main("care-2d", str(tmp_path / "empty"), str(tmp_path / "out")) == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert mentions(report["error"], "empty ", "lacks config.json")
