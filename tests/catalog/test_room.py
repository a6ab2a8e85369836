"""Limits of what a project may store."""

from __future__ import annotations

import uuid

import pytest
import urllib3

from parfocal.catalog.places import DATASET
from parfocal.catalog.room import Room
from parfocal.catalog.signing import Signer
from parfocal.catalog.usage import usage_of
from parfocal.runtime.errors import QuotaError
from parfocal.runtime.store.store import Store

_MIB = 2**20


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_is_stored_and_what_is_on_its_way_count_together(store: Store) -> None:
    project, clock = f"room-{uuid.uuid4().hex[:8]}", Clock()
    place = store.datasets / project / "beads/1"
    store.write(place / "image.tif", bytes(_MIB))
    room, limit = Room(store, 900, clock), 4 / 1024
    room.reserve(project, {place / "a.tif": 2 * _MIB}, limit)
    with pytest.raises(QuotaError, match=project):
        room.reserve(project, {place / "b.tif": 2 * _MIB}, limit)
    room.reserve(project, {place / "b.tif": _MIB}, limit)
    room.reserve(project, {place / "c.tif": 10 * _MIB}, None)
    # A quarter of an hour later nothing is on its way any more, and what has come is measured.
    clock.now = 901
    store.write(store.results / project / "job/image.tif", bytes(_MIB))
    room.reserve(project, {place / "d.tif": 2 * _MIB}, limit)
    with pytest.raises(QuotaError):
        room.reserve(project, {place / "e.tif": 1}, limit)


def test_parts_of_files_that_never_come_count(store: Store) -> None:
    project, clock = f"room-{uuid.uuid4().hex[:8]}", Clock()
    place = store.datasets / project / "beads/1/image.tif"
    room, limit = Room(store, 900, clock), 8 / 1024
    upload, _ = store.begin_multipart(place)
    signed = Signer(store.settings).put_part(place, upload, 1, 0, 6 * _MIB)
    body, headers = bytes(6 * _MIB), dict(signed.headers)
    assert urllib3.PoolManager(retries=False).request("PUT", signed.url, body=body, headers=headers).status == 200
    assert usage_of(store, DATASET, project).bytes == 6 * _MIB
    with pytest.raises(QuotaError):
        room.reserve(project, {place.parent / "other.tif": 3 * _MIB}, limit)
    # While it is on its way, its parts count as parts of it.
    room = Room(store, 900, clock)
    room.reserve(project, {place: 7 * _MIB}, 14 / 1024)
    clock.now = 61
    room.reserve(project, {place: 7 * _MIB}, limit)
    store.end_multipart(place)
    clock.now = 3000
    room.reserve(project, {place.parent / "other.tif": 3 * _MIB}, limit)


def test_a_file_counts_once(store: Store) -> None:
    project, clock = f"room-{uuid.uuid4().hex[:8]}", Clock()
    place = store.datasets / project / "beads/1/image.tif"
    room, limit = Room(store, 900, clock), 4 / 1024
    for _ in range(3):  # it is announced again where sending it failed
        room.reserve(project, {place: 2 * _MIB}, limit)
    store.write(place, bytes(2 * _MIB))
    clock.now = 61
    room.reserve(project, {place.parent / "other.tif": 2 * _MIB}, limit)
    with pytest.raises(QuotaError):
        room.reserve(project, {place.parent / "more.tif": 1}, limit)
