"""What projects kept, day by day."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime

from catalog_calls import Caller

from parfocal import v1
from parfocal.catalog.entries import Entries
from parfocal.catalog.space_history import SPACE, SpaceHistory
from parfocal.runtime.store.store import Store


def day(number: int, month: int = 11) -> datetime:
    return datetime(2020, month, number, 23, 59, tzinfo=UTC)


def test_each_project_is_looked_at_once_a_day_and_summed_up_by_month(store: Store, call: Caller) -> None:
    project = f"space-{uuid.uuid4().hex[:8]}"
    history, other = SpaceHistory(Entries(store)), SpaceHistory(Entries(store))
    place = store.models / project / "m/1"
    store.write(place / "weights", bytes(1000))
    assert history.note(now=day(29)) > 0
    store.write(place / "more", bytes(500))
    assert other.note(now=day(29)) == 0, "another instance has looked today"
    other.note(now=day(30))
    history.note(now=day(1, month=12))
    found = call("GetUsage", project=project, history=True).months
    # The catalogue that runs looks by itself, today.
    months = [each for each in found if each.largest_bytes and each.month.startswith("2020")]
    models = [each for each in months if each.kind == v1.ENTRY_KIND_MODEL]
    assert [(each.month, each.mean_bytes, each.largest_bytes, each.days) for each in models] == [
        ("2020-11", 1250, 1500, 2),
        ("2020-12", 1500, 1500, 1),
    ]
    # The record itself is stored too.
    results = [each for each in months if each.kind == v1.ENTRY_KIND_RESULT]
    assert [each.month for each in results] == ["2020-11", "2020-12"]
    assert not call("GetUsage", project=project, history=True).usages


def test_a_damaged_month_is_begun_anew(store: Store) -> None:
    project = f"space-{uuid.uuid4().hex[:8]}"
    history, place = SpaceHistory(Entries(store)), store.results / project / SPACE / "2020-11.json"
    store.write(store.datasets / project / "d/1/a.tif", bytes(10))
    store.write(place, b"no JSON")
    assert history.months(project) == []
    history.note(now=day(5))
    assert list(json.loads(store.read(place))["days"]) == ["2020-11-05"]
