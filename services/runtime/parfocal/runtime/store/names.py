"""Names of projects, datasets, models and jobs, and where each lives in the store."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime
from itertools import islice
from typing import Final

from parfocal.runtime.errors import InvalidInputError, NotFoundError, Violation
from parfocal.runtime.numbers import whole_number
from parfocal.runtime.store.store import Location, Store

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
#: Folder of what was derived from an image, with a mark for each project that has the image.
DERIVED_FOR: Final = ".projects"
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def is_name(name: str) -> bool:
    """Return whether `name` can name a project, dataset or model; other folders in the store are somebody else's."""
    return bool(_NAME.fullmatch(name))


def check_name(kind: str, name: str) -> str:
    """Return `name` if it can name a `kind` ("project", "dataset", "model"), else raise InvalidInputError."""
    if not is_name(name):
        text = (
            f"{name!r} cannot name a {kind}: use 1 to 63 letters, digits, '.', '_' or '-', "
            "beginning with a letter or digit."
        )
        raise InvalidInputError(text, [Violation(kind, text)])
    return name


def is_job_id(name: str) -> bool:
    """Return whether `name` can be that of a job; other folders among the jobs are somebody else's."""
    return bool(_REQUEST_ID.fullmatch(name))


def check_request_id(request_id: str) -> str:
    """Return `request_id` if it is well formed, else raise InvalidInputError."""
    return _check_id("request id", request_id)


def _check_id(kind: str, text: str) -> str:
    if not is_job_id(text):
        problem = f"{text!r} cannot be a {kind}: use 1 to 64 letters, digits, '_' or '-'."
        raise InvalidInputError(problem, [Violation(kind.replace(" ", "_"), problem)])
    return text


def new_request_id(what: str) -> str:
    """Return a fresh request id that sorts by time and says what it is for, e.g. 20261122-221500-train-4f3a."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", what).strip("-")[:36]
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{words}-{secrets.token_hex(3)}"


def versioned_name(uri: str, reader: str = "") -> str:
    """Return "name:version" of the address of a model or dataset.

    With `reader`, a project, those of other projects are PROJECT/name:version, as their people call them.
    """
    parts = uri.rstrip("/").rsplit("/", 3)
    name = ":".join(parts[-2:])
    return f"{parts[-3]}/{name}" if reader and len(parts) > 2 and parts[-3] != reader else name


def dataset_location(store: Store, project: str, dataset: str, version: int | None = None) -> Location:
    """Return the folder of a dataset, or of one of its versions."""
    folder = store.datasets / check_name("project", project) / check_name("dataset", dataset)
    return folder if version is None else folder / str(version)


def model_location(store: Store, project: str, model: str, version: int | None = None) -> Location:
    """Return the folder of a model, or of one of its versions."""
    folder = store.models / check_name("project", project) / check_name("model", model)
    return folder if version is None else folder / str(version)


def result_location(store: Store, project: str, job_id: str) -> Location:
    """Return the folder of the results of a job."""
    return store.results / check_name("project", project) / _check_id("job id", job_id)


def derived_mark(store: Store, digest: str, project: str) -> Location:
    """Return the object that says that a project has the image from which something was derived."""
    return store.derived / digest / DERIVED_FOR / check_name("project", project)


def job_location(store: Store, project: str, job_id: str) -> Location:
    """Return the folder of the record of a job."""
    return store.jobs / check_name("project", project) / _check_id("job id", job_id)


def parse_version(kind: str, text: str) -> tuple[str, int | None]:
    """Split "NAME" or "NAME:VERSION" into its parts; the version is None where it is not given."""
    name, colon, version = text.partition(":")
    check_name(kind, name)
    if not colon:
        return name, None
    number = whole_number(version, 9)
    if not number:
        raise InvalidInputError(f"{text!r} names no {kind} version: write {name}:NUMBER, for example {name}:1.")
    return name, number


def published_versions(store: Store, folder: Location, manifest: str) -> list[int]:
    """Return the versions below `folder` whose manifest exists, in rising order."""
    numbers = sorted(int(name) for name in store.folders(folder) if name.isdigit())
    return [number for number in numbers if store.exists(folder / str(number) / manifest)]


def resolve_version(store: Store, folder: Location, kind: str, manifest: str, version: int | None) -> Location:
    """Return the folder of the wanted or newest published version; raise NotFoundError naming what there is."""
    versions = published_versions(store, folder, manifest)
    if version is None and versions:
        return folder / str(versions[-1])
    if version in versions:
        return folder / str(version)
    if versions:
        raise NotFoundError(
            f"The {kind} {folder.name!r} has no version {version}; it has {', '.join(map(str, versions))}."
        )
    # A name without a version is that of a failed training, or of one that goes on.
    known = (name for name in store.folders(folder.parent) if published_versions(store, folder.parent / name, manifest))
    others = ", ".join(islice(known, 10)) or "none yet"
    raise NotFoundError(
        f"There is no {kind} named {folder.name!r} in project {folder.parent.name!r} (there: {others})."
    )
