"""Packages of csbdeep's family of programs (CARE, Noise2Void), brought into the form of their own model folders.

Imported by workers only: it loads TensorFlow.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parfocal.runtime.frameworks import keras_hdf5, keras_variables
from parfocal.runtime.frameworks.keras import weights_file
from parfocal.runtime.methods.service import Method
from parfocal.runtime.packages.importing import refusal
from parfocal.runtime.packages.package import CONFIG, Package

_HDF5 = "keras_hdf5"
_SAVED_MODEL = "tensorflow_saved_model_bundle"


def write_source(method: Method, package: Package, folder: Path) -> list[tuple[int, ...]]:
    """Write the arrays of a package, and its configuration where it has one, as a folder of csbdeep.

    Parameters
    ----------
    method
        The method, for messages.
    package
        The package.
    folder
        An empty folder.

    Returns
    -------
    list of tuple
        The shapes of the arrays, in no order.

    Raises
    ------
    InvalidInputError
        None of the forms in which the package has its network holds arrays that can be read by themselves.
    """
    if config := package.config():
        write_config(folder, config)
    weights = package.description.weights
    attached = package.attachment(weights_file("best"))
    if attached is not None or _HDF5 in weights:
        path = folder / weights_file("best")
        shutil.copyfile(attached or package.path(weights[_HDF5]), path)
        return keras_hdf5.shapes_of(path)
    if _SAVED_MODEL not in weights:
        raise refusal(method, package.description)
    keras_variables.unpack_variables(package.path(weights[_SAVED_MODEL]), folder)
    return keras_variables.shapes_of(folder)


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the configuration of a network as csbdeep does."""
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
