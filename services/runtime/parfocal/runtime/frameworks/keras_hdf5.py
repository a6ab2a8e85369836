"""Weights that other programs saved with Keras as HDF5: plain arrays are read, anything else is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import h5py

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.frameworks import keras_variables
from parfocal.runtime.frameworks.keras import KerasLearner, weights_file
from parfocal.runtime.methods.implementation import Arrays

# File format, alignment and names beside the numbers themselves.
_EXTRA_BYTES: Final = 2**24
# Files of whole models have the moments of an optimiser too.
_BYTES_PER_NUMBER: Final = 16
_WHOLE_MODEL: Final = "model_weights"


def read_weights(path: Path, learner: KerasLearner, described: str) -> Arrays:
    """Return the weights of a file for a network; nothing in the file is run.

    Parameters
    ----------
    path
        The file.
    learner
        A network of the same shape; its weights are replaced.
    described
        Name of the file that describes the network, for error messages, e.g. "config.json".

    Raises
    ------
    InvalidInputError
        The file is damaged, too large, of another network, or holds data other than plain numbers.
    """
    wanted = sum(array.size for array in learner.weights().values())
    if path.stat().st_size > _BYTES_PER_NUMBER * wanted + _EXTRA_BYTES:
        raise InvalidInputError(f"{path.name} is much larger than the {wanted} numbers of the network in {described}.")
    try:
        with h5py.File(path, "r") as file:
            found = sum(int(dataset.size) for dataset in _weights(file, path.name))
        if found != wanted:
            raise InvalidInputError(
                f"{path.name} has {found} numbers, and the network that {described} describes has {wanted}: they do "
                "not belong together."
            )
        learner.model.load_weights(str(path))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InvalidInputError(f"{path.name} is damaged or belongs to another network than {described}.") from error
    return learner.weights()


def read_kept_weights(source: Path, learner: KerasLearner, described: str) -> tuple[dict[str, Arrays], list[str]]:
    """Return the weights "best" and "last" of a folder, and warnings if one file stands for both.

    Parameters
    ----------
    source
        The folder, with the names of files that csbdeep gives; or with the variables of a SavedModel, which stand for
        both.
    learner, described
        See `read_weights`; `described` begins with the name of a file.

    Raises
    ------
    InvalidInputError
        There are no weights, or they cannot be used.
    """
    if (source / keras_variables.FOLDER).is_dir():
        only_kept = keras_variables.read_variables(source, learner, described)
        return {"best": only_kept, "last": only_kept}, []
    weights = {
        name: read_weights(source / weights_file(name), learner, described)
        for name in ("best", "last")
        if (source / weights_file(name)).exists()
    }
    if not weights:
        raise InvalidInputError(
            f"{source.name} has neither {weights_file('best')} nor {weights_file('last')}. Copy the weights beside "
            f"{described.split(',')[0]}."
        )
    only = next(iter(weights))
    kept = {name: weights.get(name, weights[only]) for name in ("best", "last")}
    if len(weights) == 2:
        return kept, []
    return kept, [f"The model had only {weights_file(only)}, which are used as best and last weights."]


def shapes_of(path: Path) -> list[tuple[int, ...]]:
    """Return the shapes of the weights in a file, in no order.

    Raises
    ------
    InvalidInputError
        The file is damaged, or holds data other than plain numbers.
    """
    try:
        with h5py.File(path, "r") as file:
            return [tuple(dataset.shape) for dataset in _weights(file, path.name)]
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InvalidInputError(f"{path.name} is damaged.") from error


def _weights(file: Any, name: str) -> Iterator[Any]:
    """Yield the arrays of a file that are weights: all, or in the file of a whole model those of its network."""
    if "layer_names" not in file.attrs and isinstance(file.get(_WHOLE_MODEL, getlink=True), h5py.HardLink):
        yield from _datasets(file[_WHOLE_MODEL], name)
    else:
        yield from _datasets(file, name)


def _datasets(group: Any, name: str) -> Iterator[Any]:
    """Yield the arrays of an HDF5 file; anything but plain floating-point numbers inside it is refused."""
    for key in group:
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise InvalidInputError(f"{name} refers to other files ({key}), which is not allowed.")
        item = group[key]
        if isinstance(item, h5py.Group):
            yield from _datasets(item, name)
        elif not isinstance(item, h5py.Dataset) or item.dtype.kind != "f" or item.is_virtual or item.external:
            raise InvalidInputError(f"{name} holds data other than plain numbers ({key}): it cannot be used.")
        else:
            yield item
