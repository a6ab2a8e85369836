"""Packages of bioimage.io that n2v and csbdeep write with TensorFlow: of their programs only the arrays are read."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from csbdeep.models import CARE, Config
from n2v.models import N2V, N2VConfig
from n2v.utils.export_utils import save_model_tf
from package_maker import described, packed

from parfocal.n2v import N2V_2D
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.frameworks import keras, keras_variables
from parfocal.runtime.methods.device import Device
from parfocal.runtime.packages.importing import import_package

# Of n2v's own saving with Keras 2.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
MODULE = "parfocal.n2v"


class Theirs:
    """A model of n2v with what its `export_TF` puts into a package."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        images = rng.normal(300, 40, (4, 64, 64, 1)).astype(np.float32)
        config = N2VConfig(images, unet_n_depth=2, unet_n_first=4, unet_kern_size=3, train_batch_size=4)
        model = N2V(config, "theirs", str(folder))
        # Unlike the weights of a new network, those of a trained one are not 0 and 1 in batch normalisation.
        model.keras_model.set_weights(
            [np.abs(rng.normal(0.5, 0.2, value.shape)) for value in model.keras_model.get_weights()]
        )
        self.bundle, self.config = folder / "tf_model.zip", model.logdir / "config.json"
        save_model_tf(model.keras_model, config, config_path=folder / "config.json", model_path=self.bundle)
        self.taken = images[:1].astype(np.float64)
        self.made = model.predict_bioimageio(self.taken[0], "YXC")[np.newaxis]
        mean, std = ([float(value) for value in values] for values in (config.means, config.stds))
        self.before = [
            {"name": "zero_mean_unit_variance", "kwargs": {"mode": "fixed", "axes": "yx", "mean": mean, "std": std}}
        ]
        self.behind = [{"name": "scale_linear", "kwargs": {"axes": "yx", "gain": std, "offset": mean}}]

    def content(self, **changed: Any) -> dict[str, Any]:
        given: dict[str, Any] = {
            "weights": {"tensorflow_saved_model_bundle": "tf_model.zip"},
            "attachments": ["config.json", "tf_model.zip"],
            "before": self.before,
            "behind": self.behind,
        }
        return described(**{**given, **changed})

    def package(self, folder: Path, **changed: Any) -> Any:
        return packed(folder, self.content(**changed), [self.bundle, self.config], self.taken, self.made)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Theirs:
    return Theirs(tmp_path_factory.mktemp("n2v"))


def test_the_arrays_of_a_saved_model_become_a_model_with_its_normalisation(theirs: Theirs, tmp_path: Path) -> None:
    package = theirs.package(tmp_path / "package")
    assert package.method == "n2v-2d"
    (tmp_path / "model").mkdir()
    fields = import_package(MODULE, N2V_2D, package, tmp_path / "model")
    assert fields["normaliser"]["rule"] == "fixed"
    assert fields["package"]["example_difference"] < 1e-5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"attachments": []}, "no config.json of n2v"),
        ({"behind": [{"name": "scale_linear", "kwargs": {"gain": [3.0], "offset": [0.0]}}]}, "scale_linear"),
        ({"before": [{"name": "zero_mean_unit_variance", "kwargs": {"mode": "per_dataset"}}]}, "per_dataset"),
        ({"weights": {"torchscript": "tf_model.zip"}}, "TorchScript is a program"),
    ],
)
def test_a_package_without_what_is_needed_is_refused(
    theirs: Theirs, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(InvalidInputError, match=message):
        import_package(MODULE, N2V_2D, theirs.package(tmp_path / "package", **changed), tmp_path / "model")


def test_spoiled_variables_are_refused(theirs: Theirs, tmp_path: Path) -> None:
    package = theirs.package(tmp_path / "package")
    path = package.path("tf_model.zip")
    with zipfile.ZipFile(theirs.bundle) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    index = next(name for name in members if name.endswith("variables.index"))
    for spoiled, message in (
        ({name: data for name, data in members.items() if "variables/" not in name}, "no variables"),
        ({**members, index: b"nothing" * 9}, "damaged"),
        ({**members, index: members[index][:200]}, "damaged"),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in spoiled.items():
                archive.writestr(name, data)
        (tmp_path / "model").mkdir(exist_ok=True)
        with pytest.raises(InvalidInputError, match=message):
            import_package(MODULE, N2V_2D, package, tmp_path / "model")


def test_variables_that_have_names_are_found_whatever_number_their_layers_have(tmp_path: Path) -> None:
    """csbdeep writes programs of TensorFlow 1, whose variables have the names of layers."""

    def care(first: int = 4) -> Any:
        config = Config("YX", unet_n_depth=2, unet_n_first=first, probabilistic=True, train_tensorboard=False)
        return CARE(config, "care", str(tmp_path / "models"))

    keras.prepare(0, Device())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = care()
        written.export_TF(str(tmp_path / "care.zip"))
    (tmp_path / "unpacked").mkdir()
    keras_variables.unpack_variables(tmp_path / "care.zip", tmp_path / "unpacked")
    keras.keras.backend.clear_session()
    other, larger = care().keras_model, care(8).keras_model
    for model in (other, larger):
        model.compile(optimizer="adam", loss="mse")
    found = keras_variables.read_variables(tmp_path / "unpacked", keras.KerasLearner(other, 0, Device()), "config.json")
    for value, wanted in zip(found.values(), written.keras_model.get_weights(), strict=True):
        np.testing.assert_array_equal(value, wanted)
    with pytest.raises(InvalidInputError, match="do not belong"):
        keras_variables.read_variables(tmp_path / "unpacked", keras.KerasLearner(larger, 0, Device()), "config.json")
