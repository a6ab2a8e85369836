"""What is published: found in the store, and said in the words of the contract."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Final, TypeVar

from parfocal import v1
from parfocal.catalog.places import KINDS, Kind, Place, place_of
from parfocal.runtime.errors import DamagedError, NotFoundError
from parfocal.runtime.store.confinement import confine
from parfocal.runtime.store.manifests import DatasetManifest, Manifest, ModelManifest, ResultManifest
from parfocal.runtime.store.names import is_name
from parfocal.runtime.store.store import Location, Store
from parfocal.runtime.store.verdicts import Verdict, newest_verdict, verdict_of

_T = TypeVar("_T")
_R = TypeVar("_R")
_THREADS: Final = 8
_INPUTS: Final = "inputs/"
_REMEMBERED_BYTES: Final = 64 * 2**20


@dataclass(frozen=True)
class Published:
    """A published entry with its manifest, and the ETag of the object that this was read from."""

    place: Place
    manifest: Manifest
    etag: str
    size: int


class Entries:
    """Reads entries. Manifests never change, so those read last are remembered by their ETag, up to 64 MiB of them.

    Safe to use from several threads.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._known: OrderedDict[Place, Published] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def projects(self) -> list[str]:
        """Return the names of all projects that have datasets, models, results or jobs."""
        roots = [*(kind.root(self.store) for kind in KINDS), self.store.jobs]
        names = {name for found in each(self.store.folders, roots) for name in found}
        return sorted(filter(is_name, names))

    def names(self, kind: Kind, project: str) -> list[str]:
        """Return the names below a project in order; some may have nothing published."""
        return sorted(filter(kind.is_name, self.store.folders(kind.root(self.store) / project)))

    def places(self, kind: Kind, project: str, name: str) -> list[Place]:
        """Return the versions of a dataset or model, newest first, published or not; of a result the one place."""
        if not kind.versioned:
            return [place_of(self.store, kind, project, name, 0)]
        folders = self.store.folders(kind.root(self.store) / project / name)
        numbers = sorted((int(folder) for folder in folders if folder.isdecimal() and folder[0] != "0"), reverse=True)
        return [place_of(self.store, kind, project, name, number) for number in numbers]

    def find(self, place: Place) -> Published | None:
        """Return what is published at a place, or None; raise DamagedError where its manifest cannot be read."""
        try:
            item = self.store.stat(place.manifest)
        except NotFoundError:
            return None
        with self._lock:
            known = self._known.get(place)
            if known is not None and known.etag == item.etag:
                self._known.move_to_end(place)
                return known
        try:
            found = Published(place, place.kind.model.read(self.store, place.manifest), item.etag, item.size)
        except NotFoundError:
            return None  # deleted meanwhile
        self._remember(found)
        return found

    def read(self, place: Place) -> Published:
        """Return what is published at a place; raise NotFoundError where there is nothing."""
        found = self.find(place)
        if found is None:
            raise NotFoundError(f"There is no {place.kind.word} {place.title!r} in project {place.project!r}.")
        return found

    def looked_at(self, kind: Kind, project: str) -> Iterator[tuple[Place, Published | DamagedError]]:
        """Yield all entries of a kind in a project with their places, and the errors of those that cannot be read."""
        for places in self.in_order(kind, project):
            for place, found in zip(places, each(self._attempt, places), strict=True):
                if found is not None:
                    yield place, found

    def in_order(self, kind: Kind, project: str, name: str = "") -> Iterator[list[Place]]:
        """Yield places in the order of lists, a few at a time: by name, newest version first; results newest first.

        Ids of jobs that Parfocal made begin with the time.
        """
        names = [name] if name else self.names(kind, project)
        if not kind.versioned:
            names.reverse()
            yield from ([place for one in part for place in self.places(kind, project, one)] for part in _parts(names))
            return
        for part in _parts(names):
            yield [place for found in each(lambda one: self.places(kind, project, one), part) for place in found]

    def attempts(self, places: Iterable[Place]) -> list[Published | DamagedError]:
        """Return what is published at these places, in order, and the errors of those that cannot be read."""
        return [found for found in each(self._attempt, places) if found is not None]

    def damaged_files(self, found: Published) -> list[str]:
        """Return the names of the files that the store does not have, or not as long as the manifest says."""
        place = found.place.location
        sizes = {item.location: item.size for item in self.store.objects(place)}
        return [file.public_name for file in found.manifest.files if sizes.get(place / file.name) != file.size]

    def _attempt(self, place: Place) -> Published | DamagedError | None:
        try:
            return self.find(place)
        except DamagedError as error:
            return error

    def _remember(self, found: Published) -> None:
        with self._lock:
            old = self._known.pop(found.place, None)
            self._bytes += found.size - (old.size if old else 0)
            self._known[found.place] = found
            while self._bytes > _REMEMBERED_BYTES and len(self._known) > 1:
                self._bytes -= self._known.popitem(last=False)[1].size


