"""Noise2Void models made by n2v itself, for example in ZeroCostDL4Mic, checked and brought into Parfocal's form.

`python -m parfocal.n2v.importing METHOD SOURCE FOLDER` reads an n2v model folder (config.json, weights_best.h5 or
weights_last.h5) and writes the files of a model version to FOLDER/model and what its manifest shall say, or why it
cannot be used, to FOLDER/report.json. Such a model keeps the normalisation of its training: mean and standard deviation
of all its images.

The files come from anywhere. Nothing in them is run: the network is built from checked numbers by Parfocal's own code,
and only plain arrays of the expected size are read.
"""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np

from parfocal.n2v import SERVICE
from parfocal.n2v.masking import hidden_pixels, struct_mask
from parfocal.n2v.network import Noise2Void
from parfocal.n2v.parameters import N2V2, STRUCT
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.frameworks.keras_hdf5 import read_kept_weights
from parfocal.runtime.images.pixel_values import LARGEST_VALUE
from parfocal.runtime.methods.importing import (
    Values,
    check_network,
    manifest_fields,
    patch_lengths,
    run_import,
    training_parameters,
)
from parfocal.runtime.methods.normaliser import Normaliser, NormaliserConstants
from parfocal.runtime.methods.roles import Roles
from parfocal.runtime.methods.service import Method
from parfocal.runtime.packages.csbdeep import write_source
from parfocal.runtime.packages.package import Package
from parfocal.runtime.packages.steps import check_undone, normaliser_of
from parfocal.runtime.store.facts import Facts, Port

_CONFIG: Final = "config.json"
_NETWORK: Final = (
    "axes",
    "n_channel_in",
    "n_channel_out",
    "probabilistic",
    "batch_norm",
    "unet_residual",
    "unet_n_depth",
    "unet_kern_size",
    "unet_n_first",
    "unet_last_activation",
    "blurpool",
    "skip_skipone",
)
# What files mean that were written before N2V2.
_OLDER: Final = {"blurpool": False, "skip_skipone": False}
_LARGEST_MASK: Final = 10_000


def import_model(method: Method, source: Path, folder: Path) -> dict[str, Any]:
    """Write the files of the model version that the n2v folder `source` makes and return what its manifest says.

    Returns
    -------
    dict
        Fields of `ModelManifest`: parameters, facts, weights, axes, normaliser, warnings.

    Raises
    ------
    InvalidInputError
        A file is missing, too large, damaged or describes a network that the method does not build.
    """
    config = Values.read(source / _CONFIG, "n2v")
    if config.get("n_channel_in") != 1:
        raise InvalidInputError(
            f"{_CONFIG}: n_channel_in is {config.get('n_channel_in')!r}. Only models of single channels are imported: "
            "n2v applies the networks of several channels to the last one."
        )
    constants = NormaliserConstants(offset=(_constant(config, "means"),), scale=(_constant(config, "stds"),))
    if constants.scale[0] <= 0:
        raise InvalidInputError(f"{_CONFIG}: stds is {config['stds']!r} and must be above 0.")
    implementation: Noise2Void = method.load()
    parameters, left_out = _parameters(method, config)
    port = Port(role=Roles().source, offset=constants.offset, scale=constants.scale)
    facts = Facts(inputs=(port,), targets=())
    check_network(config, vars(implementation.config(parameters, facts)), _NETWORK, older=_OLDER)
    learner = implementation.build(parameters, facts)
    kept, warnings = read_kept_weights(source, learner, _CONFIG)
    implementation.save(folder, parameters, facts, kept)
    normaliser = Normaliser(rule="fixed", constants=constants)
    return manifest_fields(method, implementation, parameters, facts, kept, warnings + left_out, normaliser)


def import_package(method: Method, package: Package, folder: Path) -> dict[str, Any]:
    """Write the files of the model version that a package of n2v makes and return what its manifest says.

    Raises
    ------
    InvalidInputError
        The package has no configuration of n2v, no arrays that can be read, or steps that Parfocal does not have, or
        see `import_model`.
    """
    if not package.config():
        raise InvalidInputError(
            f"The package has no {_CONFIG} of n2v among its attachments, which says how the network was trained. "
            f"Import the folder that n2v wrote, with its {_CONFIG}."
        )
    normaliser = normaliser_of(package.description.input, 1)
    check_undone(package.description.output, normaliser)
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch)
        write_source(method, package, source)
        fields = import_model(method, source, folder)
    return {**fields, "normaliser": normaliser.record()}


def _parameters(method: Method, config: Values) -> tuple[Any, list[str]]:
    """Return the training parameters, of the training itself those that Parfocal has too, and warnings of the rest."""
    mask = _mask(config, len(method.axes))
    hidden = np.empty((0, len(method.axes)), np.intp) if mask is None else hidden_pixels(mask)
    variant = N2V2 if config.get("blurpool") is True else STRUCT if len(hidden) else "n2v"
    network = {
        "variant": variant,
        "network_depth": config.whole("unet_n_depth", 1, 100),
        "kernel_size": config.whole("unet_kern_size", 1, 100),
        "first_filters": config.whole("unet_n_first", 1, 10_000),
    }
    training = {
        "epochs": config.get("train_epochs"),
        "learning_rate": config.get("train_learning_rate"),
        "batch_size": config.get("train_batch_size"),
        "masked_percent": config.get("n2v_perc_pix"),
        "neighborhood_radius": config.get("n2v_neighborhood_radius"),
        **patch_lengths(config.get("n2v_patch_shape"), method.axes),
    }
    if variant != STRUCT:
        return training_parameters(method, _CONFIG, network, training)
    reach = np.abs(hidden).max(axis=0)[-2:]
    direction = "".join(axis for axis, far in zip("xy", reach[::-1], strict=True) if far)
    length = 2 * int(reach.max()) + 1
    training |= {"struct_direction": direction or None, "struct_length": length}
    parameters, left_out = training_parameters(method, _CONFIG, network, training)
    if not np.array_equal(hidden, hidden_pixels(struct_mask(method.axes, direction, length))):
        left_out.append(
            f"{_CONFIG}: structN2Vmask is not a line along X or Y or a square, all of it hidden, as Parfocal's masks "
            "are. The version records the nearest such mask; predictions do not depend on it."
        )
    return parameters, left_out


def _mask(config: Values, dimensions: int) -> Any:
    """Return the mask of structN2V, None without one; raise InvalidInputError for anything that is no mask."""
    given = config.get("structN2Vmask")
    if given is None:
        return None
    try:
        mask = np.array(given)
    except ValueError:
        mask = np.array(None)
    if (
        mask.dtype.kind not in "iu"
        or mask.ndim != dimensions
        or mask.size > _LARGEST_MASK
        or any(length % 2 == 0 for length in mask.shape)
        or not np.isin(mask, (0, 1)).all()
    ):
        raise InvalidInputError(
            f"{_CONFIG}: structN2Vmask must be 0 and 1 in {dimensions} dimensions, with an odd number along each."
        )
    return mask


def _constant(config: Values, key: str) -> float:
    """Return the mean or standard deviation of the only channel, which n2v writes as text."""
    given = config.get(key)
    try:
        (text,) = given if isinstance(given, list) else ["none"]
        value = float(text)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not abs(value) <= LARGEST_VALUE:
        raise InvalidInputError(f"{_CONFIG}: {key} is {given!r} and must be one finite number.")
    return value


def main(method_name: str, source: str, folder: str) -> int:
    """Import a folder; return 0, or 1 if it cannot be used. See the module."""
    return run_import(SERVICE, (method_name, source, folder), import_model)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
