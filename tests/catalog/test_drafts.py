"""Drafts: operations are kept in their order, one of two writers wins, and what is sent again counts once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from parfocal import v1
from parfocal.catalog.drafts import LARGEST_IMAGE, LEASE, Change, Drafts, Record
from parfocal.catalog.entries import Entries
from parfocal.catalog.places import DATASET, place_of
from parfocal.catalog.trash import Trash
from parfocal.runtime.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
)
from parfocal.runtime.store.manifests import DATASET_MANIFEST, DatasetManifest
from parfocal.runtime.store.names import dataset_location
from parfocal.runtime.store.store import Store

Call = Callable[..., Any]
DRAW = json.dumps({"do": "draw", "points": [[1, 2], [3, 4]]})
ERASE = json.dumps({"do": "erase", "object": 4})


@pytest.fixture
def store(s3: Any) -> Store:
    found: Store = s3.store()
    return found


@pytest.fixture
def base(store: Store) -> str:
    place = dataset_location(store, "default", "beads", 1)
    store.write(
        place / DATASET_MANIFEST,
        DatasetManifest(project="default", dataset="beads", version=1, images=()).to_bytes(),
    )
    return str(place)


@pytest.fixture
def draft(call: Call, base: str, request: pytest.FixtureRequest) -> str:
    made = call("CreateDraft", request_id=request.node.name[:64], title="beads", kind="labels", base_uri=base)
    return str(made.draft.draft)


def change(call: Call, draft: str, revision: int, change_id: str, *operations: str, **more: Any) -> v1.DraftImage:
    more = {"session": "one", **more}
    answer = call(
        "ChangeDraftImage",
        draft=draft,
        image="test:a",
        revision=revision,
        change_id=change_id,
        operations=operations,
        **more,
    )
    found: v1.DraftImage = answer.image
    return found


def image(call: Call, draft: str) -> v1.DraftImage:
    found: v1.DraftImage = call("GetDraftImage", draft=draft, image="test:a").image
    return found


def test_operations_are_kept_in_order_and_steps_are_undone_and_done_again(call: Call, draft: str) -> None:
    assert image(call, draft).revision == 0
    assert change(call, draft, 0, "c1", DRAW).revision == 1
    change(call, draft, 1, "c2", ERASE, DRAW, done=True)
    found = image(call, draft)
    assert list(found.operations) == [DRAW, ERASE, DRAW]
    assert (found.applied, found.done, list(found.editors)) == (3, True, ["unverified"])
    change(call, draft, 2, "c3", applied=1)
    assert (image(call, draft).applied, image(call, draft).steps) == (1, 3)
    change(call, draft, 3, "c4", applied=2)
    # Something new: what is still undone is given up.
    change(call, draft, 4, "c5", ERASE)
    assert list(image(call, draft).operations) == [DRAW, ERASE, ERASE]
    with pytest.raises(InvalidInputError, match="between 0 and 3"):
        change(call, draft, 5, "c6", applied=4)
    listed = call("GetDraft", draft=draft)
    assert [(each.image, each.steps, list(each.operations)) for each in listed.images] == [("test:a", 3, [])]


def test_a_change_that_is_sent_again_counts_once(call: Call, draft: str) -> None:
    first = change(call, draft, 0, "c1", DRAW)
    assert change(call, draft, 0, "c1", DRAW) == first
    assert image(call, draft).steps == 1


def test_of_two_writers_at_one_revision_exactly_one_is_accepted(
    store: Store, base: str, call: Call, draft: str
) -> None:
    drafts = Drafts(store)

    def write(number: int) -> bool:
        # Every writer is a window that has taken over, so that nothing but the revision decides.
        one = Change(f"c{number}", "one", 0, (DRAW,))
        try:
            drafts.change("default", draft, "test:a", one, f"person {number}")
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        accepted = list(pool.map(write, range(8)))
    assert sum(accepted) == 1
    found = image(call, draft)
    assert (found.revision, found.steps) == (1, 1)
    assert list(found.editors) == [f"person {accepted.index(True)}"]


def test_a_stale_revision_is_refused_and_loses_nothing(call: Call, draft: str) -> None:
    change(call, draft, 0, "c1", DRAW)
    with pytest.raises(ConflictError, match="changed in another window"):
        change(call, draft, 0, "c2", ERASE)
    assert list(image(call, draft).operations) == [DRAW]
    assert change(call, draft, 1, "c2", ERASE).steps == 2


def test_another_window_waits_for_the_lease_or_takes_over(call: Call, draft: str) -> None:
    change(call, draft, 0, "c1", DRAW)
    with pytest.raises(PreconditionError, match="is editing test:a"):
        change(call, draft, 1, "c2", DRAW, session="two")

    def lease(session: str, **more: bool) -> v1.DraftLease:
        answer = call("LeaseDraftImage", draft=draft, image="test:a", session=session, **more)
        found: v1.DraftLease = answer.image.lease
        return found

    assert lease("two").session == "one"
    assert lease("two", take_over=True).session == "two"
    assert change(call, draft, 1, "c2", DRAW, session="two").revision == 2
    with pytest.raises(PreconditionError):
        change(call, draft, 2, "c3", DRAW)
    lease("two", release=True)
    assert change(call, draft, 2, "c3", DRAW).revision == 3


def test_a_lease_expires(store: Store, base: str) -> None:
    now = [datetime.now(UTC)]
    drafts = Drafts(store, lambda: now[0])
    record = Record(title="a", kind="labels", base_uri=base, created_at=now[0], created_by="me")
    drafts.create("default", "expiring", record)
    drafts.change("default", "expiring", "a", Change("c1", "one", 0, (DRAW,)), "me")
    now[0] += LEASE / 2
    with pytest.raises(PreconditionError):
        drafts.change("default", "expiring", "a", Change("c2", "two", 1, (DRAW,)), "you")
    now[0] += LEASE
    assert drafts.change("default", "expiring", "a", Change("c2", "two", 1, (DRAW,)), "you")[0].editors == ("me", "you")


def test_what_cannot_be_a_draft_or_an_operation_is_refused(call: Call, draft: str, base: str) -> None:
    with pytest.raises(InvalidInputError, match=r"operations\[0\]"):
        change(call, draft, 0, "c1", "[1]")
    large = json.dumps({"do": "x" * (LARGEST_IMAGE // 2)})
    change(call, draft, 0, "c1", large)
    with pytest.raises(PreconditionError, match="do not fit"):
        change(call, draft, 1, "c2", large)
    with pytest.raises(InvalidInputError, match="base_uri"):
        call("CreateDraft", request_id="d1", title="a", kind="labels", base_uri="s3://elsewhere/a/b/1")
    with pytest.raises(InvalidInputError, match="names no dataset"):
        call("CreateDraft", request_id="d1", title="a", kind="labels", base_uri=base.replace("beads", "none"))
    with pytest.raises(InvalidInputError, match="kind"):
        call("CreateDraft", request_id="d1", title="a", kind="outlines", base_uri=base)
    with pytest.raises(AlreadyExistsError):
        call("CreateDraft", request_id=draft, title="a", kind="boxes", base_uri=base)
    with pytest.raises(NotFoundError, match="no draft"):
        call("GetDraftImage", draft="other", image="a")


def test_files_are_kept_by_their_digest_and_go_with_the_draft(call: Call, store: Store, draft: str) -> None:
    data = bytes(range(256)) * 5000
    pieces = [v1.WriteDraftFileRequest(draft=draft, data=data[:700_000]), v1.WriteDraftFileRequest(data=data[700_000:])]
    digest = call.stream("WriteDraftFile", pieces).sha256  # type: ignore[attr-defined]
    assert digest == hashlib.sha256(data).hexdigest()
    read = call("ReadDraftFile", draft=draft, sha256=digest)
    assert b"".join(piece.data for piece in read) == data
    change(call, draft, 0, "c1", DRAW)
    assert draft in {each.draft for each in call("ListDrafts").drafts}
    call("DeleteDraft", draft=draft)
    assert draft not in {each.draft for each in call("ListDrafts").drafts}
    assert list(store.objects(store.datasets / "default" / ".drafts" / draft)) == []


def test_the_base_of_a_draft_stays_in_the_trash_until_the_draft_is_gone(call: Call, store: Store, base: str) -> None:
    call("CreateDraft", request_id="kept", title="a", kind="labels", base_uri=base)
    trash = Trash(Entries(store), days=1)
    trash.delete(place_of(store, DATASET, "default", "beads", 1), "me")
    later = (datetime.now(UTC) + timedelta(days=3)).timestamp()
    for each in call("ListDrafts").drafts:
        assert trash.empty(now=later) == 0
        call("DeleteDraft", draft=each.draft)
    assert trash.empty(now=later) == 1
