"""A package of bioimage.io made a model, in the environment of its method.

`python -m parfocal.runtime.packages.importing MODULE METHOD FOLDER TARGET` takes the package that was unpacked to
FOLDER (see `Package.read`), and writes the files of a model version to TARGET/model and what its manifest shall say, or
why it cannot be used, to TARGET/report.json.

Nothing in the package is run. Packages that Parfocal has written hold the model's own files, which are arrays; of other
packages the `importing` module of the method's service knows which arrays it can open. Either way the model must then
give the package's own example.
"""

from __future__ import annotations

import importlib
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from parfocal import v1
from parfocal.runtime.errors import InvalidInputError, InvalidParameterError
from parfocal.runtime.methods.implementation import Implementation, ModelView
from parfocal.runtime.methods.importing import manifest_fields, run_import
from parfocal.runtime.methods.package_record import RECORD, Record
from parfocal.runtime.methods.service import Method, load_service
from parfocal.runtime.packages.description import Description
from parfocal.runtime.packages.example import try_example
from parfocal.runtime.packages.package import Package
from parfocal.runtime.prediction.loaded_model import load_model
from parfocal.runtime.store.facts import Port
from parfocal.runtime.store.manifests import ModelManifest

_MOST_BYTES: Final = 2**22
_MOST_CHANNELS: Final = 256
_MOST_CLASSES: Final = 1024
# Forms of networks that are not opened, and why.
_REFUSED: Final = {
    "torchscript": "TorchScript is a program, and to open it is to run it",
    "onnx": "ONNX needs a program that runs it, which no method of Parfocal has",
    "pytorch_state_dict": "such weights fit a network that is written in Python, in the package, and that is not run",
    "tensorflow_js": "TensorFlow.js needs a program that runs it, which no method of Parfocal has",
    "keras_v3": "a .keras file describes layers of any kind, and Parfocal builds networks of its methods alone",
    "tensorflow_saved_model_bundle": "a SavedModel is a program, and to open it is to run it",
    "keras_hdf5": "its file describes layers of any kind, and Parfocal builds networks of its methods alone",
}


def import_package(module: str, method: Method, package: Package, folder: Path) -> dict[str, Any]:
    """Write the files of the model version that a package makes and return what its manifest says.

    Parameters
    ----------
    module
        Name of the method's service as a Python package, e.g. "parfocal.care".
    method
        The method.
    package
        The package.
    folder
        Where the files go.

    Returns
    -------
    dict
        Fields of `ModelManifest`, see `manifest_fields`.

    Raises
    ------
    InvalidInputError
        The package cannot be opened safely, or the model would do something else than the package says.
    """
    own = package.attachment(RECORD)
    fields = _own(method, package, own, folder) if own is not None else _foreign(module, method, package, folder)
    places = {"project": "", "model": "", "version": 1, "service": "", "job": "", "dataset_uri": ""}
    manifest = ModelManifest.model_validate({**fields, **places})
    model = load_model(method, manifest, folder, weights=next(iter(manifest.weights)))
    try:
        likeness = try_example(package, model, own=own is not None)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if own is None:
            raise
        raise _damaged(error) from error
    return {**fields, "package": {**package.description.said, "example_difference": likeness.largest}}


