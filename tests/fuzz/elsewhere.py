"""Parsers that need what only some environments have: the client's, Keras, PyTorch.

A run has those whose packages it finds: in the environment of the orchestrator packages and OME-Zarr, in that of care
weights of Keras, in that of yolo weights of PyTorch and Darknet, in that of cellpose its own.
"""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from package_maker import PERCENTILES, described

from fuzz.parsers import Parser

_SHAPES: list[tuple[int, ...]] = [(4, 3, 3, 3), (8, 4, 3, 3)]


def parsers_here(folder: Path) -> list[Parser]:
    """Return the parsers of this environment; `folder` is where good files are made."""
    folder.mkdir(parents=True, exist_ok=True)
    found: list[Parser] = []
    for needed, make in _MAKERS.items():
        if all(_is_there(module) for module in needed):
            found += make(folder)
    return found


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _client(folder: Path) -> list[Parser]:
    from parfocal.client.formats.zarr_metadata import images_of
    from parfocal.client.packages import unpack
    from parfocal.runtime.packages.description import parse_description

    def package(path: Path) -> object:
        target = folder / "unpacked"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        return unpack(path, target)

    def zarr(data: bytes) -> object:
        place = folder / "image.zarr"
        for name in ("", "0"):
            (place / name).mkdir(parents=True, exist_ok=True)
            (place / name / "zarr.json").write_bytes(data if not name else b'{"node_type": "array"}')
        return images_of(place, place.name)

    content = described(weights={"keras_hdf5": "a.h5"}, attachments=["config.json"], before=[PERCENTILES])
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [0.1, 0.1]}]}
    image = {"name": "a", "axes": axes, "datasets": [level]}
    ome = {"version": "0.5", "multiscales": [image], "omero": {"channels": [{"label": "DAPI"}]}}
    metadata = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}
    members = {"rdf.yaml": json.dumps(content), **dict.fromkeys(parse_description(content).files, "x")}
    return [
        Parser("package-zip", package, [_zip(members)], ".zip"),
        Parser("zarr", zarr, [json.dumps(metadata).encode()]),
    ]


def _keras(folder: Path) -> list[Parser]:
    import h5py

    from parfocal.runtime.frameworks.keras_hdf5 import shapes_of
    from parfocal.runtime.frameworks.keras_variables import unpack_variables

    def variables(path: Path) -> object:
        target = folder / "variables"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        unpack_variables(path, target)
        return sorted(target.rglob("*"))

    path = folder / "weights.h5"
    with h5py.File(path, "w") as file:
        for number, shape in enumerate(_SHAPES):
            file[f"model_weights/conv_{number}/kernel:0"] = np.ones(shape, np.float32)
    saved = {"m/variables/variables.index": "x" * 40, "m/variables/variables.data-00000-of-00001": "y" * 90}
    return [
        Parser("hdf5", shapes_of, [path.read_bytes()], ".h5"),
        Parser("saved-model", variables, [_zip({**saved, "m/saved_model.pb": "z"})], ".zip"),
    ]


def _torch(_folder: Path) -> list[Parser]:
    import torch
    from safetensors.numpy import save

    from parfocal.yolo.importing import _arrays, _darknet_layers, _layers

    def layers(path: Path) -> object:
        return list(_layers(_arrays(path)))

    numbers = [np.ones(4 * shape[0] + int(np.prod(shape)), "<f4").tobytes() for shape in _SHAPES]
    darknet = np.array([0, 2, 0, 0, 0], "<i4").tobytes() + b"".join(numbers)
    return [
        Parser("torch", layers, [_saved(_state(torch.from_numpy))], ".pt"),
        Parser("safetensors", layers, [save(_state(lambda array: array))], ".safetensors"),
        Parser("darknet", lambda path: _darknet_layers(path, _SHAPES), [darknet], ".weights"),
    ]


def _cellpose(_folder: Path) -> list[Parser]:
    import torch

    from parfocal.cellpose.state_dict import read_state

    return [Parser("cellpose", read_state, [_saved(_state(torch.from_numpy))], ".pth")]


_MAKERS: Mapping[tuple[str, ...], Callable[[Path], list[Parser]]] = {
    ("parfocal.client", "zarr"): _client,
    ("h5py", "tensorflow"): _keras,
    ("torch", "parfocal.yolo.importing"): _torch,
    ("torch", "parfocal.cellpose.state_dict", "cellpose"): _cellpose,
}


def _state(convert: Callable[[Any], Any]) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    state = {f"conv{number}.weight": rng.random(shape, np.float32) for number, shape in enumerate(_SHAPES)}
    return {name: convert(array) for name, array in (state | {"conv0.bias": np.zeros(4, np.float32)}).items()}


def _saved(state: Mapping[str, Any]) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def _zip(members: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return buffer.getvalue()
