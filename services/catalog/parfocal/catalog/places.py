"""The kinds of entries, where each lies in the store, and how requests name them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from parfocal import v1
from parfocal.runtime.errors import DamagedError, InvalidInputError, NotFoundError, Violation
from parfocal.runtime.jobs.records import JobStore
from parfocal.runtime.store.manifests import (
    DATASET_MANIFEST,
    MODEL_MANIFEST,
    RESULT_MANIFEST,
    DatasetManifest,
    Manifest,
    ModelManifest,
    ResultManifest,
)
from parfocal.runtime.store.names import (
    dataset_location,
    is_job_id,
    is_name,
    model_location,
    resolve_version,
    result_location,
)
from parfocal.runtime.store.store import Location, Store

# Addresses come from anywhere: Python refuses to read numbers of thousands of digits.
_VERSION: Final = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class Kind:
    """One kind of entries: its word, its manifest, and whether it has versions."""

    number: v1.EntryKind.ValueType
    word: str
    manifest: str
    model: type[Manifest]
    versioned: bool = True

    @property
    def is_shareable(self) -> bool:
        """Whether a project can share such entries with others."""
        return self.versioned

    def root(self, store: Store) -> Location:
        """Return the root of all entries of this kind."""
        return {"dataset": store.datasets, "model": store.models, "result": store.results}[self.word]

    def is_name(self, name: str) -> bool:
        """Return whether `name` can be the name of such an entry; other folders are somebody else's."""
        return is_name(name) if self.versioned else is_job_id(name)


DATASET: Final = Kind(v1.ENTRY_KIND_DATASET, "dataset", DATASET_MANIFEST, DatasetManifest)
MODEL: Final = Kind(v1.ENTRY_KIND_MODEL, "model", MODEL_MANIFEST, ModelManifest)
RESULT: Final = Kind(v1.ENTRY_KIND_RESULT, "result", RESULT_MANIFEST, ResultManifest, versioned=False)
KINDS: Final = (DATASET, MODEL, RESULT)


def kind_of(number: v1.EntryKind.ValueType) -> Kind:
    """Return a kind by its number in the contract; raise InvalidInputError for any other number."""
    for kind in KINDS:
        if kind.number == number:
            return kind
    text = "must be that of a dataset, a model or a result"
    raise InvalidInputError(f"The kind {text}.", [Violation("kind", text)])


@dataclass(frozen=True)
class Place:
    """Where an entry lies, whether it exists or not; `version` is 0 for a result."""

    kind: Kind
    project: str
    name: str
    version: int
    location: Location

    @property
    def manifest(self) -> Location:
        """The object that makes the entry exist."""
        return self.location / self.kind.manifest

    @property
    def title(self) -> str:
        """What people call it, e.g. "beads:2"."""
        return f"{self.name}:{self.version}" if self.kind.versioned else self.name

    @property
    def relative(self) -> str:
        """Its path below the folder of the project."""
        return f"{self.name}/{self.version}" if self.kind.versioned else self.name


def place_of(store: Store, kind: Kind, project: str, name: str, version: int) -> Place:
    """Return where an entry with this name lies; raise InvalidInputError where the name cannot be one."""
    if kind is DATASET:
        location = dataset_location(store, project, name, version)
    elif kind is MODEL:
        location = model_location(store, project, name, version)
    else:
        location = result_location(store, project, name)
    if version < (1 if kind.versioned else 0) or (version and not kind.versioned):
        text = f"must be {'1 or more' if kind.versioned else '0, for results have no versions'}, not {version}"
        raise InvalidInputError(f"The version {text}.", [Violation("version", text)])
    return Place(kind, project, name, version, location)


def resolve(store: Store, kind: Kind, project: str, name: str, version: int) -> Place:
    """Return where an entry lies; version 0 of a dataset or model is the newest one that is published."""
    if version or not kind.versioned:
        return place_of(store, kind, project, name, version)
    folder = (dataset_location if kind is DATASET else model_location)(store, project, name)
    newest = resolve_version(store, folder, kind.word, kind.manifest, None)
    return place_of(store, kind, project, name, int(newest.name))


def place_at(store: Store, uri: str) -> Place | None:
    """Return the place of the entry that an address lies in; None where it lies in none."""
    try:
        location = Location.parse(uri)
    except InvalidInputError:
        return None
    parts = location.key.split("/")
    for kind in KINDS:
        if kind.root(store).bucket != location.bucket:
            continue
        wanted = 3 if kind.versioned else 2
        if len(parts) < wanted or not is_name(parts[0]) or not kind.is_name(parts[1]):
            return None
        version = parts[2] if kind.versioned else "0"
        if kind.versioned and not _VERSION.fullmatch(version):
            return None
        return place_of(store, kind, parts[0], parts[1], int(version))
    return None


def has_job(store: Store, project: str, name: str) -> bool:
    """Return whether a project has a job of this id; a damaged record counts."""
    try:
        JobStore(store).read(project, name)
    except NotFoundError:
        return False
    except DamagedError:
        return True
    return True
