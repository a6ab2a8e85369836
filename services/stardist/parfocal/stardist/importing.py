"""Models made by stardist itself, checked and brought into Parfocal's form.

`python -m parfocal.stardist.importing METHOD SOURCE FOLDER` reads a stardist model folder (config.json, weights_best.h5
or weights_last.h5, thresholds.json), or downloads one that stardist publishes under that name, and writes the files of
a model version to FOLDER/model and what its manifest shall say, or why it cannot be used, to FOLDER/report.json.

The files come from anywhere. Nothing in them is run: the network is built from checked numbers by Parfocal's own code
(stardist would evaluate the name of the rays as Python), and only plain arrays of the expected size are read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
from csbdeep.models.pretrained import get_model_folder, get_registered_models

from parfocal import v1
from parfocal.runtime.datasets.classes import CLASS_ROLE, MOST_CLASSES
from parfocal.runtime.errors import InvalidInputError, InvalidParameterError, NotFoundError, ParfocalError
from parfocal.runtime.frameworks.keras import weights_file
from parfocal.runtime.methods.implementation import Arrays
from parfocal.runtime.methods.roles import Roles
from parfocal.runtime.methods.service import Method
from parfocal.runtime.store.facts import Facts, Port
from parfocal.runtime.store.publish import empty_folder
from parfocal.stardist import SERVICE
from parfocal.stardist.network import DEFAULT_THRESHOLDS, THRESHOLDS, StarDist, StarDistLearner, with_thresholds
from stardist import models

_CONFIG = "config.json"
_MOST_JSON_BYTES = 2**20
_MOST_CHANNELS = 64
# File format, alignment and names beside the numbers themselves.
_HDF5_EXTRA_BYTES = 2**24
# What decides which network is built and how its output is read; older files lack some, which then have these values.
_NETWORK_PREFIXES = ("unet_", "resnet_", "net_conv_")
_LEGACY = {"n_classes": None, "backbone": "unet", "unet_prefix": "", "unet_last_activation": "relu"}


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
    config = _read_json(source / _CONFIG)
    implementation: StarDist = method.load()
    parameters = _parameters(method, config)
    targets = [Port(role=Roles().targets[0], kind="labels")]
    if parameters.classes:
        targets.append(Port(role=CLASS_ROLE, kind="classes", classes=parameters.classes))
    images = Port(role=Roles().source, channels=_whole(config, "n_channel_in", 1, _MOST_CHANNELS))
    facts = Facts(inputs=(images,), targets=tuple(targets))
    learner = implementation.build(parameters, facts)
    _check_network(config, vars(learner.stardist.config))
    weights, warnings = {}, []
    for name in ("best", "last"):
        if (source / weights_file(name)).exists():
            weights[name] = _read_weights(source / weights_file(name), learner)
    if not weights:
        raise InvalidInputError(
            f"{source.name} has neither {weights_file('best')} nor {weights_file('last')}. Copy the weights beside "
            f"{_CONFIG}."
        )
    only = next(iter(weights))
    if len(weights) == 1:
        warnings.append(f"The model had only {weights_file(only)}, which stands for best and last weights alike.")
    thresholds = dict(DEFAULT_THRESHOLDS)
    if (source / THRESHOLDS).exists():
        given = _read_json(source / THRESHOLDS)
        thresholds = {name: _threshold(given, name) for name in DEFAULT_THRESHOLDS}
    else:
        warnings.append(
            f"The model had no {THRESHOLDS}: stardist's usual ones are used (probability {thresholds['prob']:g}, "
            f"overlap {thresholds['nms']:g}), which may suit it badly."
        )
    facts = with_thresholds(facts, thresholds)
    kept = {name: weights.get(name, weights[only]) for name in ("best", "last")}
    implementation.save(folder, parameters, facts, kept)
    return {
        "method": method.name,
        "citation": method.citation,
        "axes": method.axes,
        "parameters": parameters.model_dump(mode="json"),
        "facts": facts.model_dump(mode="json"),
        "weights": {name: {"epoch": 0} for name in kept},
        "normaliser": implementation.normaliser.model_dump(mode="json"),
        "warnings": warnings,
    }


def published_folder(method: Method, name: str) -> Path:
    """Return the folder of a model that stardist publishes, downloaded unless it was before, its SHA-256 checked.

    Raises
    ------
    NotFoundError
        There is no such model, or it cannot be downloaded.
    """
    kind = models.StarDist2D if method.axes == "YX" else models.StarDist3D
    known = get_registered_models(kind, return_aliases=False)
    if name not in known:
        raise NotFoundError(
            f"There is no folder {name}, and stardist publishes no model of this name for {method.title}. It "
            f"publishes {', '.join(known)}."
        )
    try:
        return Path(get_model_folder(kind, name))
    except Exception as error:  # Keras turns whatever goes wrong into a bare Exception
        raise NotFoundError(
            f"The model {name} could not be downloaded: {error}. Download and unpack it on a computer with access to "
            "the internet, and import its folder."
        ) from error


def _parameters(method: Method, config: Mapping[str, Any]) -> Any:
    """Return the training parameters that describe the network; of the training itself what Parfocal has too."""
    grid = _numbers(config, "grid", len(method.axes))
    if len(set(grid[-2:])) > 1 or (len(grid) == 3 and grid[0] != 1):
        raise InvalidInputError(f"{_CONFIG}: the grid {grid} is not the same along Y and X, and 1 along Z.")
    network: dict[str, Any] = {"rays": _whole(config, "n_rays", 1, 10_000), "grid": grid[-1]}
    if method.axes == "ZYX":
        network |= {"backbone": config.get("backbone", "unet"), "anisotropy": _anisotropy(config)}
    prefix = network.get("backbone", "unet")
    if config.get("n_classes") is not None:
        network["classes"] = _whole(config, "n_classes", 1, MOST_CLASSES)
    network["first_filters"] = _whole(config, f"{prefix}_n_filter_base", 1, 10_000)
    if prefix == "unet":
        network["network_depth"] = _whole(config, "unet_n_depth", 1, 100)
    patch = config.get("train_patch_size")
    training = {
        "epochs": config.get("train_epochs"),
        "learning_rate": config.get("train_learning_rate"),
        "batch_size": config.get("train_batch_size"),
        "foreground_fraction": config.get("train_foreground_only"),
        "patch_size": patch[-1] if isinstance(patch, list) and patch else None,
        "patch_depth": patch[0] if isinstance(patch, list) and patch else None,
    }
    try:
        return method.parse(v1.JOB_KIND_TRAINING, {**network, **_accepted(method, training)})
    except InvalidParameterError as error:
        raise InvalidInputError(
            f"{_CONFIG} describes a network that Parfocal does not build. {error.message}"
        ) from error


def _accepted(method: Method, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those values that the method accepts by themselves: of the original's training the rest is not known."""
    accepted = {}
    for name, value in values.items():
        try:
            method.parse(v1.JOB_KIND_TRAINING, {name: value})
        except InvalidParameterError:
            continue
        accepted[name] = value
    return accepted


