"""Models that were trained elsewhere, checked in the environment of their method."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parfocal.cli._modules import package_of, run_module, run_python, service_of
from parfocal.cli._progress import waiting
from parfocal.client.packages import unpack
from parfocal.runtime.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from parfocal.client import Client

_OTHERS = "parfocal.runtime.packages.importing"


@dataclass(frozen=True)
class Imported:
    """A model that was checked, before it is published.

    Attributes
    ----------
    service
        Name of the service that checked it.
    files
        The folder with the files of the model.
    contents
        What the manifest shall say: fields of `ModelManifest`.
    """

    service: str
    files: Path
    contents: Mapping[str, Any]


def import_folder(client: Client, source: str, method: str, scratch: Path) -> Imported:
    """Check the files of a method's original library.

    Parameters
    ----------
    client
        Knows the services.
    source
        The folder, or the name of a model that the library publishes.
    method
        Name of the method.
    scratch
        An empty folder.

    Raises
    ------
    InvalidInputError, NotFoundError
        The files cannot be used; or the service is not installed here, or imports nothing.
    """
    title = client.method(method).title
    service = service_of(client, method)
    with waiting("Checking the model"):
        done = run_module(service, "importing", method, source, str(scratch))
    if done is None:
        raise NotFoundError(
            f"{title} cannot import models on this computer: either its service is not installed here (`parfocal "
            "methods` tells how to add it), or it knows no models but its own."
        )
    return _checked(service, source, scratch, done)


def import_package(client: Client, source: Path, method: str | None, scratch: Path) -> Imported:
    """Check a package of bioimage.io.

    Parameters
    ----------
    client
        Knows the services.
    source
        The zip file or the folder.
    method
        Name of the method; None: that which the package says.
    scratch
        An empty folder.

    Raises
    ------
    InvalidInputError, NotFoundError
        The package cannot be used; or the service is not installed here.
    """
    package = unpack(source, scratch / "package")
    name = method or package.method
    if not name:
        raise InvalidInputError(
            f"{source.name} does not say which method made the model. Add --method, for example --method care-2d, if "
            "it is a method of Parfocal (`parfocal methods` lists them)."
        )
    title = client.method(name).title
    service = service_of(client, name)
    target = scratch / "model"
    with waiting("Checking the model"):
        done = run_python(service, _OTHERS, package_of(service), name, str(scratch / "package"), str(target))
    if done is None:
        raise NotFoundError(
            f"{title} cannot import models on this computer: its service is not installed here (`parfocal methods` "
            "tells how to add it)."
        )
    return _checked(service, source.name, target, done)


def _checked(service: str, source: str, folder: Path, done: subprocess.CompletedProcess[str]) -> Imported:
    """Return what an importer has written to a folder; raise InvalidInputError with its reason if it refused."""
    report = folder / "report.json"
    if not report.is_file():
        raise InvalidInputError(f"The model {source} cannot be imported: {done.stderr[-500:]}")
    contents = json.loads(report.read_text(encoding="utf-8"))
    if "error" in contents:
        raise InvalidInputError(f"{source} cannot be imported. {contents['error']}")
    return Imported(service, folder / "model", contents)
