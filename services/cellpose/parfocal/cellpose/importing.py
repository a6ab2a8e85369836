"""Models made by Cellpose itself, checked and brought into Parfocal's form.

`python -m parfocal.cellpose.importing METHOD SOURCE FOLDER` reads a file that Cellpose 1, 2 or 3 wrote (its name, that
of a folder with a single one, or that of one which the operator provides) and writes the files of a model version to
FOLDER/model and what its manifest shall say, or why it cannot be used, to FOLDER/report.json.

The files come from anywhere. Nothing in them is run: they are opened with `weights_only`, the network is built by
Parfocal's own code, and only arrays of the expected names and shapes are taken.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

from parfocal.cellpose import SERVICE
from parfocal.cellpose.network import Cellpose
from parfocal.cellpose.operator_weights import find_weights, is_weights, licence_of
from parfocal.cellpose.parameters import USUAL_THRESHOLDS
from parfocal.cellpose.state_dict import DIAMETERS, fit_state, read_state
from parfocal.runtime.datasets.findings import some
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.methods.importing import manifest_fields, run_import, training_parameters
from parfocal.runtime.methods.roles import Roles
from parfocal.runtime.methods.service import Method
from parfocal.runtime.store.facts import Facts, Port

_FIRST: Final = "downsample.down.res_down_0.conv.conv_0.2.weight"
_MOST_CHANNELS: Final = 64
_TWO: Final = 2
# Before version 2 files do not say for which diameter a network was trained; the published ones were for these.
_OLDER_DIAMETERS: Final = {"nuclei": 17.0, "": 30.0}
_LEAST_DIAMETER: Final = 0.5


def import_model(method: Method, source: Path, folder: Path) -> dict[str, Any]:
    """Write the files of the model version that a file of Cellpose makes and return what its manifest says.

    Returns
    -------
    dict
        Fields of `ModelManifest`: parameters, facts, weights, axes, normaliser, warnings.

    Raises
    ------
    InvalidInputError
        The file is missing, too large, damaged, or holds a network that the method does not build.
    """
    state = read_state(source)
    first = state.get(_FIRST)
    if first is None or first.ndim != 4 or not 1 <= first.shape[1] <= _MOST_CHANNELS:
        raise InvalidInputError(f"{source.name} is not a network of Cellpose 1 to 3: it lacks the array {_FIRST}.")
    filters, channels = first.shape[:2]
    warnings = []
    if DIAMETERS[0] in state:
        mean, objects = (_diameter(source, state, name) for name in DIAMETERS)
    else:
        mean = objects = _OLDER_DIAMETERS["nuclei" if "nuclei" in source.name else ""]
        warnings.append(
            f"{source.name} does not state the diameter of its training objects; {mean:g} pixels are assumed. Set the "
            "diameter of your objects in predictions."
        )
    parameters, left_out = training_parameters(
        method, source.name, {"first_filters": int(filters), "mean_diameter": round(mean, 3)}, {}
    )
    # Two channels are what the original has for single ones as well: the second is empty then.
    images = Port(role=Roles().source, channels=int(channels) if channels > _TWO else 1)
    licence = licence_of(source)
    facts = Facts(
        inputs=(images,),
        targets=(Port(role=Roles().targets[0], kind="labels"),),
        measured={"diameter": round(objects, 3), "initial_weights": source.name, "initial_weights_licence": licence}
        | USUAL_THRESHOLDS,
    )
    implementation: Cellpose = method.load()
    learner = implementation.build(parameters, facts)
    implementation.save(folder, parameters, facts, {"best": fit_state(source.name, state, learner)})
    warnings += [licence, *left_out]
    if channels == _TWO:
        warnings.append(
            "The version takes grey images. For images of two channels, cells and nuclei, start a training on some of "
            "them from it: its network has room for both."
        )
    return manifest_fields(method, implementation, parameters, facts, ["best"], warnings)


def locate(method: Method, name: str) -> Path:  # noqa: ARG001
    """Return a file, the single one in a folder, or the one of this name that the operator provides.

    Raises
    ------
    InvalidInputError, NotFoundError
        The folder has none or several; or there is nothing of this name.
    """
    place = Path(name)
    if place.is_file():
        return place.resolve()
    if not place.is_dir():
        return find_weights(name)
    files = [each for each in sorted(place.iterdir()) if is_weights(each)]
    if len(files) != 1:
        found = f"there are {some([each.name for each in files])}" if files else "there is none"
        raise InvalidInputError(f"{place.name} must hold one file of weights, and {found}. Name the file itself.")
    return files[0].resolve()


def _diameter(source: Path, state: dict[str, Any], name: str) -> float:
    """Return a diameter of a file in pixels; raise InvalidInputError if it is none."""
    values = np.ravel(state.get(name, ()))
    if len(values) != 1 or not np.isfinite(values[0]) or values[0] < _LEAST_DIAMETER:
        raise InvalidInputError(f"{source.name}: {name} must be a diameter of objects in pixels, above 0.")
    return float(values[0])


def main(method_name: str, source: str, folder: str) -> int:
    """Import a file; return 0, or 1 if it cannot be used. See the module."""
    return run_import(SERVICE, (method_name, source, folder), import_model, locate)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
