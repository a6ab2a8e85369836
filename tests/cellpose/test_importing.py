"""Weights from elsewhere: users' own models become versions, the operator's start a training with their licence."""

from __future__ import annotations

import contextlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cellpose.resnet_torch import CPnet

from parfocal import v1
from parfocal.cellpose import CELLPOSE_2D, CELLPOSE_3D
from parfocal.cellpose.importing import import_model, locate, main
from parfocal.cellpose.network import Cellpose2D
from parfocal.cellpose.operator_weights import SETTING, find_weights, licence_of
from parfocal.cellpose.parameters import Cellpose2DParameters, advise, check_dataset
from parfocal.cellpose.state_dict import fit_state, read_state
from parfocal.runtime.errors import InvalidInputError, NotFoundError
from parfocal.runtime.images.files import Image
from parfocal.runtime.prediction.loaded_model import load_model, predict_image
from parfocal.runtime.store.facts import Facts
from parfocal.runtime.store.manifests import DatasetManifest, ModelManifest


def write(path: Path, filters: int = 4, channels: int = 2, outputs: int = 3, **diameters: float) -> Path:
    """Write a model as cellpose does, with random weights."""
    torch.manual_seed(0)
    network = CPnet([channels, *(filters * 2**level for level in range(4))], outputs, sz=3)
    network.diam_labels.data[:] = diameters.get("labels", 17.5)
    network.save_model(str(path))
    return path


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("cellpose") / "mine")


@pytest.mark.parametrize("method", [CELLPOSE_2D, CELLPOSE_3D], ids=lambda method: method.name)
def test_a_users_model_becomes_a_version(original: Path, tmp_path: Path, method: Any) -> None:
    assert main(method.name, str(original), str(tmp_path)) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["parameters"]["first_filters"], report["parameters"]["mean_diameter"]) == (4, 30.0)
    assert report["facts"]["measured"]["diameter"] == 17.5
    assert any("not known" in warning for warning in report["warnings"])
    fields = {"model": "m", "version": 1, "service": "cellpose", "job": "", "dataset_uri": "", "project": "p"}
    model = load_model(method, ModelManifest.model_validate(report | fields), tmp_path / "model", weights="best")
    for name, array in torch.load(original, weights_only=True).items():
        np.testing.assert_array_equal(model.learner.weights()[name], array.numpy())
    pixels = np.random.default_rng(0).integers(0, 99, (8, 40, 40)).astype(np.uint16)
    image = Image(pixels if method.axes == "ZYX" else pixels[0], method.axes)
    asked: Any = method.parse(v1.JOB_KIND_PREDICTION, {})
    assert "prediction" in predict_image(model, image, asked, tmp_path / "scratch", "a").finish().images


def test_files_that_are_no_such_models_are_refused(original: Path, tmp_path: Path) -> None:
    state = torch.load(original, weights_only=True)
    files = {
        "version4": {"W2": torch.ones(1), "encoder.patch_embed.weight": torch.ones(1)},
        "half": {name: value for name, value in state.items() if "upsample" not in name},
        "infinite": state | {"output.2.bias": torch.full((3,), float("inf"))},
        "size": state | {"diam_labels": torch.tensor([float("nan")])},
        "other": {"weight": torch.ones(3)},
    }
    for name, content in files.items():
        torch.save(content, tmp_path / name)
        (tmp_path / f"of {name}").mkdir()
        with pytest.raises(InvalidInputError) as refused:
            import_model(CELLPOSE_2D, tmp_path / name, tmp_path / f"of {name}")
        assert name in refused.value.message
        assert ("Cellpose 4" in refused.value.message) is (name == "version4")
    write(tmp_path / "outputs", outputs=4)
    with pytest.raises(InvalidInputError, match="outputs"):
        import_model(CELLPOSE_2D, tmp_path / "outputs", tmp_path)
    (tmp_path / "mine_size.npy").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(InvalidInputError, match=r"_size\.npy"):
        import_model(CELLPOSE_2D, tmp_path / "mine_size.npy", tmp_path)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "run",))

    torch.save({"weight": Evil()}, tmp_path / "evil")
    with pytest.raises(InvalidInputError, match="evil"):
        read_state(tmp_path / "evil")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_damage_anywhere_in_a_file_is_told(tmp_path: Path, legacy: bool) -> None:
    path, random = tmp_path / "mine", np.random.default_rng(0)
    torch.save({"a.weight": torch.ones(3, 2)}, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for _ in range(150):
        damaged = bytearray(whole)
        for place in random.integers(0, min(len(damaged), 400), 4):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(InvalidInputError):  # some bytes matter to nobody
            read_state(path)


def test_numbers_of_other_kinds_are_read_or_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3, dtype=torch.bfloat16), "b": torch.tensor(7)}, tmp_path / "half")
    assert {name: array.dtype for name, array in read_state(tmp_path / "half").items()} == {"a": "f4", "b": "i8"}
    torch.save({"a": torch.ones(3).to_sparse()}, tmp_path / "sparse")
    with pytest.raises(InvalidInputError, match="sparse"):
        read_state(tmp_path / "sparse")