def _own(method: Method, package: Package, path: Path, folder: Path) -> dict[str, Any]:
    """Return what the manifest of a model says that Parfocal has packed, and write its files anew."""
    if path.stat().st_size > _MOST_BYTES:
        raise InvalidInputError(f"{RECORD} is larger than {_MOST_BYTES // 2**20} MiB: Parfocal has not written it.")
    try:
        record = Record.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its content"
        raise InvalidInputError(f"{RECORD} is damaged: {where}: {first['msg']}.") from error
    if record.method != method.name:
        raise InvalidInputError(f"The package is a model of {record.method}: leave --method out, or name that.")
    record.facts.require_known()
    for port in (*record.facts.inputs, *record.facts.targets):
        _check_port(port)
    try:
        parameters = method.parse(v1.JOB_KIND_TRAINING, record.parameters)
    except InvalidParameterError as error:
        raise InvalidInputError(
            f"{RECORD} describes a network that Parfocal does not build. {error.message}"
        ) from error
    implementation: Implementation[Any, Any] = method.load()
    view = ModelView(parameters, record.facts, record.normaliser, method.axes)
    ((weights, epoch),) = record.weights.items()
    if weights not in {*implementation.kept, "last"}:
        raise InvalidInputError(f"{RECORD} names weights {weights!r}, which models of {method.title} do not have.")
    with tempfile.TemporaryDirectory() as scratch:
        for name in record.files:
            attached = package.attachment(name)
            if attached is None:
                raise InvalidInputError(f"The package lacks {name}, a file of the model.")
            shutil.copyfile(attached, Path(scratch) / attached.name)
        arrays = _arrays(implementation, Path(scratch), view, weights)
    implementation.save(folder, parameters, record.facts, {weights: arrays})
    fields = manifest_fields(
        method, implementation, parameters, record.facts, [weights], record.warnings, record.normaliser
    )
    statistics = record.training_statistics
    return {
        **fields,
        "weights": {weights: {"epoch": max(0, epoch)}},
        "training_statistics": {} if statistics is None else statistics.model_dump(mode="json"),
        "pixel_size_um": None if record.pixel_size_um is None else list(record.pixel_size_um),
    }


def _arrays(implementation: Implementation[Any, Any], folder: Path, view: ModelView, weights: str) -> Mapping[str, Any]:
    """Return the weights in a folder of a model's own files, of which arrays alone are read."""
    hdf5 = folder / f"weights_{weights}.h5"
    try:
        if hdf5.exists():
            # Its parts may be anything, other files too. Only methods with Keras have such files.
            from parfocal.runtime.frameworks.keras_hdf5 import read_weights

            return read_weights(hdf5, implementation.build(view.parameters, view.facts), RECORD)
        arrays: Mapping[str, Any] = implementation.load(folder, view, weights).weights()
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise _damaged(error) from error
    return arrays


def _damaged(error: Exception) -> InvalidInputError:
    """Return the error that facts of the record are not those of its method."""
    return InvalidInputError(f"{RECORD} is damaged: what it says of the model does not fit its method ({error!r}).")


def _check_port(port: Port) -> None:
    """Check that a network with this input or output is not absurdly large."""
    if not 1 <= port.channels <= _MOST_CHANNELS or not 0 <= port.classes <= _MOST_CLASSES:
        raise InvalidInputError(
            f"{RECORD} is damaged: {port.role} has {port.channels} channels and {port.classes} classes."
        )


def _foreign(module: str, method: Method, package: Package, folder: Path) -> dict[str, Any]:
    """Return what the manifest of a model says that another program has packed, and write its files."""
    try:
        importer = importlib.import_module(f"{module}.importing")
    except ModuleNotFoundError as error:
        if error.name != f"{module}.importing":
            raise
        importer = None
    take = getattr(importer, "import_package", None)
    if take is None:
        raise refusal(method, package.description)
    fields: dict[str, Any] = take(method, package, folder)
    return fields


def refusal(method: Method, description: Description) -> InvalidInputError:
    """Return the error that none of the forms in which a package has its network can be opened for a method."""
    reasons = "; ".join(
        f"{form}: {_REFUSED.get(form, 'nobody here knows this form')}" for form in sorted(description.weights)
    )
    return InvalidInputError(
        f"The package holds its network in no form that can be opened safely for {method.title} ({reasons}). Ask its "
        "authors for the files of the program that trained it, and import those, or train a model of your own."
    )


def main(module: str, method_name: str, source: str, target: str) -> int:
    """Import an unpacked package; return 0, or 1 if it cannot be used. See the module."""
    return run_import(
        load_service(module),
        (method_name, source, target),
        lambda method, place, folder: import_package(module, method, Package.read(place), folder),
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
