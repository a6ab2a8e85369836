"""Models made by stardist itself: they predict the same here, and nothing in their files is run or believed."""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from csbdeep.models import pretrained
from csbdeep.utils import normalize
from learner_suite import prepared
from spoiled_weights import external_link, garbage, text_inside
from stardist import Rays_GoldenSpiral
from stardist.models import Config2D, Config3D, StarDist2D, StarDist3D
from support import mentions

from parfocal.runtime.errors import InvalidInputError, NotFoundError
from parfocal.runtime.frameworks import keras
from parfocal.runtime.images.files import Image
from parfocal.runtime.methods.device import Device
from parfocal.runtime.prediction.loaded_model import load_model, predict_image
from parfocal.runtime.store.manifests import ModelManifest
from parfocal.stardist import STARDIST_2D, STARDIST_3D, importing
from parfocal.stardist.importing import import_model, main
from parfocal.stardist.parameters import StarDistPredictionParameters

# Of stardist's own training and saving with Keras.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The structure of `inputs` doesn't match:UserWarning"),
]
SMALL: dict[str, Any] = {"unet_n_depth": 2, "unet_n_filter_base": 8, "train_tensorboard": False}


def field_of_discs(seed: int, shape: tuple[int, int] = (96, 96)) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    labels = np.zeros(shape, np.int32)
    for number, (row, column) in enumerate(np.ndindex(3, 3), start=1):
        centre = np.array((row, column)) * 32 + 16 + rng.integers(-4, 5, 2)
        labels[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= rng.integers(7, 11) ** 2] = number
    return labels, (900 * (labels > 0) + rng.normal(200, 40, shape)).clip(0).astype(np.uint16)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small model trained, calibrated and saved by stardist alone."""
    pairs = [field_of_discs(seed) for seed in range(5)]
    images = [normalize(image, 1, 99.8) for _, image in pairs]
    labels = [each for each, _ in pairs]
    config = Config2D(
        n_rays=16,
        grid=(2, 2),
        train_patch_size=(64, 64),
        train_epochs=3,
        train_steps_per_epoch=25,
        train_batch_size=2,
        train_learning_rate=0.003,
        **SMALL,
    )
    keras.prepare(0, Device())  # the same weights in every run, whatever was computed before
    model = StarDist2D(config, "discs", str(tmp_path_factory.mktemp("stardist")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns of much in stardist's own training
        model.train(images[:4], labels[:4], validation_data=(images[4:], labels[4:]), seed=0)
        model.optimize_thresholds(images[4:], labels[4:])
    return model


@pytest.fixture
def folder(original: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original.logdir, tmp_path / "discs"))


def published(source: Path, target: Path, method: Any = STARDIST_2D) -> tuple[ModelManifest, Path]:
    """Return the manifest that an import makes, and the folder of the model's files."""
    target.mkdir(parents=True, exist_ok=True)
    contents = import_model(method, source, target)
    places = {"project": "p", "model": "m", "version": 1, "service": "stardist", "job": "", "dataset_uri": ""}
    return ModelManifest.model_validate({**contents, **places}), target


def change(folder: Path, name: str = "config.json", **values: Any) -> None:
    given = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**given, **values}))


def test_an_imported_model_predicts_as_stardist_does(original: Any, folder: Path, tmp_path: Path) -> None:
    manifest, files = published(folder, tmp_path / "model")
    assert manifest.calibration == {
        "probability_threshold": original.thresholds.prob,
        "overlap_threshold": original.thresholds.nms,
    }
    assert manifest.warnings == ()
    # What stardist kept in the folder, read back by stardist.
    again = StarDist2D(None, folder.name, str(folder.parent))
    model = load_model(STARDIST_2D, manifest, files, weights="best")
    for seed in (20, 21):
        _, image = field_of_discs(seed, (100, 132))
        expected, details = again.predict_instances(normalize(image, 1, 99.8))
        assert len(details["prob"]) > 3, "the original finds something"
        found = predict_image(model, Image(image, "YX"), StarDistPredictionParameters(), tmp_path, "a").finish()
        np.testing.assert_array_equal(found.images["prediction"].pixels, expected)
        with (tmp_path / found.files["objects"]).open(newline="") as file:
            probability = [float(row["probability"]) for row in csv.DictReader(file)]
        np.testing.assert_allclose(probability, details["prob"], rtol=1e-4, atol=5e-5)


