"""The evidence: everything that is left in the store when a run is over, beside what the run has noted itself."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from chaos.arena import Arena
from chaos.faults import Kill
from chaos.lull import Stuck
from chaos.watching import Watched
from chaos.work import Request
from parfocal import v1
from parfocal.runtime.errors import NotFoundError, ParfocalError
from parfocal.runtime.store.manifests import MODEL_MANIFEST, RESULT_MANIFEST, FileEntry, ModelManifest, ResultManifest
from parfocal.runtime.store.store import Location, Store

# By the ends of their names what must be equal wherever equal things were asked for: weights and pixels.
RESULTS = ("filter.json", ".npz", ".tif")
HISTORY = "training.csv"


@dataclass(frozen=True)
class PublishedFile:
    """One file of a manifest: its last name and digest there, and how the object differs from it ("": not at all)."""

    name: str
    sha256: str
    problem: str = ""

    @property
    def is_result(self) -> bool:
        """Whether it holds weights or pixels."""
        return self.name.endswith(RESULTS)


@dataclass(frozen=True)
class Publication:
    """A published model or result.

    Attributes
    ----------
    place
        Address of the manifest's folder.
    files
        All files of the manifest.
    epochs, rows
        Of a model: the epochs in its manifest and in its history, without the header.
    """

    place: str
    files: tuple[PublishedFile, ...]
    epochs: int | None = None
    rows: int | None = None


@dataclass(frozen=True)
class StoredJob:
    """A job's record, its events, what it has published, and the attempt that wrote its newest checkpoint (0: none)."""

    job: v1.Job
    events: tuple[v1.JobEvent, ...]
    publications: tuple[Publication, ...] = ()
    checkpoint_attempt: int = 0


@dataclass(frozen=True)
class Evidence:
    """All that is judged.

    Attributes
    ----------
    jobs, unreadable
        What is stored, by id, and why a record cannot be read.
    requests, watched
        What clients and watchers were told, by id.
    kills
        The workers that were killed by themselves.
    workers
        By job and attempt, how many processes worked on it.
    orphans
        Workers that outlived their service or the run, as text.
    stuck
        What did not end in a lull.
    troubles
        What went wrong with services, store and takeovers.
    gathered_at
        Seconds since 1970.
    """

    jobs: Mapping[str, StoredJob] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)
    requests: Mapping[str, Request] = field(default_factory=dict)
    watched: Mapping[str, Watched] = field(default_factory=dict)
    kills: Sequence[Kill] = ()
    workers: Mapping[tuple[str, int], int] = field(default_factory=dict)
    orphans: Sequence[str] = ()
    stuck: Stuck = field(default_factory=Stuck)
    troubles: Sequence[str] = ()
    gathered_at: float = field(default_factory=time.time)


def read_jobs(arena: Arena) -> tuple[dict[str, StoredJob], dict[str, str]]:
    """Return every stored job by id, and why a record, event or manifest cannot be read."""
    names = arena.store.folders(arena.store.jobs / "default")
    jobs: dict[str, StoredJob] = {}
    unreadable: dict[str, str] = {}

    def read(name: str) -> None:
        try:
            jobs[name] = _read_job(arena, name)
        except ParfocalError as error:
            unreadable[name] = error.message

    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(read, names))
    return jobs, unreadable


def _read_job(arena: Arena, name: str) -> StoredJob:
    record = arena.jobs.read("default", name)
    events = tuple(arena.jobs.events(record, 0))
    attempts = [0]
    for item in arena.store.objects(arena.jobs.folder("default", name) / "checkpoints"):
        if item.location.name == "complete.json":
            # …/checkpoints/<attempt>-<epoch>/complete.json
            found = re.search(r"(\d+)-\d+$", item.location.parent.name)
            assert found is not None, f"the folder of a checkpoint is called {item.location.parent.name}"
            attempts.append(int(found[1]))
    return StoredJob(record.job, events, tuple(_publications(arena.store, record.job)), max(attempts))


def _publications(store: Store, job: v1.Job) -> list[Publication]:
    place = Location.parse(job.reserved_uri)
    if job.WhichOneof("spec") == "training":
        # Every request has a model of its own, so that all versions of it are this job's.
        places = [place.parent / version for version in store.folders(place.parent)]
        return [_model(store, folder) for folder in places if store.exists(folder / MODEL_MANIFEST)]
    if not store.exists(place / RESULT_MANIFEST):
        return []
    manifest = ResultManifest.read(store, place / RESULT_MANIFEST)
    return [Publication(str(place), tuple(_file(store, place, entry) for entry in manifest.files))]


def _model(store: Store, place: Location) -> Publication:
    manifest = ModelManifest.read(store, place / MODEL_MANIFEST)
    history = next((entry.name for entry in manifest.files if entry.name.endswith(HISTORY)), None)
    rows = None
    if history is not None and store.exists(place / history):
        rows = len(store.read(place / history).decode().splitlines()) - 1
    files = tuple(_file(store, place, entry) for entry in manifest.files)
    return Publication(str(place), files, manifest.epochs, rows)


def _file(store: Store, place: Location, entry: FileEntry) -> PublishedFile:
    """Compare an object with its entry; its folders are left out, because each attempt may have its own."""
    problem = ""
    try:
        data = store.read(place / entry.name)
    except NotFoundError:
        problem = "is missing"
    else:
        if len(data) != entry.size:
            problem = f"has {len(data)} bytes instead of {entry.size}"
        elif hashlib.sha256(data).hexdigest() != entry.sha256:
            problem = "has another digest than its manifest says"
    return PublishedFile(PurePosixPath(entry.name).name, entry.sha256, problem)
