"""CARE models made by csbdeep itself, for example in ZeroCostDL4Mic, checked and brought into Parfocal's form.

`python -m parfocal.care.importing METHOD SOURCE FOLDER` reads a csbdeep model folder (config.json, weights_best.h5 or
weights_last.h5) and writes the files of a model version to FOLDER/model and what its manifest shall say, or why it
cannot be used, to FOLDER/report.json.

The files come from anywhere. Nothing in them is run: the network is built from checked numbers by Parfocal's own code,
and only plain arrays of the expected size are read.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from parfocal.care import SERVICE
from parfocal.care.network import Care
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.frameworks.keras_hdf5 import read_kept_weights
from parfocal.runtime.methods.importing import (
    Values,
    check_network,
    manifest_fields,
    run_import,
    training_parameters,
)
from parfocal.runtime.methods.service import Method
from parfocal.runtime.packages.csbdeep import write_config, write_source
from parfocal.runtime.packages.package import Package
from parfocal.runtime.packages.steps import check_undone, normaliser_of
from parfocal.runtime.store.facts import Facts

_CONFIG: Final = "config.json"
_NETWORK: Final = (
    "axes",
    "n_channel_in",
    "n_channel_out",
    "probabilistic",
    "unet_residual",
    "unet_n_depth",
    "unet_kern_size",
    "unet_n_first",
    "unet_last_activation",
)


def import_model(method: Method, source: Path, folder: Path) -> dict[str, Any]:
    """Write the files of the model version that the csbdeep folder `source` makes and return what its manifest says.

    Returns
    -------
    dict
        Fields of `ModelManifest`: parameters, facts, weights, axes, normaliser, warnings.

    Raises
    ------
    InvalidInputError
        A file is missing, too large, damaged or describes a network that the method does not build.
    """
    config = Values.read(source / _CONFIG, "csbdeep")
    implementation: Care = method.load()
    parameters, left_out = _parameters(method, config)
    facts = Facts()
    check_network(config, vars(implementation.config(parameters, facts)), _NETWORK)
    learner = implementation.build(parameters, facts)
    kept, warnings = read_kept_weights(source, learner, _CONFIG)
    if parameters.probabilistic:
        warnings.append(
            "The uncertainty of the model was not calibrated on validation images. Train the model further to "
            "calibrate it."
        )
    implementation.save(folder, parameters, facts, kept)
    return manifest_fields(method, implementation, parameters, facts, kept, warnings + left_out)


def import_package(method: Method, package: Package, folder: Path) -> dict[str, Any]:
    """Write the files of the model version that a package of bioimage.io makes and return what its manifest says.

    Packages seldom have csbdeep's configuration. Then the network is the one that such arrays fit.

    Raises
    ------
    InvalidInputError
        The package has no arrays that can be read, or steps that Parfocal does not have, or see `import_model`.
    """
    normaliser = normaliser_of(package.description.input, 1)
    check_undone(package.description.output, normaliser)
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch)
        shapes = write_source(method, package, source)
        if not (source / _CONFIG).exists():
            write_config(source, _guessed(method, shapes))
        fields = import_model(method, source, folder)
    return {**fields, "normaliser": normaliser.record()}


def _guessed(method: Method, shapes: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return the configuration of the network of csbdeep that arrays of these shapes are the weights of."""
    spatial = len(method.axes)
    kernels = [shape for shape in shapes if len(shape) == spatial + 2]
    wide = [shape for shape in kernels if shape[0] > 1]
    # Two convolutions at each level on the way down, two at the bottom, two at each level on the way up, and one for
    # each output.
    outputs = len(kernels) - len(wide)
    depth, rest = divmod(len(wide) - 2, 4)
    if depth < 1 or rest or outputs not in (1, 2):
        raise InvalidInputError(
            f"The package has no {_CONFIG} of csbdeep, and its {len(kernels)} convolutions in {spatial} dimensions are "
            "not those of a network of CARE. Import the folder that csbdeep wrote, with its config.json."
        )
    return {
        "axes": f"{method.axes}C",
        "n_channel_in": 1,
        "n_channel_out": 1,
        "probabilistic": outputs == 2,
        "unet_residual": True,
        "unet_n_depth": depth,
        "unet_kern_size": wide[0][0],
        "unet_n_first": min(shape[-1] for shape in wide),
        "unet_last_activation": "linear",
    }


def _parameters(method: Method, config: Values) -> tuple[Any, list[str]]:
    """Return the training parameters, of the training itself those that Parfocal has too, and warnings of the rest."""
    if not isinstance(probabilistic := config.get("probabilistic"), bool):
        raise InvalidInputError(f"{_CONFIG}: probabilistic is {probabilistic!r} and must be true or false.")
    network = {
        "network_depth": config.whole("unet_n_depth", 1, 100),
        "kernel_size": config.whole("unet_kern_size", 1, 100),
        "first_filters": config.whole("unet_n_first", 1, 10_000),
        "probabilistic": probabilistic,
    }
    training = {
        "epochs": config.get("train_epochs"),
        "learning_rate": config.get("train_learning_rate"),
        "batch_size": config.get("train_batch_size"),
    }
    return training_parameters(method, _CONFIG, network, training)


def main(method_name: str, source: str, folder: str) -> int:
    """Import a folder; return 0, or 1 if it cannot be used. See the module."""
    return run_import(SERVICE, (method_name, source, folder), import_model)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
