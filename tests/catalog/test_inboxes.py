"""The inboxes of a project in the catalogue: which there are, what lies in them, and nothing of anybody else's."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from catalog_calls import Caller
from support import ServiceProcess

from parfocal.catalog.inboxes import Inboxes
from parfocal.runtime.errors import InvalidInputError, NotFoundError
from parfocal.runtime.store.store import Location, Store

OPENED = Location("opened-by-operators", "scope/exports")


@pytest.fixture(scope="module")
def call(start_service: Callable[..., ServiceProcess]) -> Iterator[Caller]:
    """Calls of a catalogue whose operator has opened an inbox for two projects."""
    inboxes = f"default={OPENED},other=s3://{OPENED.bucket}/theirs"
    caller = Caller(start_service("catalog", inboxes=inboxes).address)
    yield caller
    caller.close()


@pytest.fixture
def own(store: Store) -> Location:
    """An inbox of the project that has images, and whatever else programs leave."""
    place = store.results / "default" / "_inboxes" / "scope-1"
    for name in ("a.tif", "plate/b.tif", "plate/deep/c.czi", "plate.txt", ".hidden/d.tif", "plate/.part-e"):
        store.write(place / name, name.encode())
    return place


def names(call: Caller, inbox: str, **options: str) -> list[str]:
    return [file.name for part in call("ListInboxFiles", inbox=inbox, **options) for file in part.files]


def test_opened_inboxes_and_those_that_are_filled_by_ingest_are_listed(call: Caller, own: Location) -> None:
    found = {inbox.name: inbox.uri for inbox in call("ListInboxes").inboxes}
    assert found["scope-1"] == str(own)
    assert found["opened-by-operators/scope/exports"] == str(OPENED)
    assert [inbox.name for inbox in call("ListInboxes", project="other").inboxes] == ["opened-by-operators/theirs"]


def test_files_are_listed_and_read_folder_by_folder(call: Caller, own: Location) -> None:
    # Stores differ in whether a folder comes before a file whose name begins alike.
    assert sorted(names(call, "scope-1")) == ["a.tif", "plate.txt", "plate/b.tif", "plate/deep/c.czi"]
    assert names(call, "scope-1", folder="plate") == ["plate/b.tif", "plate/deep/c.czi"]
    assert names(call, "scope-1", folder="nothing") == []
    content = b"".join(part.data for part in call("ReadInboxFile", inbox="scope-1", name="plate/b.tif"))
    assert content == b"plate/b.tif"
    with pytest.raises(NotFoundError):
        call("ReadInboxFile", inbox="scope-1", name="none.tif")


@pytest.mark.parametrize("name", ["../scope-2/a.tif", "plate/../../x", "/a.tif", "a\\b", ""])
def test_no_name_leads_out_of_an_inbox(call: Caller, own: Location, name: str) -> None:
    with pytest.raises(InvalidInputError):
        call("ReadInboxFile", inbox="scope-1", name=name)
    if name:
        with pytest.raises(InvalidInputError):
            names(call, "scope-1", folder=name)


@pytest.mark.parametrize("inbox", ["opened-by-operators/theirs", "none", "../results", "", "opened-by-operators"])
def test_inboxes_of_others_and_other_places_are_none(call: Caller, own: Location, inbox: str) -> None:
    for rpc, more in (("ListInboxFiles", {}), ("ReadInboxFile", {"name": "a.tif"})):
        with pytest.raises(NotFoundError):
            call(rpc, inbox=inbox, **more)
    with pytest.raises(NotFoundError):
        names(call, "scope-1", project="other")


def test_many_files_come_in_several_parts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parfocal.catalog.inboxes._AT_ONCE", 2)
    for number in range(5):
        store.write(store.results / "many" / "_inboxes" / "scope" / f"{number}.tif", b"x")
    parts = list(Inboxes(store).files("many", "scope", ""))
    assert [[file.name for file in part] for part in parts] == [["0.tif", "1.tif"], ["2.tif", "3.tif"], ["4.tif"]]
    assert {file.size for part in parts for file in part} == {1}
