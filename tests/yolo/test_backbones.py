"""Backbones from files, and trainings that begin with a model of other classes or channels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.methods.implementation import ModelView
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.prediction.unit import ArrayUnit
from parfocal.runtime.store.facts import Facts, Port
from parfocal.yolo import SERVICE
from parfocal.yolo.parameters import TinyYoloParameters, YoloParameters, YoloPredictionParameters

METHOD = SERVICE.method("tiny-yolo-v2")
SMALL = TinyYoloParameters(first_filters=4, patch_size=64, precision="float32")
WIDTHS = (4, 8, 16, 32, 64, 128)


def facts_of(*classes: str, channels: int = 3, anchors: int = 2) -> Facts:
    return Facts(
        inputs=(Port(role="source", channels=channels),),
        targets=(Port(role="target", kind="boxes", classes=len(classes)),),
        measured={
            "anchors_px": [[16.0 + 8 * number, 16.0] for number in range(anchors)],
            "largest_box_px": 24.0,
            "class_names": list(classes),
        },
    )


def arrays() -> dict[str, Any]:
    """Return the backbone of a network with four first filters under the names of another program."""
    rng, found, inputs = np.random.default_rng(0), {}, 3
    for number, outputs in enumerate(WIDTHS):
        found[f"features.{4 * number}.conv.weight"] = rng.normal(0, 0.1, (outputs, inputs, 3, 3))
        for name in ("weight", "bias", "running_mean", "running_var"):
            found[f"features.{4 * number}.norm.{name}"] = rng.uniform(0.5, 1.5, outputs)
        inputs = outputs
    found["classifier.weight"] = rng.normal(0, 0.1, (10, inputs, 1, 1))
    return {name: value.astype(np.float32) for name, value in found.items()}


def write(path: Path, content: dict[str, Any]) -> Path:
    import torch
    from safetensors.numpy import save_file

    if path.suffix == ".safetensors":
        save_file(content, path)
    elif path.suffix == ".pt":
        torch.save({"state_dict": {name: torch.from_numpy(value) for name, value in content.items()}}, path)
    return path


def imported(source: Path, folder: Path, method: str = "tiny-yolo-v2") -> dict[str, Any]:
    from parfocal.yolo.importing import main

    main(method, str(source), str(folder))
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def loaded(report: dict[str, Any], folder: Path) -> tuple[Any, Any, ModelView]:
    implementation = METHOD.load()
    parameters = TinyYoloParameters(**report["parameters"])
    view = ModelView(
        parameters, Facts.model_validate(report["facts"]), Normaliser.model_validate(report["normaliser"]), "YX"
    )
    return implementation, implementation.load(folder / "model", view, "best"), view


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_backbone_is_read_in_the_order_of_its_layers(tmp_path: Path, suffix: str) -> None:
    content = arrays()
    report = imported(write(tmp_path / f"a{suffix}", content), tmp_path / "out")
    assert "error" not in report
    assert report["parameters"]["first_filters"] == 4
    _, learner, _ = loaded(report, tmp_path / "out")
    weights = learner.weights()
    np.testing.assert_array_equal(weights["fine.0.weight"], content["features.0.conv.weight"])
    np.testing.assert_array_equal(weights["fine.20.weight"], content["features.20.conv.weight"])
    np.testing.assert_array_equal(weights["fine.21.running_var"], content["features.20.norm.running_var"])
    np.testing.assert_array_equal(weights["fine.1.bias"], content["features.0.norm.bias"])


def test_the_file_of_a_model_of_parfocal_is_a_backbone_as_well(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    implementation = SERVICE.method("yolo-v2").load()
    facts = facts_of("a", channels=1)
    weights = implementation.build(YoloParameters(first_filters=4, precision="float32"), facts).weights()
    save_file(weights, tmp_path / "weights_best.safetensors")
    report = imported(tmp_path / "weights_best.safetensors", tmp_path / "out", "yolo-v2")
    assert report["facts"]["inputs"][0]["channels"] == 1
    view = ModelView(YoloParameters(**report["parameters"]), Facts.model_validate(report["facts"]), Normaliser(), "YX")
    found = implementation.load(tmp_path / "out" / "model", view, "best").weights()
    for name in ("fine.0.weight", "fine.40.weight", "coarse.1.weight", "coarse.14.running_var"):
        np.testing.assert_array_equal(found[name], weights[name])


@pytest.mark.parametrize(("version", "seen"), [((0, 1, 0), "<i4"), ((0, 2, 0), "<i8")])
def test_a_file_of_darknet_holds_numbers_one_after_the_other(tmp_path: Path, version: Any, seen: str) -> None:
    rng, inputs, parts, kernels = np.random.default_rng(0), 3, [], []
    for outputs in (16, 32, 64, 128, 256, 512):
        vectors = rng.uniform(0.5, 1.5, 4 * outputs).astype("<f4")
        kernels.append(rng.normal(0, 0.1, (outputs, inputs, 3, 3)).astype("<f4"))
        parts += [vectors.tobytes(), kernels[-1].tobytes()]
        inputs = outputs
    path = tmp_path / "tiny.weights"
    head = np.array(version, "<i4").tobytes() + np.array([32], seen).tobytes()
    path.write_bytes(head + b"".join(parts) + b"rest")
    report = imported(path, tmp_path / "out")
    assert "error" not in report
    _, learner, _ = loaded(report, tmp_path / "out")
    weights = learner.weights()
    for place, kernel in zip((0, 4, 8, 12, 16, 20), kernels, strict=True):
        np.testing.assert_array_equal(weights[f"fine.{place}.weight"], kernel)
    first = np.frombuffer(parts[0], "<f4").reshape(4, 16)
    for name, values in zip(("bias", "weight", "running_mean", "running_var"), first, strict=True):
        np.testing.assert_array_equal(weights[f"fine.1.{name}"], values)


def test_files_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "was_run",))

    import torch

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pt")
    torch.save({"features.0.conv.weight": torch.ones(4, 3, 3, 3).to_sparse()}, tmp_path / "sparse.pt")
    (tmp_path / "cut.pt").write_bytes(b"\x80\x02j\x01")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    (tmp_path / "short.weights").write_bytes(np.array([0, 2, 0, 0, 0], "<i4").tobytes() + bytes(400))
    (tmp_path / "text.weights").write_bytes(b"these are words and no numbers")
    shorter = {name: value for name, value in arrays().items() if "features.20" not in name}
    write(tmp_path / "shorter.pt", shorter)
    write(tmp_path / "nan.safetensors", arrays() | {"features.0.norm.bias": np.full(4, np.nan, np.float32)})
    write(tmp_path / "none.safetensors", {"a": np.zeros(3, np.float32)})
    names = ("evil.pt", "broken.safetensors", "short.weights", "text.weights", "shorter.pt", "nan.safetensors")
    for name in (*names, "none.safetensors", "absent.pt", "sparse.pt", "cut.pt"):
        assert name in imported(tmp_path / name, tmp_path / "out")["error"]
    assert not (tmp_path / "was_run").exists()
    assert "convolution" in imported(write(tmp_path / "tiny.pt", arrays()), tmp_path / "out", "yolo-v2")["error"]


def test_a_backbone_begins_a_training_on_grey_images_and_does_not_predict(tmp_path: Path) -> None:
    content = arrays()
    report = imported(write(tmp_path / "a.pt", content), tmp_path / "out")
    implementation, backbone, view = loaded(report, tmp_path / "out")
    with pytest.raises(InvalidInputError, match="backbone"):
        implementation.predict(
            backbone, ArrayUnit(np.zeros((64, 64, 3)), "YX", 10**6), view, YoloPredictionParameters(), None
        )
    facts = facts_of("a", "b", channels=1)
    learner = implementation.build(SMALL, facts)
    before = learner.weights()
    implementation.initialise(learner, facts, backbone.weights(), view.facts)
    after = learner.weights()
    np.testing.assert_allclose(
        after["fine.0.weight"], content["features.0.conv.weight"].sum(axis=1, keepdims=True), rtol=1e-6
    )
    np.testing.assert_array_equal(after["fine.8.weight"], content["features.8.conv.weight"])
    for name in ("further.0.weight", "head.weight", "head.bias"):
        np.testing.assert_array_equal(after[name], before[name])


@pytest.mark.parametrize(
    ("classes", "anchors", "kept"), [(("a", "b"), 2, True), (("a", "c"), 2, False), (("a",), 2, False)]
)
def test_the_last_layer_begins_anew_for_other_classes(classes: Any, anchors: int, kept: bool) -> None:
    implementation = METHOD.load()
    earlier = implementation.build(SMALL.model_copy(update={"seed": 4}), facts_of("a", "b"))
    facts = facts_of(*classes, anchors=anchors)
    learner = implementation.build(SMALL, facts)
    own = learner.weights()["head.weight"]
    implementation.initialise(learner, facts, earlier.weights(), facts_of("a", "b"))
    weights = learner.weights()
    np.testing.assert_array_equal(weights["further.4.running_var"], earlier.weights()["further.4.running_var"])
    np.testing.assert_array_equal(weights["further.0.weight"], earlier.weights()["further.0.weight"])
    np.testing.assert_array_equal(weights["head.weight"], earlier.weights()["head.weight"] if kept else own)


def test_a_model_for_other_channels_or_of_another_width_is_refused() -> None:
    implementation = METHOD.load()
    learner = implementation.build(SMALL, facts_of("a", channels=3))
    grey = implementation.build(SMALL, facts_of("a", channels=1))
    with pytest.raises(InvalidInputError, match="channels"):
        implementation.initialise(learner, facts_of("a", channels=3), grey.weights(), facts_of("a", channels=1))
    wide = implementation.build(SMALL.model_copy(update={"first_filters": 8}), facts_of("a"))
    with pytest.raises(InvalidInputError):
        implementation.initialise(learner, facts_of("a"), wide.weights(), facts_of("a"))