def to_entry(store: Store, found: Published, *, brief: bool = False) -> v1.Entry:
    """Return an entry in the words of the contract; a `brief` one leaves out the verdict on a model."""
    place, manifest = found.place, found.manifest
    entry = v1.Entry(
        kind=place.kind.number,
        project=place.project,
        name=place.name,
        version=place.version,
        uri=str(place.location),
        created_by=manifest.created_by,
        files=len(manifest.files),
        bytes=sum(file.size for file in manifest.files),
        warnings=manifest.warnings,
    )
    entry.created_at.FromDatetime(manifest.created_at)
    if isinstance(manifest, DatasetManifest):
        entry.description = manifest.description
        entry.dataset.CopyFrom(_dataset(manifest))
    elif isinstance(manifest, ModelManifest):
        entry.model.CopyFrom(_model(manifest))
        if not brief:
            entry.model.verdict.CopyFrom(_verdict(newest_verdict(store, place.location)))
    elif isinstance(manifest, ResultManifest):
        entry.result.CopyFrom(_result(manifest))
    return entry


def matches(found: Published, query: str) -> bool:
    """Return whether all words of a query occur in name, description, method or creator."""
    manifest = found.manifest
    parts = [found.place.title, manifest.created_by]
    parts += [str(getattr(manifest, field, "")) for field in ("description", "method", "kind")]
    text = " ".join(parts).casefold()
    return all(word in text for word in query.casefold().split())


def file_location(store: Store, found: Published, name: str) -> Location:
    """Return where a file of an entry lies by its public name; of an empty name its manifest.

    Of a result these are also the images that it was made from, as "inputs/NAME", where they are no dataset's: what its
    project could predict it can also look at.

    Raises
    ------
    NotFoundError
        It has no such file.
    """
    place, manifest = found.place, found.manifest
    if not name:
        return place.manifest
    wanted = name.removeprefix(_INPUTS)
    if (
        isinstance(manifest, ResultManifest)
        and wanted != name
        and manifest.input_uri
        and not manifest.split
        and any(image.input == wanted for image in manifest.images)
    ):
        return confine(store, place.project, manifest.input_uri, "name") / wanted
    return manifest.place_of(place.location, name)


def each(action: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """Return `action` of each item, in order, a few at a time."""
    items = list(items)
    if len(items) < 2:
        return [action(item) for item in items]
    with ThreadPoolExecutor(min(_THREADS, len(items))) as pool:
        return list(pool.map(action, items))


def _parts(names: list[str]) -> Iterator[list[str]]:
    for begin in range(0, len(names), _THREADS):
        yield names[begin : begin + _THREADS]


def _dataset(manifest: DatasetManifest) -> v1.DatasetDetails:
    sources = Counter(image.split for image in manifest.images if image.role == "source")
    return v1.DatasetDetails(
        kind=manifest.kind,
        images=dict(sources),
        axes=sorted({image.axes for image in manifest.images if image.role.startswith("source")}),
        dtypes=sorted({image.dtype for image in manifest.images}),
        classes=manifest.classes,
        licence=manifest.licence,
    )


def _model(manifest: ModelManifest) -> v1.ModelDetails:
    return v1.ModelDetails(
        method=manifest.method,
        service=manifest.service,
        job=manifest.job,
        dataset_uri=manifest.dataset_uri,
        parent_uri=manifest.parent,
        origin=manifest.origin,
        axes=manifest.axes,
        epochs=manifest.epochs,
        weights=list(manifest.weights),
    )


def _result(manifest: ResultManifest) -> v1.ResultDetails:
    return v1.ResultDetails(
        kind=manifest.kind,
        method=manifest.method,
        service=manifest.service,
        model_uri=manifest.model_uri,
        input_uri=manifest.input_uri,
        split=manifest.split,
        images=len(manifest.images),
        failed_images=sum(bool(image.reason) for image in manifest.images),
        verdict=_verdict(verdict_of(manifest.verdict, manifest.job)) if manifest.verdict else None,
    )


def _verdict(verdict: Verdict) -> v1.EntryVerdict:
    return v1.EntryVerdict(
        state=verdict.state,
        reasons=verdict.reasons,
        next_steps=verdict.next_steps,
        job=verdict.job,
        uri=verdict.uri,
    )
