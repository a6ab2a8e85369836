"""Backbones that were trained elsewhere, checked and brought into Parfocal's form.

`python -m parfocal.yolo.importing METHOD SOURCE FOLDER` reads the convolutions before the detection layers from a file:
`.weights` of Darknet (for example `darknet19_448.conv.23`), a state dictionary of PyTorch (`.pt`, `.pth`) or
`.safetensors`. It writes the files of a model version to FOLDER/model and what its manifest shall say, or why the file
cannot be used, to FOLDER/report.json. Such a model cannot predict: it is what a training begins with.

The file comes from anywhere, and nothing in it is run: state dictionaries are opened with `weights_only`, and only
plain arrays of the expected shapes are taken, in their order.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from parfocal import v1
from parfocal.runtime.datasets.findings import by
from parfocal.runtime.errors import InvalidInputError, InvalidParameterError
from parfocal.runtime.methods.importing import manifest_fields, run_import
from parfocal.runtime.methods.roles import Roles
from parfocal.runtime.methods.service import Method
from parfocal.runtime.store.facts import Facts, Port
from parfocal.yolo import SERVICE
from parfocal.yolo.modules import BACKBONE
from parfocal.yolo.network import BACKBONE_ONLY, YoloV2
from parfocal.yolo.parameters import CELL

_MOST_BYTES: Final = 2**30
_PYTORCH: Final = (".pt", ".pth")
# Of the publication, in cells: a place holder, for every training measures its own.
_ANCHORS: Final = ((0.57273, 0.677385), (1.87446, 2.06253), (3.33843, 5.47434), (7.88282, 3.52778), (9.77052, 9.16828))


@dataclass
class Layer:
    """A convolution without bias and the batch normalisation behind it, as arrays.

    Attributes
    ----------
    kernel
        (outputs, inputs, Y, X).
    vectors
        Scale ("weight"), offset ("bias"), "running_mean" and "running_var", one number for each output.
    """

    kernel: NDArray[np.float32]
    vectors: dict[str, NDArray[np.float32]]


def import_backbone(method: Method, source: Path, folder: Path) -> dict[str, Any]:
    """Write the files of a model version with the backbone in a file and return what its manifest says.

    Raises
    ------
    InvalidInputError
        The file is missing, too large, damaged, or has other convolutions than the method.
    """
    if not source.is_file():
        raise InvalidInputError(
            f"The file {source.name} does not exist. Name the file with the weights of the backbone."
        )
    if source.stat().st_size > _MOST_BYTES:
        raise InvalidInputError(
            f"{source.name} has more than {_MOST_BYTES // 2**30} GiB: a backbone of YOLOv2 is smaller."
        )
    implementation: YoloV2 = method.load()
    if source.suffix.lower() in (*_PYTORCH, ".safetensors"):
        layers = _chain(implementation, list(_layers(_arrays(source))))
        if not layers:
            raise InvalidInputError(f"{source.name} holds no convolutions of images.")
        filters, channels = layers[0].kernel.shape[:2]
    else:
        channels = 3
        filters = int(method.work_of(v1.JOB_KIND_TRAINING).parameters.model_fields["first_filters"].default)
        layers = _darknet_layers(source, _wanted(implementation, filters, channels))
    try:
        parameters: Any = method.parse(v1.JOB_KIND_TRAINING, {"first_filters": int(filters)})
    except InvalidParameterError as error:
        raise InvalidInputError(
            f"{source.name}: its first convolution has {filters} filters, a number with which Parfocal does not build "
            "networks."
        ) from error
    facts = Facts(
        inputs=(Port(role=Roles().source, channels=int(channels)),),
        targets=(Port(role=Roles().targets[0], kind="boxes", classes=1),),
        measured={
            "anchors_px": (np.array(_ANCHORS) * CELL).round(2).tolist(),
            "largest_box_px": round(_ANCHORS[-1][0] * CELL, 2),
            "class_names": ["object"],
            BACKBONE_ONLY: True,
        },
    )
    learner = implementation.build(parameters, facts)
    places = _places(learner.modules["network"])
    weights = learner.weights()
    for number, (convolution, norm) in enumerate(places, start=1):
        wanted = weights[f"{convolution}.weight"].shape
        if number > len(layers) or layers[number - 1].kernel.shape != wanted:
            found = "missing" if number > len(layers) else f"of shape {by(layers[number - 1].kernel.shape)}"
            raise InvalidInputError(
                f"{source.name}: convolution {number} of {len(places)} is {found}, and {method.title} requires one of "
                f"{by(wanted)} (outputs x inputs x height x width). It belongs to another network."
            )
        weights[f"{convolution}.weight"] = layers[number - 1].kernel
        weights |= {f"{norm}.{name}": vector for name, vector in layers[number - 1].vectors.items()}
    if not all(np.isfinite(array).all() for array in weights.values()):
        raise InvalidInputError(f"{source.name} is damaged: some of its numbers are not finite.")
    implementation.save(folder, parameters, facts, {"best": weights})
    warning = "The model is only a backbone: it cannot predict before a training was started from it."
    return manifest_fields(method, implementation, parameters, facts, ["best"], [warning])


def _places(network: torch.nn.Module) -> list[tuple[str, str]]:
    """Return the names of the convolutions of the backbone, and of the batch normalisation behind each."""
    modules = [(name, each) for name, each in network.named_modules() if name.startswith(BACKBONE)]
    return [
        (name, behind) for (name, each), (behind, _) in itertools.pairwise(modules) if isinstance(each, torch.nn.Conv2d)
    ]


def _wanted(implementation: YoloV2, filters: int, channels: int) -> list[tuple[int, ...]]:
    """Return the shapes of the kernels of a backbone with so many first filters and channels."""
    with torch.device("meta"):
        network = implementation.network(channels, 1, filters)
    return [tuple(network.get_submodule(name).weight.shape) for name, _ in _places(network)]


def _chain(implementation: YoloV2, layers: list[Layer]) -> list[Layer]:
    """Return the layers from the first one on with which a backbone begins, or all if there is none.

    In some files the names of layers come in another order than the layers themselves, and a part of a network that
    does not belong to the backbone comes first.
    """
    for start, layer in enumerate(layers):
        wanted = _wanted(implementation, *layer.kernel.shape[:2])
        if [each.kernel.shape for each in layers[start : start + len(wanted)]] == wanted:
            return layers[start:]
    return layers


def _arrays(source: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file by name, in the order of the network."""
    try:
        if source.suffix.lower() == ".safetensors":
            content = load_file(source)
            # The file does not keep the order of layers; in Parfocal's own names the parts come in that of `BACKBONE`.
            order = {part: number for number, part in enumerate(BACKBONE)}
            names = sorted(content, key=lambda name: (order.get(f"{name.split('.')[0]}.", -1), _natural(name)))
            return {name: content[name] for name in names}
        content = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # files of strangers make the readers raise anything
        raise InvalidInputError(
            f"{source.name} is damaged, or holds more than plain arrays, which is not opened. Save the state "
            "dictionary of the network alone."
        ) from error
    for name in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping):
        raise InvalidInputError(
            f"{source.name} holds no state dictionary: save the state dictionary of the network alone."
        )
    arrays = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    try:
        return {str(name): value.detach().float().numpy() for name, value in arrays.items()}
    except (TypeError, RuntimeError) as error:
        raise InvalidInputError(
            f"{source.name} stores its numbers in an unknown format. Save the state dictionary as float32."
        ) from error


