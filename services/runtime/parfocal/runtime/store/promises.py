"""Whether a store keeps the promises that jobs, leases and claims rest on. Not every S3 server does."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from parfocal.runtime.errors import ConflictError, PreconditionError
from parfocal.runtime.store.store import Location, Store

# SeaweedFS lets those wait for a second that find an object locked: more of them would delay every start.
_RACERS: Final = 4


def check_promises(store: Store) -> None:
    """Try the store's conditional writes on objects of a name of its own, which are removed again.

    Of several writers that create one object at the same time exactly one must win, and hold what is stored; of several
    that replace the same version exactly one must win; a version that has been replaced must be refused.

    Raises
    ------
    PreconditionError
        The store does not keep a promise, which is named.
    UnavailableError
        The store does not answer, or refuses the access.
    """
    place = store.jobs / ".promises" / f"{uuid.uuid4().hex}.json"
    try:
        _check(store, place)
    finally:
        store.delete(place)


def _check(store: Store, place: Location) -> None:
    created = _race(store, place, None)
    if len(created) != 1:
        raise _broken(store, f"{len(created)} of {_RACERS} writers created one object (`If-None-Match: *`)")
    data, etag = store.read_versioned(place)
    if data != created[0]:
        raise _broken(store, "another object is stored than the one of the writer that created it (`If-None-Match: *`)")
    replaced = _race(store, place, etag)
    if len(replaced) != 1:
        raise _broken(store, f"{len(replaced)} of {_RACERS} writers replaced one version (`If-Match`)")
    try:
        store.replace(place, b"stale", etag)
    except ConflictError:
        return
    raise _broken(store, "a version was replaced that is not the present one any more (`If-Match`)")


def _race(store: Store, place: Location, etag: str | None) -> list[bytes]:
    """Let several writers write at the same time; return the contents of those that were told that they have."""

    def write(number: int) -> bytes | None:
        data = f"writer {number} of {uuid.uuid4().hex}".encode()
        try:
            if etag is None:
                store.create(place, data)
            else:
                store.replace(place, data, etag)
        except ConflictError:
            return None
        return data

    with ThreadPoolExecutor(_RACERS) as pool:
        return [data for data in pool.map(write, range(_RACERS)) if data is not None]


def _broken(store: Store, what: str) -> PreconditionError:
    return PreconditionError(
        f"The store at {store.settings.s3_endpoint} does not keep conditional writes: {what}. Jobs would run twice and "
        "models would be mixed up, so that Parfocal does not use this store. Use a newer version or another store: "
        "docs/operating.md has a table."
    )
