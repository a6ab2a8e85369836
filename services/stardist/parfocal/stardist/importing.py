"""Models made by stardist and SplineDist themselves, checked and brought into Parfocal's form.

`python -m parfocal.stardist.importing METHOD SOURCE FOLDER` reads a stardist model folder (config.json, weights_best.h5
or weights_last.h5, thresholds.json), or downloads one that stardist publishes under that name, and writes the files of
a model version to FOLDER/model and what its manifest shall say, or why it cannot be used, to FOLDER/report.json. The
folders of SplineDist have the same files; the bases that lie in them too are computed anew.

The files come from anywhere. Nothing in them is run: the network is built from checked numbers by Parfocal's own code
(stardist would evaluate the name of the rays as Python), and only plain arrays of the expected size are read.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from csbdeep.models.pretrained import get_model_folder, get_registered_models

from parfocal.runtime.datasets.classes import CLASS_ROLE, MOST_CLASSES
from parfocal.runtime.errors import InvalidInputError, NotFoundError
from parfocal.runtime.frameworks.keras import weights_file
from parfocal.runtime.frameworks.keras_hdf5 import read_kept_weights
from parfocal.runtime.methods.importing import (
    Values,
    check_network,
    manifest_fields,
    patch_lengths,
    run_import,
    training_parameters,
)
from parfocal.runtime.methods.roles import Roles
from parfocal.runtime.methods.service import Method
from parfocal.runtime.packages.importing import refusal
from parfocal.runtime.packages.package import Package
from parfocal.runtime.packages.steps import check_none, normaliser_of
from parfocal.runtime.store.facts import Facts, Port
from parfocal.stardist import SERVICE
from parfocal.stardist.network import DEFAULT_THRESHOLDS, THRESHOLDS, StarDist, with_thresholds
from stardist import models

_CONFIG = "config.json"
_MOST_CHANNELS = 64
# What decides which network is built and how its output is read; older files lack some, which then have these values.
_NETWORK_PREFIXES = ("unet_", "resnet_", "net_conv_")
_LEGACY = {
    "n_classes": None,
    "backbone": "unet",
    "unet_prefix": "",
    "unet_last_activation": "relu",
    "unet_expansion": 2,
}
# Classes of stardist that have published models, by method.
_PUBLISHED = {"stardist-2d": models.StarDist2D, "stardist-3d": models.StarDist3D}


def import_model(method: Method, source: Path, folder: Path) -> dict[str, Any]:
    """Write the files of the model version that the stardist folder `source` makes and return what its manifest says.

    Returns
    -------
    dict
        Fields of `ModelManifest`: parameters, facts, weights, axes, normaliser, warnings.

    Raises
    ------
    InvalidInputError
        A file is missing, too large, damaged or describes a network that the method does not build.
    """
    config = Values.read(source / _CONFIG, method.title)
    implementation: StarDist = method.load()
    parameters, left_out = _parameters(method, config)
    targets = [Port(role=Roles().targets[0], kind="labels")]
    if parameters.classes:
        targets.append(Port(role=CLASS_ROLE, kind="classes", classes=parameters.classes))
    images = Port(role=Roles().source, channels=config.whole("n_channel_in", 1, _MOST_CHANNELS))
    facts = Facts(inputs=(images,), targets=tuple(targets))
    learner = implementation.build(parameters, facts)
    ours = vars(learner.stardist.config)
    network = [name for name in ours if name.startswith(_NETWORK_PREFIXES)]
    check_network(
        config,
        ours,
        ["axes", "n_channel_in", _outline(method), "grid", "n_classes", "backbone", *network],
        older=_LEGACY,
    )
    described = f"{_CONFIG}, with {parameters.classes} classes," if parameters.classes else _CONFIG
    kept, warnings = read_kept_weights(source, learner, described)
    thresholds = dict(DEFAULT_THRESHOLDS)
    if (source / THRESHOLDS).exists():
        given = Values.read(source / THRESHOLDS, method.title)
        thresholds = {name: given.fraction(name) for name in DEFAULT_THRESHOLDS}
    else:
        warnings.append(
            f"The model had no {THRESHOLDS}: stardist's usual ones are used (probability {thresholds['prob']:g}, "
            f"overlap {thresholds['nms']:g}), which may not suit it."
        )
    facts = with_thresholds(facts, thresholds)
    implementation.save(folder, parameters, facts, kept)
    return manifest_fields(method, implementation, parameters, facts, kept, warnings + left_out)


def import_package(method: Method, package: Package, folder: Path) -> dict[str, Any]:
    """Write the files of the model version that a package of stardist makes and return what its manifest says.

    stardist puts its weights into packages as an attachment, beside the program for others.

    Raises
    ------
    InvalidInputError
        The package has no such weights, or steps that Parfocal does not have, or see `import_model`.
    """
    said = package.description.config.get("stardist")
    said = said if isinstance(said, Mapping) else {}
    check_none(package.description.output)
    config, name = package.config(), said.get("weights")
    weights = package.attachment(name) if isinstance(name, str) else None
    if not config or weights is None:
        raise refusal(method, package.description)
    channels = Values(_CONFIG, config).whole("n_channel_in", 1, _MOST_CHANNELS)
    normaliser = normaliser_of(package.description.input, channels)
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch)
        (source / _CONFIG).write_text(json.dumps(config), encoding="utf-8")
        if isinstance(thresholds := said.get("thresholds"), Mapping):
            (source / THRESHOLDS).write_text(json.dumps(thresholds), encoding="utf-8")
        shutil.copyfile(weights, source / weights_file("best"))
        fields = import_model(method, source, folder)
    return {**fields, "normaliser": normaliser.record()}


def locate(method: Method, name: str) -> Path:
    """Return a folder, or that of a model that stardist publishes, downloaded once, its SHA-256 checked.

    Raises
    ------
    InvalidInputError, NotFoundError
        It is a file; or there is no such model, or it cannot be downloaded.
    """
    if Path(name).is_file():
        raise InvalidInputError("It is a file. Unpack it, and name the unpacked folder.")
    if Path(name).is_dir():
        return Path(name).resolve()
    kind = _PUBLISHED.get(method.name)
    if kind is None:
        raise NotFoundError(
            f"The folder {name} does not exist. Name the folder of a model that was trained with {method.title}."
        )
    known = get_registered_models(kind, return_aliases=False)
    if name not in known:
        raise NotFoundError(
            f"The folder {name} does not exist, and stardist does not publish a model of this name for {method.title}. "
            f"It publishes {', '.join(known)}."
        )
    try:
        return Path(get_model_folder(kind, name))
    except Exception as error:  # Keras turns whatever goes wrong into a bare Exception
        raise NotFoundError(
            f"The model {name} could not be downloaded: {error}. Download and unpack it on a computer with access to "
            "the internet, and import its folder."
        ) from error


def _parameters(method: Method, config: Values) -> tuple[Any, list[str]]:
    """Return the training parameters, of the training itself those that Parfocal has too, and warnings of the rest."""
    grid = config.numbers("grid", len(method.axes))
    if len(set(grid[-2:])) > 1 or (len(grid) == 3 and grid[0] != 1):
        raise InvalidInputError(f"{_CONFIG}: the grid {grid} is not the same along Y and X, and 1 along Z.")
    outline = config.whole(_outline(method), 1, 10_000)
    network: dict[str, Any] = {"grid": grid[-1]}
    network |= {"control_points": outline / 2} if _outline(method) == "n_params" else {"rays": outline}
    if method.axes == "ZYX":
        network |= {"backbone": config.get("backbone", "unet"), "anisotropy": _anisotropy(config)}
    prefix = network.get("backbone", "unet")
    if config.get("n_classes") is not None:
        network["classes"] = config.whole("n_classes", 1, MOST_CLASSES)
    network["first_filters"] = config.whole(f"{prefix}_n_filter_base", 1, 10_000)
    if prefix == "unet":
        network["network_depth"] = config.whole("unet_n_depth", 1, 100)
    training = {
        "epochs": config.get("train_epochs"),
        "learning_rate": config.get("train_learning_rate"),
        "batch_size": config.get("train_batch_size"),
        "foreground_fraction": config.get("train_foreground_only"),
        **patch_lengths(config.get("train_patch_size"), method.axes),
    }
    return training_parameters(method, _CONFIG, network, training)


def _outline(method: Method) -> str:
    """Return how the original calls the numbers of an outline: n_rays, or n_params with SplineDist."""
    return "n_params" if method.name == "splinedist-2d" else "n_rays"


def _anisotropy(config: Values) -> float:
    """Return the distance of planes in pixels; the rays must be the usual ones, made for it."""
    given = [1.0, 1.0, 1.0] if config.get("anisotropy") is None else config.numbers("anisotropy", 3)
    if given[1:] != [1, 1]:
        raise InvalidInputError(f"{_CONFIG}: the anisotropy {given} is not 1 along Y and X.")
    rays = config.get("rays_json")
    made = rays.get("kwargs") if isinstance(rays, dict) and rays.get("name") == "Rays_GoldenSpiral" else None
    if (
        not isinstance(made, dict)
        or made.get("n") != config.get("n_rays")
        or made.get("anisotropy") not in (None, given)
    ):
        raise InvalidInputError(
            f"{_CONFIG}: only rays of the kind Rays_GoldenSpiral can be used, made for its anisotropy."
        )
    return float(given[0])


def main(method_name: str, source: str, folder: str) -> int:
    """Import a folder or a published model; return 0, or 1 if it cannot be used. See the module."""
    return run_import(SERVICE, (method_name, source, folder), import_model, locate)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
