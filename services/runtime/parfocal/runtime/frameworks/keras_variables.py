"""Weights in the form in which TensorFlow saves them beside a program: the arrays are read, and the program is not.

A SavedModel is a folder with a graph, which is a program, and with the folder `variables`, which holds arrays alone.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import tensorflow as tf

from parfocal.runtime.errors import DAMAGED_ARCHIVE, InvalidInputError
from parfocal.runtime.frameworks.keras import KerasLearner
from parfocal.runtime.methods.implementation import Arrays

FOLDER: Final = "variables"
_PREFIX: Final = "variables"
_FILE: Final = re.compile(r"(?:[^/]+/)?variables/(variables\.(?:index|data-\d{5}-of-\d{5}))")
_BLOCK: Final = 2**20
_MOST_BYTES: Final = 2**31
# Keras 2 and 3 number the layers that have weights; graphs of TensorFlow 1 name them.
_NUMBERED: Final = re.compile(r"layer_with_weights-(\d+)/([A-Za-z_]+)/\.ATTRIBUTES/VARIABLE_VALUE")
_NAMED: Final = re.compile(r"(?!training/)([A-Za-z0-9_]+)/(kernel|bias|gamma|beta|moving_mean|moving_variance)")

_UNNAMED: Final = re.compile(r"(conv[23]d|batch_normalization)(?:_(\d+))?")


def unpack_variables(archive: Path, folder: Path) -> None:
    """Copy the arrays of a zipped SavedModel to a folder, in which they lie below `variables`, and nothing else.

    Raises
    ------
    InvalidInputError
        The file is damaged or has no such arrays.
    """
    found, left = 0, _MOST_BYTES
    try:
        with zipfile.ZipFile(archive) as content:
            for member in content.infolist():
                if name := _FILE.fullmatch(member.filename):
                    (folder / FOLDER).mkdir(exist_ok=True)
                    with content.open(member) as file, (folder / FOLDER / name[1]).open("xb") as copy:
                        left -= _copied(file, copy, left)
                    found += 1
    except DAMAGED_ARCHIVE as error:
        raise InvalidInputError(f"{archive.name} is damaged: {error}.") from error
    if not found:
        raise InvalidInputError(f"{archive.name} holds no variables: it is not a SavedModel of TensorFlow.")


def _copied(file: IO[bytes], copy: IO[bytes], most: int) -> int:
    size = 0
    while block := file.read(_BLOCK):
        size += len(block)
        if size > most:
            raise InvalidInputError(f"The variables of the network are larger than {_MOST_BYTES // 2**30} GiB.")
        copy.write(block)
    return size


def read_variables(folder: Path, learner: KerasLearner, described: str) -> Arrays:
    """Return the weights that were saved in a folder, for a network.

    Parameters
    ----------
    folder
        The folder in which `variables` lies.
    learner
        A network of the same shape; its weights are replaced.
    described
        Name of the file that describes the network, for error messages, e.g. "config.json".

    Raises
    ------
    InvalidInputError
        The files are damaged, of another network, or hold data other than plain numbers.
    """
    layers = [layer for layer in learner.model.layers if layer.weights]
    places = {id(variable): key for variable, key in zip(learner.model.weights, learner.weights(), strict=True)}
    try:
        reader = tf.train.load_checkpoint(str(folder / FOLDER / _PREFIX))
        shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
        arrays: dict[str, Any] = {}
        for layer, names in zip(layers, _names(shapes, layers, described), strict=True):
            for variable in layer.weights:
                leaf = variable.name.rpartition("/")[2].partition(":")[0]
                name = names.get(leaf)
                if name is None or list(shapes[name]) != list(variable.shape) or not types[name].is_floating:
                    raise InvalidInputError(
                        f"The variables of the network have no {leaf} of the shape {tuple(variable.shape)} for its "
                        f"layer {layer.name}: they do not belong to the network that {described} describes."
                    )
                arrays[places[id(variable)]] = reader.get_tensor(name)
    except (tf.errors.OpError, ValueError, KeyError, RuntimeError) as error:
        raise InvalidInputError(f"The variables of the network are damaged: {str(error)[:200]}.") from error
    learner.set_weights(arrays)
    return learner.weights()


def shapes_of(folder: Path) -> list[tuple[int, ...]]:
    """Return the shapes of the weights that were saved in a folder, in no order.

    Raises
    ------
    InvalidInputError
        The files are damaged.
    """
    try:
        reader = tf.train.load_checkpoint(str(folder / FOLDER / _PREFIX))
        shapes = reader.get_variable_to_shape_map()
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise InvalidInputError(f"The variables of the network are damaged: {str(error)[:200]}.") from error
    return [tuple(shapes[name]) for names in _by_layer(shapes).values() for name in names.values()]


def _names(shapes: Mapping[str, Any], layers: Sequence[Any], described: str) -> list[Mapping[str, str]]:
    """Return for each layer of a network the names of its weights in a checkpoint, by kind of weight."""
    found = _by_layer(shapes)
    if len(found) != len(layers):
        raise InvalidInputError(
            f"The variables of the network are those of {len(found)} layers, and the network that {described} "
            f"describes has {len(layers)}: they do not belong together."
        )
    if all(layer.isdigit() for layer in found):
        return [found[layer] for layer in sorted(found, key=int)]
    same = dict(zip(_in_order(layer.name for layer in layers), _in_order(found), strict=True))
    return [found[same[layer.name]] for layer in layers]


def _in_order(names: Iterable[str]) -> list[str]:
    """Return names of layers sorted so that those of equal networks stand at the same places.

    Layers that nobody named have numbers, which go on from network to network in the order in which layers are made.
    """

    def place(name: str) -> tuple[str, int]:
        match = _UNNAMED.fullmatch(name)
        return (match[1], int(match[2] or 0)) if match else (name, 0)

    return sorted(names, key=place)


def _by_layer(shapes: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the names in a checkpoint by layer and kind of weight; layers have a number or a name."""
    found: dict[str, dict[str, str]] = {}
    for name in sorted(shapes):
        if match := _NUMBERED.fullmatch(name) or _NAMED.fullmatch(name):
            found.setdefault(match[1], {})[match[2]] = name
    return found