def _layers(arrays: Mapping[str, NDArray[Any]]) -> Iterator[Layer]:
    """Yield the convolutions of a network, each with the vectors that follow it."""
    layer: Layer | None = None
    for name, array in arrays.items():
        ending = name.rpartition(".")[2]
        if array.ndim == 4:
            if layer is not None:
                yield _complete(layer)
            layer = Layer(np.asarray(array, np.float32), {})
        elif layer is not None and array.shape == layer.kernel.shape[:1] and ending in _VECTORS:
            layer.vectors.setdefault(ending, np.asarray(array, np.float32))
    if layer is not None:
        yield _complete(layer)


_VECTORS: Final = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}


def _complete(layer: Layer) -> Layer:
    """Return a layer whose missing vectors change nothing."""
    neutral = {name: np.full(len(layer.kernel), value, np.float32) for name, value in _VECTORS.items()}
    return Layer(layer.kernel, neutral | layer.vectors)


def _darknet_layers(source: Path, shapes: list[tuple[int, ...]]) -> list[Layer]:
    """Return the first convolutions of a file of Darknet, which holds their numbers one after the other.

    The file begins with three whole numbers of the version and the count of images seen, 8 bytes since version 0.2; for
    each convolution follow offsets, scales, means, variances and the kernel.
    """
    data = source.read_bytes()
    version = np.frombuffer(data[:8], "<i4") if len(data) >= 8 else np.full(2, -1, "<i4")
    if not 0 <= version[0] < 1000 or not 0 <= version[1] < 1000:
        raise InvalidInputError(
            f"{source.name} is not a file of Darknet. Backbones are read from .weights, .safetensors, .pt and .pth."
        )
    begin = 12 + (8 if version[0] * 10 + version[1] >= 2 else 4)
    numbers = np.frombuffer(data[begin : begin + (len(data) - begin) // 4 * 4], "<f4")
    layers, place = [], 0
    for shape in shapes:
        count, size = shape[0], int(np.prod(shape))
        if place + 4 * count + size > len(numbers):
            break
        parts = np.split(numbers[place : place + 4 * count], 4)
        vectors = dict(zip(("bias", "weight", "running_mean", "running_var"), parts, strict=True))
        kernel = numbers[place + 4 * count : place + 4 * count + size].reshape(shape)
        layers.append(
            Layer(kernel.astype(np.float32), {name: each.astype(np.float32) for name, each in vectors.items()})
        )
        place += 4 * count + size
    return layers


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key by which layer2 comes before layer10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def main(method_name: str, source: str, folder: str) -> int:
    """Import a file; return 0, or 1 if it cannot be used. See the module."""
    return run_import(SERVICE, (method_name, source, folder), import_backbone)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