def test_files_of_before_version_2_lack_diameters(original: Path, tmp_path: Path) -> None:
    state = torch.load(original, weights_only=True)
    for name, mean in (("nucleitorch_0", 17.0), ("old", 30.0)):
        torch.save({key: value for key, value in state.items() if "diam" not in key}, tmp_path / name)
        (tmp_path / f"of {name}").mkdir()
        report = import_model(CELLPOSE_2D, tmp_path / name, tmp_path / f"of {name}")
        assert (report["facts"]["measured"]["diameter"], report["parameters"]["mean_diameter"]) == (mean, mean)
        assert "diameter" in report["warnings"][0]
        assert ("commercially" in report["warnings"][1]) is (name != "old")


def test_a_folder_must_hold_one_file(original: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="none"):
        locate(CELLPOSE_2D, str(tmp_path))
    (tmp_path / "a").write_bytes(original.read_bytes())
    (tmp_path / "a_size.npy").write_bytes(b"")
    assert locate(CELLPOSE_2D, str(tmp_path)) == tmp_path / "a"
    (tmp_path / "b").write_bytes(b"")
    with pytest.raises(InvalidInputError, match="a, b"):
        locate(CELLPOSE_2D, str(tmp_path))


def test_the_operators_weights_start_a_training_and_their_licence_is_told_before(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = DatasetManifest(project="p", dataset="d", version=1, images=())
    parameters = Cellpose2DParameters(initial_weights="cyto3", first_filters=4)
    monkeypatch.delenv(SETTING, raising=False)
    with pytest.raises(NotFoundError, match=SETTING):
        check_dataset(parameters, dataset)
    (tmp_path / "cyto3").write_bytes(original.read_bytes())
    (tmp_path / "mine").write_bytes(original.read_bytes())
    monkeypatch.setenv(SETTING, str(tmp_path))
    check_dataset(parameters, dataset)
    (told,) = advise(parameters, dataset)
    assert "commercially" in told
    (tmp_path / "mine.licence.txt").write_text("CC0 by\nour laboratory")
    assert "CC0 by our laboratory" in licence_of(find_weights("mine"))
    with pytest.raises(NotFoundError, match="cyto3, mine"):
        find_weights("other")
    with pytest.raises(NotFoundError):
        find_weights("../cyto3")
    monkeypatch.setenv(SETTING, str(tmp_path / "mine"))
    assert find_weights("mine") == tmp_path / "mine"
    # The weights are taken over, the diameter of the training images is not.
    implementation = Cellpose2D()
    implementation._initial = read_state(tmp_path / "mine")
    learner = implementation.build(parameters, Facts(measured={"diameter": 21.0}))
    for name, array in implementation._initial.items():
        expected = np.array([21.0], np.float32) if name == "diam_labels" else array
        np.testing.assert_array_equal(learner.weights()[name], expected)
    with pytest.raises(InvalidInputError, match="mine"):
        fit_state("mine", implementation._initial, Cellpose2D().build(Cellpose2DParameters(first_filters=8), Facts()))