def _anisotropy(config: Mapping[str, Any]) -> float:
    """Return the distance of planes in pixels; the rays must be the usual ones, made for it."""
    given = [1.0, 1.0, 1.0] if config.get("anisotropy") is None else _numbers(config, "anisotropy", 3)
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


def _check_network(config: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raise InvalidInputError where a value that decides on the network is not the one Parfocal builds with."""
    names = [name for name in ours if name.startswith(_NETWORK_PREFIXES)]
    for name in ["axes", "n_channel_in", "n_rays", "grid", "n_classes", "backbone", *names]:
        built = json.loads(json.dumps(ours[name]))
        given = config.get(name, _LEGACY.get(name))
        if given != built:
            raise InvalidInputError(f"{_CONFIG}: {name} is {given!r}; Parfocal builds networks with {built!r}.")


def _read_weights(path: Path, learner: StarDistLearner) -> Arrays:
    wanted = sum(array.size for array in learner.weights().values())
    if path.stat().st_size > 8 * wanted + _HDF5_EXTRA_BYTES:
        raise InvalidInputError(f"{path.name} is much larger than the {wanted} numbers of the network in {_CONFIG}.")
    try:
        with h5py.File(path, "r") as file:
            found = sum(int(dataset.size) for dataset in _datasets(file, path.name))
        if found != wanted:
            classes = learner.stardist.config.n_classes
            described = f"{_CONFIG} describes" + (f", with {classes} classes," if classes else "")
            raise InvalidInputError(
                f"{path.name} has {found} numbers, and the network that {described} has {wanted}: they do not belong "
                "together."
            )
        learner.model.load_weights(str(path))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InvalidInputError(f"{path.name} is damaged or belongs to another network than {_CONFIG}.") from error
    return learner.weights()


def _datasets(group: Any, name: str) -> Iterator[Any]:
    """Yield the arrays of an HDF5 file; anything but plain floating-point numbers inside it is refused."""
    for key in group:
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise InvalidInputError(f"{name} refers to other places ({key}): it cannot be used.")
        item = group[key]
        if isinstance(item, h5py.Group):
            yield from _datasets(item, name)
        elif not isinstance(item, h5py.Dataset) or item.dtype.kind != "f" or item.is_virtual or item.external:
            raise InvalidInputError(f"{name} holds something else than plain numbers ({key}): it cannot be used.")
        else:
            yield item


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InvalidInputError(
            f"{path.parent.name} is no stardist model: it has no {path.name}. Name the folder in which {_CONFIG} and "
            "the weights lie side by side."
        )
    if path.stat().st_size > _MOST_JSON_BYTES:
        raise InvalidInputError(
            f"{path.name} is larger than {_MOST_JSON_BYTES // 2**20} MiB: it is no file of stardist."
        )
    try:
        # Editors of Windows put a mark before the text.
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path.name} is damaged: {error}.") from error
    if not isinstance(values, dict):
        raise InvalidInputError(f"{path.name} is no file of stardist: it names no values.")
    return values


def _whole(config: Mapping[str, Any], name: str, least: int, most: int) -> int:
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidInputError(f"{_CONFIG}: {name} is {value!r} and must be a whole number from {least} to {most}.")
    return value


def _numbers(config: Mapping[str, Any], name: str, count: int) -> list[Any]:
    values = config.get(name)
    if not isinstance(values, list) or len(values) != count or not all(type(value) in (int, float) for value in values):
        raise InvalidInputError(f"{_CONFIG}: {name} is {values!r} and must be {count} numbers.")
    return values


def _threshold(values: Mapping[str, Any], name: str) -> float:
    value = values.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1:
        raise InvalidInputError(f"{THRESHOLDS}: {name} is {value!r} and must be a number between 0 and 1.")
    return float(value)


def main(method_name: str, source: str, folder: str) -> int:
    """Import a folder or a published model; return 0, or 1 if it cannot be used. See the module."""
    target = empty_folder(Path(folder))
    try:
        method = SERVICE.method(method_name)
        if Path(source).is_file():
            raise InvalidInputError("It is a file. Unpack it, and name the folder that comes out.")
        place = Path(source).resolve() if Path(source).is_dir() else published_folder(method, source)
        (target / "model").mkdir()
        report = import_model(method, place, target / "model")
    except ParfocalError as error:
        report = {"error": error.message}
    (target / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return int("error" in report)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
