"""What a snapshot of the store holds, and whether it is still whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from parfocal.runtime.errors import DamagedError, NotFoundError
from parfocal.runtime.store.manifests import DATASET_MANIFEST, MODEL_MANIFEST, RESULT_MANIFEST
from parfocal.runtime.store.publish import sha256_of
from parfocal.runtime.store.store import Location, Store
from parfocal.runtime.store.verdicts import VERDICT_FILE

T = TypeVar("T")
INDEX: Final = "snapshot.json"
JOB: Final = "job.json"
# Which process runs the jobs, and trials of the store: true only of the store that they were written in.
NOT_KEPT: Final = (".leases", ".promises")
PATIENCE_SECONDS: Final = 120.0
_THREADS: Final = 8
_MANIFESTS: Final = (DATASET_MANIFEST, MODEL_MANIFEST, RESULT_MANIFEST)

OnFile = Callable[[int, int], None]
"""Called with the number of objects that are done, and that of all."""


class Kept(BaseModel):
    """One object of a snapshot: size in bytes, ETag in the store it was copied from, SHA-256."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    size: int
    etag: str
    sha256: str


class Snapshot(BaseModel):
    """What a snapshot holds, as its snapshot.json says.

    Parameters
    ----------
    started_at, finished_at
        When it was made. What was published before the start is in it.
    buckets
        Names of the buckets by what they hold; addresses in records name buckets, so a restore must find the same.
    objects
        What is kept, by `<bucket>/<key>`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = 1
    started_at: datetime
    finished_at: datetime
    buckets: dict[str, str]
    objects: dict[str, Kept]

    @property
    def size(self) -> int:
        """Bytes of all objects."""
        return sum(kept.size for kept in self.objects.values())


def read_snapshot(folder: Path) -> Snapshot:
    """Return what a snapshot holds.

    Raises
    ------
    NotFoundError
        The folder is no snapshot, or one that was not finished.
    DamagedError
        Its index cannot be read.
    """
    path = folder / INDEX
    try:
        return Snapshot.model_validate_json(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(
            f"{folder} is no finished snapshot: there is no {INDEX} in it. Name a folder that a back-up made, such as "
            "FOLDER/2030-01-31T04-00-00Z."
        ) from error
    except (ValidationError, ValueError, OSError) as error:
        raise DamagedError(f"{path} is damaged. Take another snapshot.") from error


def check(folder: Path, on_file: OnFile = lambda _done, _all: None) -> Snapshot:
    """Read every file of a snapshot and return what it holds.

    Raises
    ------
    DamagedError
        Files are missing or differ from what was copied; the first ten are named.
    """
    snapshot = read_snapshot(folder)
    wrong: list[str] = []

    def look(item: tuple[str, Kept]) -> None:
        name, kept = item
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif path.stat().st_size != kept.size or sha256_of(path) != kept.sha256:
            wrong.append(f"{name} was changed")

    each(look, snapshot.objects.items(), len(snapshot.objects), on_file)
    if wrong:
        more = f" and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise DamagedError(
            f"The snapshot {folder} is damaged: {', '.join(sorted(wrong)[:10])}{more}. Take another one."
        )
    return snapshot


def is_ledger(place: Location) -> bool:
    """Return whether an object says which images a scheduled prediction has done."""
    # `<project>/_batches/…`
    return place.key.split("/")[1:2] == ["_batches"]


def names_others(place: Location) -> bool:
    """Return whether an object says that others exist, so that it must be copied before them."""
    key = f"/{place.key}"
    # Records of drafts refer to label images beside them.
    draft = "/.drafts/" in key and key.endswith(".json")
    return place.name in {*_MANIFESTS, VERDICT_FILE} or is_ledger(place) or draft or "/.trash/" in key


def buckets(store: Store) -> dict[str, str]:
    """Return the names of the buckets that are kept, by what they hold."""
    settings = store.settings
    names = ("datasets", "models", "results", "jobs")
    return {name: str(getattr(settings, f"bucket_{name}")) for name in names}


def each(action: Callable[[T], None], items: Iterable[T], count: int, on_file: OnFile) -> None:
    """Do something with all items, several at a time."""
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        try:
            for done, _ in enumerate(pool.map(action, list(items)), start=1):
                on_file(done, count)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
