"""Models made by n2v itself: they predict the same here, and nothing in their files is run or believed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from n2v.models import N2V, N2VConfig
from spoiled_weights import external_link, garbage, text_inside
from support import mentions

from parfocal.n2v import N2V_2D, N2V_3D
from parfocal.n2v.importing import import_model, main
from parfocal.n2v.parameters import NoisePredictionParameters
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import Image
from parfocal.runtime.prediction.loaded_model import load_model, predict_image
from parfocal.runtime.store.manifests import ModelManifest

# Of n2v's own training and saving with Keras 2.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
SMALL: dict[str, Any] = {"unet_kern_size": 3, "unet_n_first": 8, "train_tensorboard": False, "train_loss": "mse"}


def noisy(seed: int, shape: tuple[int, ...] = (96, 96)) -> Any:
    rng = np.random.default_rng(seed)
    return (200 + 100 * np.sin(np.indices(shape).sum(axis=0) / 9) + rng.normal(0, 30, shape)).astype(np.float32)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small model trained and saved by n2v alone."""
    images = np.stack([noisy(seed) for seed in range(5)])[..., np.newaxis]
    config = N2VConfig(
        images,
        train_epochs=1,
        train_steps_per_epoch=10,
        train_batch_size=4,
        n2v_perc_pix=1.5,
        n2v_patch_shape=(64, 64),
        structN2Vmask=[[0, 1, 1, 1, 1, 1, 0]],
        **SMALL,
    )
    model = N2V(config, "waves", str(tmp_path_factory.mktemp("n2v")))
    model.train(images[:4], images[4:])
    return model


@pytest.fixture
def folder(original: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original.logdir, tmp_path / "waves"))


def published(source: Path, target: Path, method: Any = N2V_2D) -> tuple[ModelManifest, Path]:
    """Return the manifest that an import makes, and the folder of the model's files."""
    target.mkdir(parents=True, exist_ok=True)
    contents = import_model(method, source, target)
    places = {"project": "p", "model": "m", "version": 1, "service": "n2v", "job": "", "dataset_uri": ""}
    return ModelManifest.model_validate({**contents, **places}), target


def change(folder: Path, **values: Any) -> None:
    given = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**given, **values}))


def predicted(method: Any, manifest: ModelManifest, files: Path, pixels: Any, axes: str, scratch: Path) -> Any:
    model = load_model(method, manifest, files, weights="best")
    found = predict_image(model, Image(pixels, axes), NoisePredictionParameters(), scratch, "a").finish()
    return found.images["prediction"].pixels


def test_an_imported_model_predicts_as_n2v_does(original: Any, folder: Path, tmp_path: Path) -> None:
    manifest, files = published(folder, tmp_path / "model")
    assert manifest.warnings == ()
    parameters = manifest.parameters
    assert (parameters["variant"], parameters["struct_direction"], parameters["struct_length"]) == ("structn2v", "x", 5)
    assert (parameters["batch_size"], parameters["masked_percent"], parameters["patch_size"]) == (4, 1.5, 64)
    # What n2v kept in the folder, read back by n2v.
    again = N2V(None, folder.name, str(folder.parent))
    for image in (noisy(20, (100, 132)), 3 * noisy(21, (64, 64)), noisy(22).astype(np.uint16)):
        expected = again.predict(image.astype(np.float32), "YX")
        found = predicted(N2V_2D, manifest, files, image, "YX", tmp_path)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.ptp(expected))


def test_n2v2_and_volumes_are_imported(tmp_path: Path) -> None:
    for name, shape, axes, method, more in (
        ("blur", (64, 64), "YX", N2V_2D, {"blurpool": True, "skip_skipone": True, "n2v_manipulator": "median"}),
        ("volume", (8, 32, 40), "ZYX", N2V_3D, {"n2v_patch_shape": (4, 32, 32)}),
    ):
        image = noisy(1, shape)
        original = N2V(N2VConfig(image[np.newaxis, ..., np.newaxis], **SMALL, **more), name, str(tmp_path))
        original.keras_model.save_weights(str(original.logdir / "weights_last.h5"))
        manifest, files = published(original.logdir, tmp_path / f"{name}-model", method)
        assert manifest.parameters["variant"] == ("n2v2" if name == "blur" else "n2v")
        assert len(manifest.warnings) == 1
        expected = original.predict(image, axes)
        found = predicted(method, manifest, files, image, axes, tmp_path)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.ptp(expected))


@pytest.mark.parametrize(
    ("values", "recorded", "named"),
    [
        ({"n2v_patch_shape": [70, 70], "train_epochs": 0}, {"patch_size": 64, "epochs": 100}, ["patch_size", "epochs"]),
        ({"structN2Vmask": [[1, 0, 1, 0, 1]]}, {"struct_direction": "x", "struct_length": 5}, ["structN2Vmask"]),
        ({"structN2Vmask": [[1]]}, {"variant": "n2v"}, []),
    ],
)
def test_what_of_the_training_is_not_taken_is_said(
    folder: Path, tmp_path: Path, values: dict[str, Any], recorded: dict[str, Any], named: list[str]
) -> None:
    change(folder, **values)
    manifest, _ = published(folder, tmp_path / "model")
    assert {name: manifest.parameters[name] for name in recorded} == recorded
    assert len(manifest.warnings) == len(named)
    assert all(any(name in warning for warning in manifest.warnings) for name in named)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"unet_n_first": 16}, "belong together"),
        ({"unet_n_first": 10**9}, "unet_n_first"),
        ({"unet_residual": True}, "unet_residual is True"),
        ({"batch_norm": False}, "batch_norm is False"),
        ({"skip_skipone": True}, "skip_skipone is True"),
        ({"axes": "ZYXC"}, "axes"),
        ({"n_channel_in": 3}, "n_channel_in"),
        ({"means": ["nan"]}, "means"),
        ({"means": "1"}, "means"),
        ({"means": [[1]]}, "means"),
        ({"means": [10**400]}, "means"),
        ({"stds": ["0"]}, "stds"),
        ({"structN2Vmask": [[0, 1], [1]]}, "structN2Vmask"),
        ({"structN2Vmask": [["a"]]}, "structN2Vmask"),
    ],
)
def test_a_network_that_is_not_the_described_one_is_refused(
    folder: Path, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    change(folder, **values)
    with pytest.raises(InvalidInputError, match=message):
        published(folder, tmp_path / "model")


def other_names(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file.attrs["layer_names"] = [b"nothing"]


@pytest.mark.parametrize("spoil", [external_link, text_inside, garbage, other_names])
def test_weights_that_are_no_plain_numbers_are_refused(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(folder / "weights_best.h5")
    with pytest.raises(InvalidInputError, match=r"weights_best\.h5"):
        published(folder, tmp_path / "model")


def test_the_report_says_why_a_folder_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert main("n2v-2d", str(tmp_path / "empty"), str(tmp_path / "out")) == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert mentions(report["error"], "empty ", "lacks config.json")
