"""Packages of bioimage.io that stardist writes: their weights are attached, and the package's example must come out."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from csbdeep.utils import normalize
from package_maker import PERCENTILES, described, packed
from spoiled_weights import text_inside
from stardist import Rays_GoldenSpiral
from stardist.models import Config2D, Config3D, StarDist2D, StarDist3D

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.frameworks import keras
from parfocal.runtime.methods.device import Device
from parfocal.runtime.packages.importing import import_package, main
from parfocal.stardist import STARDIST_2D, STARDIST_3D

# Of Keras' own way of saving.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
MODULE = "parfocal.stardist"


class Theirs:
    """A model of stardist with its package: what `stardist.bioimageio_utils` puts into one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        config = Config2D(
            n_rays=8, grid=(2, 2), unet_n_depth=1, unet_n_filter_base=4, train_patch_size=(64, 64), n_channel_in=1
        )
        keras.prepare(0, Device())
        model = StarDist2D(config, "theirs", str(folder))
        self.weights = model.logdir / "stardist_weights.h5"
        model.keras_model.save_weights(str(model.logdir / "weights_best.h5"))
        (model.logdir / "weights_best.h5").rename(self.weights)
        self.config = json.loads((model.logdir / "config.json").read_text())
        self.taken = np.random.default_rng(0).integers(100, 900, (1, 64, 80, 1)).astype(np.float32)
        probability, distances = model.keras_model.predict(normalize(self.taken, 1.0, 99.8, axis=(1, 2)), verbose=0)
        # The network's grid is brought to the size of the image: probabilities with zeros between, distances repeated.
        self.made = np.zeros((*self.taken.shape[:-1], 9), np.float32)
        self.made[:, ::2, ::2, :1] = probability
        self.made[..., 1:] = distances.repeat(2, axis=1).repeat(2, axis=2)
        self.content = described(
            weights={"tensorflow_saved_model_bundle": "TF_SavedModel.zip"},
            attachments=["stardist_weights.h5"],
            config={
                "stardist": {
                    "thresholds": {"prob": 0.4, "nms": 0.3},
                    "weights": "stardist_weights.h5",
                    "config": self.config,
                }
            },
        )


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Theirs:
    return Theirs(tmp_path_factory.mktemp("stardist"))


def test_a_package_of_stardist_becomes_a_model_with_its_thresholds_and_percentiles(
    theirs: Theirs, tmp_path: Path
) -> None:
    package = packed(tmp_path / "package", theirs.content, [theirs.weights], theirs.taken, theirs.made)
    assert package.method == "stardist-2d"
    (tmp_path / "model").mkdir()
    fields = import_package(MODULE, STARDIST_2D, package, tmp_path / "model")
    assert fields["facts"]["measured"] == {"probability_threshold": 0.4, "overlap_threshold": 0.3}
    assert (fields["normaliser"]["low"], fields["normaliser"]["high"]) == (1.0, 99.8)
    assert fields["package"]["authors"] == ["Grace Hopper"]
    assert fields["package"]["example_difference"] < 1e-5
    assert {path.name for path in (tmp_path / "model").iterdir()} >= {"config.json", "weights_best.h5"}


