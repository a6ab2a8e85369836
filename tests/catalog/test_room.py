"""Limits of what a project may store."""

from __future__ import annotations

import uuid

import pytest

from parfocal.catalog.room import Room
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