def test_best_and_last_weights_are_both_brought_over(folder: Path, tmp_path: Path) -> None:
    def shift(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            item[...] += 1

    shutil.copy(folder / "weights_best.h5", folder / "weights_last.h5")
    with h5py.File(folder / "weights_last.h5", "a") as file:
        file.visititems(shift)
    manifest, files = published(folder, tmp_path / "model")
    best, last = (load_model(STARDIST_2D, manifest, files, weights=name).learner.weights() for name in ("best", "last"))
    for name, array in best.items():
        np.testing.assert_array_equal(last[name], array + 1)


def test_training_can_start_from_it(folder: Path, tmp_path: Path) -> None:
    manifest, files = published(folder, tmp_path / "model")
    imported = load_model(STARDIST_2D, manifest, files, weights="best")
    assert imported.view.parameters.batch_size == 2
    assert (imported.view.parameters.patch_size, imported.view.parameters.epochs) == (64, 3)
    learner = STARDIST_2D.load().build(imported.view.parameters, imported.view.facts)
    learner.set_weights(imported.learner.weights())
    labels, image = field_of_discs(30)
    inputs = normalize(image, 1, 99.8)[np.newaxis, :64, :64, np.newaxis].astype(np.float32)
    targets = labels[np.newaxis, :64, :64, np.newaxis]
    batch = prepared(STARDIST_2D.load(), inputs, targets, imported.view.parameters)
    fresh = STARDIST_2D.load().build(imported.view.parameters, imported.view.facts)
    assert learner.validate_batch(batch)["loss"] < 0.7 * fresh.validate_batch(batch)["loss"]
    assert np.isfinite(learner.train_batch(batch)["loss"])


def test_without_thresholds_and_last_weights_it_says_what_is_used_instead(folder: Path, tmp_path: Path) -> None:
    (folder / "thresholds.json").unlink()
    (folder / "weights_best.h5").unlink()
    manifest, _ = published(folder, tmp_path / "model")
    assert manifest.calibration == {"probability_threshold": 0.5, "overlap_threshold": 0.4}
    assert "only weights_last.h5" in manifest.warnings[0]
    assert "no thresholds.json" in manifest.warnings[1]


def test_volumes_are_imported_with_their_anisotropy(tmp_path: Path) -> None:
    rays = Rays_GoldenSpiral(32, anisotropy=(2, 1, 1))
    config = Config3D(
        rays=rays, anisotropy=(2, 1, 1), grid=(1, 2, 2), backbone="resnet", resnet_n_filter_base=8, resnet_n_blocks=4
    )
    original = StarDist3D(config, "balls", str(tmp_path))
    original.keras_model.save_weights(str(original.logdir / "weights_best.h5"))
    manifest, files = published(original.logdir, tmp_path / "model", STARDIST_3D)
    assert (manifest.parameters["anisotropy"], manifest.parameters["backbone"]) == (2, "resnet")
    model = load_model(STARDIST_3D, manifest, files, weights="best")
    batch = np.random.default_rng(0).random((1, 8, 32, 32, 1), dtype=np.float32)
    expected = np.concatenate([np.asarray(output) for output in original.keras_model(batch)], axis=-1)
    np.testing.assert_allclose(model.learner.predict_batch(batch), expected, atol=1e-5)


def test_names_in_a_file_are_never_run(tmp_path: Path) -> None:
    rays = Rays_GoldenSpiral(32, anisotropy=(2, 1, 1))
    original = StarDist3D(Config3D(rays=rays, anisotropy=(2, 1, 1)), "evil", str(tmp_path))
    original.keras_model.save_weights(str(original.logdir / "weights_best.h5"))
    touched = tmp_path / "touched"
    change(original.logdir, rays_json={"name": f"open({str(touched)!r}, 'w').write", "kwargs": {"n": 32}})
    with pytest.raises(InvalidInputError, match="Rays_GoldenSpiral"):
        published(original.logdir, tmp_path / "model", STARDIST_3D)
    assert not touched.exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_rays": 32}, "belong together"),
        ({"unet_n_filter_base": 16}, "belong together"),
        ({"unet_kernel_size": [5, 5]}, r"unet_kernel_size is \[5, 5\]"),
        ({"unet_batch_norm": True}, "unet_batch_norm is True"),
        ({"grid": [2, 4]}, "not the same"),
        ({"grid": [3, 3]}, "1, 2, 4, 8 or 16"),
        ({"n_classes": 3}, "classes"),
        ({"n_channel_in": "many"}, "n_channel_in"),
        ({"n_channel_in": 10**9}, "n_channel_in"),
        ({"unet_n_filter_base": 100_000}, "unet_n_filter_base"),
        ({"axes": "ZYXC"}, "axes"),
    ],
)
def test_a_network_that_is_not_the_described_one_is_refused(
    folder: Path, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    change(folder, **values)
    with pytest.raises(InvalidInputError, match=message):
        published(folder, tmp_path / "model")


def bomb(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file.create_dataset("bomb", (10**6, 10**6), dtype="f4", chunks=(1024, 1024), compression="gzip")


def circle(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file.create_group("a")["again"] = file["/"]


@pytest.mark.parametrize("spoil", [external_link, text_inside, bomb, garbage, circle])
def test_weights_that_are_no_plain_numbers_are_refused(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(folder / "weights_best.h5")
    with pytest.raises(InvalidInputError, match=r"weights_best\.h5"):
        published(folder, tmp_path / "model")


@pytest.mark.parametrize("text", ["{", "[1, 2]", "x" * (2**20 + 1), "[" * 100_000])
def test_a_configuration_that_is_none_is_refused(folder: Path, tmp_path: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(InvalidInputError, match=r"config\.json"):
        published(folder, tmp_path / "model")


@pytest.mark.parametrize("value", [0, 1, -0.5, "0.5", float("nan"), None, True])
def test_thresholds_outside_their_range_are_refused(folder: Path, tmp_path: Path, value: Any) -> None:
    change(folder, "thresholds.json", prob=value)
    with pytest.raises(InvalidInputError, match="prob"):
        published(folder, tmp_path / "model")


def test_the_report_says_why_a_folder_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for source in (str(tmp_path / "empty"), "."):
        assert main("stardist-2d", source, str(tmp_path / "out")) == 1
        report = json.loads((tmp_path / "out" / "report.json").read_text())
        assert mentions(report["error"], "empty ", "lacks config.json")


def test_an_archive_shall_be_unpacked_first(tmp_path: Path) -> None:
    (tmp_path / "model.zip").write_bytes(b"PK")
    assert main("stardist-2d", str(tmp_path / "model.zip"), str(tmp_path / "out")) == 1
    assert "Unpack it" in json.loads((tmp_path / "out" / "report.json").read_text())["error"]


def test_a_configuration_that_an_editor_of_windows_has_saved_is_read(folder: Path, tmp_path: Path) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text, encoding="utf-8-sig", newline="\r\n")
    manifest, _ = published(folder, tmp_path / "model")
    assert manifest.parameters["rays"] == 16


def test_an_unknown_name_lists_what_stardist_publishes() -> None:
    with pytest.raises(NotFoundError, match="2D_versatile_fluo, 2D_versatile_he, 2D_paper_dsb2018"):
        importing.locate(STARDIST_2D, "2D_versatile")
    with pytest.raises(NotFoundError, match="3D_demo"):
        importing.locate(STARDIST_3D, "2D_versatile_fluo")


def test_published_models_come_through_the_registry_of_stardist(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published under a name and kept as a zip, a model is fetched, its digest checked, unpacked and imported."""
    archive = Path(shutil.make_archive(str(tmp_path / "made_here"), "zip", folder))
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    # Keras keeps downloads under the home folder it found at import.
    monkeypatch.setattr(
        pretrained,
        "get_file",
        functools.partial(pretrained.get_file, cache_dir=str(tmp_path / "cache")),
    )
    monkeypatch.setitem(pretrained._MODELS[StarDist2D], "made_here", {"url": archive.as_uri(), "hash": digest})
    assert main("stardist-2d", "made_here", str(tmp_path / "out")) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["parameters"]["rays"] == 16
    monkeypatch.setitem(
        pretrained._MODELS[StarDist2D], "gone", {"url": (tmp_path / "gone.zip").as_uri(), "hash": digest}
    )
    with pytest.raises(NotFoundError, match=r"gone .*downloaded"):
        importing.locate(STARDIST_2D, "gone")


def test_the_import_needs_a_method_of_the_service(folder: Path, tmp_path: Path) -> None:
    assert main("care-2d", str(folder), str(tmp_path / "out")) == 1
    assert "stardist-2d, stardist-3d" in json.loads((tmp_path / "out" / "report.json").read_text())["error"]