def test_a_package_of_volumes_becomes_a_model_with_its_anisotropy(tmp_path: Path) -> None:
    rays = Rays_GoldenSpiral(16, anisotropy=(2, 1, 1))
    config = Config3D(
        rays=rays,
        anisotropy=(2, 1, 1),
        grid=(1, 2, 2),
        n_channel_in=1,
        backbone="unet",
        unet_n_depth=1,
        unet_n_filter_base=4,
    )
    keras.prepare(0, Device())
    model = StarDist3D(config, "theirs", str(tmp_path))
    model.keras_model.save_weights(str(model.logdir / "weights_best.h5"))
    weights = (model.logdir / "weights_best.h5").rename(model.logdir / "stardist_weights.h5")
    taken = np.random.default_rng(0).integers(100, 900, (1, 8, 32, 40, 1)).astype(np.float32)
    probability, distances = model.keras_model.predict(normalize(taken, 1.0, 99.8, axis=(1, 2, 3)), verbose=0)
    made = np.zeros((*taken.shape[:-1], 17), np.float32)
    made[:, :, ::2, ::2, :1] = probability
    made[..., 1:] = distances.repeat(2, axis=2).repeat(2, axis=3)
    own = json.loads((model.logdir / "config.json").read_text())
    said = {"thresholds": {"prob": 0.4, "nms": 0.3}, "weights": weights.name, "config": own}
    content = described(
        weights={"tensorflow_saved_model_bundle": "TF_SavedModel.zip"},
        attachments=[weights.name],
        before=[{**PERCENTILES, "kwargs": {**PERCENTILES["kwargs"], "axes": "zyx"}}],
        axes="bzyxc",
        config={"stardist": said},
    )
    package = packed(tmp_path / "package", content, [weights], taken, made)
    assert package.method == "stardist-3d"
    (tmp_path / "model").mkdir()
    fields = import_package(MODULE, STARDIST_3D, package, tmp_path / "model")
    assert fields["facts"]["measured"] == {"probability_threshold": 0.4, "overlap_threshold": 0.3}
    assert (fields["parameters"]["anisotropy"], fields["parameters"]["rays"]) == (2, 16)
    assert fields["package"]["example_difference"] < 1e-5


def without(content: dict[str, Any], *keys: str) -> None:
    for key in keys[:-1]:
        content = content[key]
    del content[keys[-1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: without(content, "config", "stardist", "weights"), "tensorflow_saved_model_bundle"),
        (lambda content: content["config"]["stardist"]["config"].update(n_rays=16), "do not belong together"),
        (lambda content: content["config"]["stardist"]["config"].update(n_channel_in=10**9), "n_channel_in"),
        (lambda content: content["config"]["stardist"]["thresholds"].update(prob=7), "prob"),
        (lambda content: content["outputs"][0].update(postprocessing=[{"name": "binarize"}]), "binarize"),
        (lambda content: content["inputs"][0].update(preprocessing=[{"name": "sigmoid"}]), "sigmoid"),
        (
            lambda content: content["inputs"][0].update(
                preprocessing=[{**PERCENTILES, "kwargs": {**PERCENTILES["kwargs"], "min_percentile": 40.0}}]
            ),
            "does not give what the package says",
        ),
        (lambda content: content["inputs"][0].update(shape={"min": [1, 3, 3, 1], "step": [0, 3, 3, 0]}), "steps of 3"),
    ],
)
def test_what_is_not_the_model_of_the_package_is_refused(
    theirs: Theirs, tmp_path: Path, change: Any, message: str
) -> None:
    content = copy.deepcopy(theirs.content)
    change(content)
    package = packed(tmp_path / "package", content, [theirs.weights], theirs.taken, theirs.made)
    (tmp_path / "model").mkdir()
    with pytest.raises(InvalidInputError, match=message):
        import_package(MODULE, STARDIST_2D, package, tmp_path / "model")


def test_an_example_that_comes_out_otherwise_is_refused_with_the_figure(theirs: Theirs, tmp_path: Path) -> None:
    made = theirs.made.copy()
    made[:, 2:4] += np.ptp(made)
    packed(tmp_path / "package", theirs.content, [theirs.weights], theirs.taken, made)
    assert main(MODULE, "stardist-2d", str(tmp_path / "package"), str(tmp_path / "out")) == 1
    error = json.loads((tmp_path / "out" / "report.json").read_text())["error"]
    assert "3.12 % of its numbers" in error
    assert not list((tmp_path / "out").glob("*.npy"))


def test_weights_that_are_no_plain_numbers_are_refused(theirs: Theirs, tmp_path: Path) -> None:
    package = packed(tmp_path / "package", theirs.content, [theirs.weights], theirs.taken, theirs.made)
    text_inside(package.path("stardist_weights.h5"))
    (tmp_path / "model").mkdir()
    with pytest.raises(InvalidInputError, match="other than plain numbers"):
        import_package(MODULE, STARDIST_2D, package, tmp_path / "model")
