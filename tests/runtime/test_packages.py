"""What packages of bioimage.io say: their steps as a normaliser, their axes and examples, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from package_maker import PERCENTILES, described, packed

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.packages.description import Tensor, parse_description
from parfocal.runtime.packages.steps import check_none, check_undone, finished, normaliser_of

NEWER: Mapping[str, Any] = {
    "format_version": "0.5.4",
    "type": "model",
    "name": "theirs",
    "authors": [{"name": "Ada"}, "not a person"],
    "license": "MIT",
    "inputs": [
        {
            "id": "raw",
            "axes": [
                {"type": "batch"},
                {"type": "channel", "channel_names": ["a"]},
                {"type": "space", "id": "y", "size": {"min": 32, "step": 16}},
                {"type": "space", "id": "x", "size": 64},
            ],
            "preprocessing": [{"id": "zero_mean_unit_variance", "kwargs": {"axes": ["channel", "y", "x"]}}],
            "test_tensor": {"source": "in.npy", "sha256": "A" * 64},
        }
    ],
    "outputs": [
        {
            "id": "out",
            "axes": [
                {"type": "batch"},
                {"type": "channel"},
                {"type": "space", "id": "y"},
                {"type": "space", "id": "x"},
            ],
            "test_tensor": {"source": "out.npy"},
        }
    ],
    "weights": {"onnx": {"source": "net.onnx", "sha256": "b" * 64}},
    "attachments": [{"source": "more/config.json"}],
    "config": {"parfocal": {"method": "care-2d", "verdict": {"state": "trusted", "reasons": ["x" * 9000, 7]}}},
}


def test_both_formats_are_read_in_one_form() -> None:
    newer = parse_description(NEWER)
    assert (newer.input.axes, newer.output.axes, newer.spatial) == ("bcyx", "bcyx", "YX")
    assert newer.input.periods == {"y": 16}
    assert newer.digests == {"in.npy": "a" * 64, "net.onnx": "b" * 64}
    assert newer.files == ["in.npy", "out.npy", "more/config.json", "net.onnx"]
    assert newer.attached("config.json") == "more/config.json"
    assert newer.own["method"] == "care-2d"
    assert newer.said["authors"] == ["Ada"]
    assert newer.said["verdict"] == "trusted"
    assert [len(reason) for reason in newer.said["reasons"]] == [500, 0]
    content = described(weights={"keras_hdf5": "a.h5"}, attachments=["config.json"], axes="bzyxc")
    content["inputs"][0]["shape"] = {"min": [1, 4, 8, 8, 1], "step": [0, 4, 8, 8, 0]}
    older = parse_description(content)
    assert (older.spatial, older.input.example, older.output.example) == ("ZYX", "test_input.npy", "test_output.npy")
    assert older.input.periods == {"z": 4, "y": 8, "x": 8}
    assert older.input.steps[0]["id"] == "scale_range"


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("format_version",), "0.3.6", "0.3.6"),
        (("format_version",), 5, "format_version"),
        (("type",), "dataset", "dataset"),
        (("inputs",), [], "0 inputs"),
        (("inputs",), "none", "inputs"),
        (("outputs",), [1], "outputs"),
        (("inputs", 0, "axes"), [{"type": "time"}], "axes"),
        (("inputs", 0, "axes"), [{"type": "space", "id": "y"}] * 2, "axes"),
        (("inputs", 0, "test_tensor"), {}, "test_tensor"),
        (("inputs", 0, "test_tensor", "sha256"), "no digest", "SHA-256"),
        (("inputs", 0, "preprocessing"), [{"kwargs": {}}], "preprocessing"),
        (("inputs", 0, "preprocessing"), [{"id": "clip"}] * 30, "too many"),
        (("weights",), ["onnx"], "weights"),
        (("attachments",), [{"source": "a"}] * 101, "too many"),
        (("config",), 3, "config"),
    ],
)
def test_a_damaged_description_is_refused(place: tuple[Any, ...], value: Any, message: str) -> None:
    content: Any = copy.deepcopy(dict(NEWER))
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(InvalidInputError, match=message):
        parse_description(content)


def steps(*steps: tuple[str, dict[str, Any]], axes: str = "bcyx", name: str = "input") -> Tensor:
    return Tensor(name, axes, tuple({"id": each, "kwargs": kwargs} for each, kwargs in steps), {}, "a.npy")


def test_steps_before_a_network_normalise_as_they_say() -> None:
    pixels = np.random.default_rng(0).integers(100, 4000, (40, 50)).astype(np.uint16)
    low, high = np.percentile(pixels, (1, 99))
    scaled = (pixels - low) / (high - low)
    moments = (pixels - pixels.mean()) / pixels.std()
    scale = {"min_percentile": 1, "max_percentile": 99, "axes": ["y", "x"]}
    for tensor, expected in (
        (steps(), pixels),
        (steps(("ensure_dtype", {"dtype": "float32"}), ("scale_range", scale)), scaled),
        (steps(("scale_range", {**scale, "axes": "cxy", "mode": "per_sample"})), scaled),
        (steps(("scale_range", scale), ("clip", {"min": 0.0, "max": 1.0})), scaled.clip(0, 1)),
        (steps(("zero_mean_unit_variance", {})), moments),
        (steps(("fixed_zero_mean_unit_variance", {"mean": 7.0, "std": 2.0})), (pixels - 7.0) / 2),
        (steps(("zero_mean_unit_variance", {"mode": "fixed", "mean": [7], "std": [2]})), (pixels - 7.0) / 2),
        (steps(("scale_linear", {"gain": 0.5, "offset": [-3]})), pixels * 0.5 - 3),
    ):
        normaliser = normaliser_of(tensor, 1)
        found = normaliser.apply(pixels, normaliser.fit(pixels, "YX"))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("step", "channels"),
    [
        (("sigmoid", {}), 1),
        (("binarize", {"threshold": 3}), 1),
        (("ensure_dtype", {"dtype": "uint8"}), 1),
        (("clip", {"min": 0, "max": 1}), 1),
        (("scale_range", {"mode": "per_dataset"}), 1),
        (("scale_range", {"axes": ["batch", "y", "x"]}), 1),
        (("scale_range", {"axes": ["x"]}), 1),
        (("scale_range", {"axes": 7}), 1),
        (("scale_range", {}), 2),
        (("scale_range", {"axes": "cyx"}), 2),
        (("scale_range", {"axes": "yx", "min_percentile": 99, "max_percentile": 1}), 1),
        (("scale_range", {"axes": "yx", "min_percentile": "1"}), 1),
        (("scale_range", {"axes": "yx", "reference_tensor": "other"}), 1),
        (("fixed_zero_mean_unit_variance", {"mean": 0, "std": 0}), 1),
        (("fixed_zero_mean_unit_variance", {"mean": float("nan"), "std": 1}), 1),
        (("fixed_zero_mean_unit_variance", {"mean": [1, 2], "std": [1, 2]}), 3),
        (("fixed_zero_mean_unit_variance", {"mean": [], "std": [1]}), 1),
        (("scale_linear", {"gain": 0}), 1),
        (("scale_linear", {"gain": -1}), 1),
        (("scale_linear", {"gain": 10**400}), 1),
    ],
)
def test_a_step_that_cannot_be_reproduced_is_named(step: tuple[str, dict[str, Any]], channels: int) -> None:
    with pytest.raises(InvalidInputError, match=step[0]):
        normaliser_of(steps(step), channels)


def test_images_are_normalised_once() -> None:
    with pytest.raises(InvalidInputError, match="scale_linear"):
        normaliser_of(steps(("zero_mean_unit_variance", {}), ("scale_linear", {"gain": 2})), 1)


def test_steps_behind_a_network_are_those_that_parfocal_has() -> None:
    output = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    linear = ("scale_linear", {"gain": [2, 3], "offset": 1})
    np.testing.assert_array_equal(finished(steps(linear), output), output * [2, 3] + 1)
    for bad in (("scale_linear", {"gain": [1, 2, 3]}), ("binarize", {})):
        with pytest.raises(InvalidInputError, match=bad[0]):
            finished(steps(bad), output)
    fixed = normaliser_of(steps(("fixed_zero_mean_unit_variance", {"mean": 7.0, "std": 2.0})), 1)
    check_undone(steps(), fixed)
    check_undone(steps(("scale_linear", {"gain": 2.000001, "offset": [7.0]})), fixed)
    for wrong, normaliser in (
        (("scale_linear", {"gain": 3.0, "offset": 7.0}), fixed),
        (("scale_linear", {"gain": 2.0, "offset": 7.0}), Normaliser()),
        (("scale_mean_variance", {}), fixed),
    ):
        with pytest.raises(InvalidInputError, match=wrong[0]):
            check_undone(steps(wrong), normaliser)
    check_none(steps(("ensure_dtype", {"dtype": "float32"})))
    with pytest.raises(InvalidInputError, match="binarize"):
        check_none(steps(("binarize", {})))


def test_an_example_has_the_axes_of_its_description_or_is_refused(tmp_path: Path) -> None:
    taken = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).astype(np.float32)
    content = described(weights={}, axes="bcyx", before=(PERCENTILES,))
    package = packed(tmp_path / "p", content, [], taken, taken)
    found = package.example(package.description.input)
    np.testing.assert_array_equal(found, np.moveaxis(taken[0], 0, -1))
    plane = packed(tmp_path / "p", described(weights={}, axes="xy"), [], taken[0, 0], taken)
    np.testing.assert_array_equal(plane.example(plane.description.input), taken[0, 0].T[..., np.newaxis])
    package = packed(tmp_path / "p", content, [], taken, taken)
    path = package.path("test_input.npy")
    objects = tmp_path / "objects.npy"
    np.save(objects, np.array([{}], object), allow_pickle=True)
    for data in (b"", b"\x93NUMPY", objects.read_bytes(), taken.tobytes(), path.read_bytes()[:-400]):
        path.write_bytes(data)
        with pytest.raises(InvalidInputError, match="damaged"):
            package.example(package.description.input)
    for array in (taken[0], np.zeros((0, 3, 4, 5), np.float32), np.zeros((1, 3, 0, 5)), np.array([["a"]])):
        np.save(path, array)
        with pytest.raises(InvalidInputError, match=r"test_input\.npy"):
            package.example(package.description.input)
