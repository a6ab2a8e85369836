"""The ledgers of batches as the catalogue keeps them: taken by one job, ended once, delivered into the right folder."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from catalog_calls import Caller

from parfocal import v1
from parfocal.catalog.batches import Batches
from parfocal.runtime.errors import AlreadyExistsError, InvalidInputError, NotFoundError, UnavailableError
from parfocal.runtime.store.manifests import RESULT_MANIFEST, ResultManifest
from parfocal.runtime.store.store import Location, Store

Open = Callable[[str], tuple[Location, Location]]


@pytest.fixture
def opened(call: Caller, store: Store) -> Open:
    """Open a batch over a folder with three images and a text, and return where it reads and writes."""

    def open_(batch: str) -> tuple[Location, Location]:
        root = store.results / "default" / f"scope-{batch}"
        for name in ("a.tif", "plate/a.tif", "z.PNG", "notes.txt"):
            store.write(root / "in" / name, name.encode())
        call("OpenBatch", batch=batch, source_uri=str(root / "in"), output_uri=str(root / "out"))
        return root / "in", root / "out"

    return open_


def listed(call: Caller, batch: str, **options: Any) -> dict[str, v1.BatchInput]:
    return {item.name: item for part in call("ListBatchInputs", batch=batch, **options) for item in part.inputs}


def test_each_image_is_taken_by_one_job_and_a_repeated_call_takes_nothing_more(call: Caller, opened: Open) -> None:
    opened("race")
    found = listed(call, "race")
    assert list(found) == ["a.tif", "plate/a.tif", "z.PNG"]
    assert {item.state for item in found.values()} == {v1.BATCH_INPUT_STATE_NEW}
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(
                lambda job: call("TakeBatchInputs", batch="race", job=job, inputs=found.values()).names,
                ("one", "two", "three", "four"),
            )
        )
    assert sorted(name for names in answers for name in names) == sorted(found)
    taken = listed(call, "race")
    assert {(item.state, item.tries) for item in taken.values()} == {(v1.BATCH_INPUT_STATE_TAKEN, 1)}
    job = taken["a.tif"].job
    again = call("TakeBatchInputs", batch="race", job=job, inputs=[found["a.tif"]])
    assert list(again.names) == ["a.tif"], "the answer to the first call may have been lost"
    later = call("TakeBatchInputs", batch="race", job="later", inputs=taken.values())
    assert sorted(later.names) == sorted(found)
    assert listed(call, "race")["a.tif"].tries == 2


def test_what_was_made_is_delivered_and_ends_an_image_once(call: Caller, opened: Open, store: Store) -> None:
    source, output = opened("ends")
    made = store.results / "default" / "job-1" / "a0001" / "plate" / "a.tif"
    store.write(made, b"predicted")
    known = {"project": "default", "job": "job-1", "service": "fake", "method": "fake-2d", "kind": "prediction"}
    result = ResultManifest(**known, verdict={"state": "failed"})  # type: ignore[arg-type]
    store.write(store.results / "default" / "job-1" / RESULT_MANIFEST, result.to_bytes())
    item = listed(call, "ends")["plate/a.tif"]

    def outcome(uri: str) -> v1.BatchOutcome:
        target = v1.BatchOutput(kind="prediction", uri=uri, name="plate/a.tif")
        return v1.BatchOutcome(input=item, jobs=["job-1"], model_uris=["s3://m/1"], outputs=[target], sha256="ab")

    gone = call("EndBatchInputs", batch="ends", table="t", outcomes=[outcome(f"{made}.gone")])
    assert (list(gone.names), dict(gone.missing)) == ([], {"plate/a.tif": f"{made}.gone"})
    first = call("EndBatchInputs", batch="ends", table="t", outcomes=[outcome(str(made))], seconds_per_image=2.5)
    again = call("EndBatchInputs", batch="ends", table="t", outcomes=[outcome(str(made))])
    assert (list(first.names), list(again.names)) == (["plate/a.tif"], [])
    assert store.read(output / "plate" / "a.tif") == b"predicted"
    rows = store.read(output / "manifests" / "t.csv").decode().splitlines()
    assert rows[1] == f"plate/a.tif,ab,predicted,{output}/plate/a.tif,s3://m/1,job-1,0.000,,failed"
    assert listed(call, "ends")["plate/a.tif"].state == v1.BATCH_INPUT_STATE_ENDED
    reopened = call("OpenBatch", batch="ends", source_uri=str(source), output_uri=str(output))
    assert reopened.seconds_per_image == 2.5
    # Written anew under the same name it is another image.
    store.write(source / "plate" / "a.tif", b"another")
    assert listed(call, "ends")["plate/a.tif"].state == v1.BATCH_INPUT_STATE_NEW


def test_the_table_stands_before_an_image_is_ended(store: Store, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    source, output = opened("killed")
    ledger = Batches(store).open("default", "killed", str(source), str(output), "anna")
    (part,) = ledger.inputs(brief=False)
    outcomes = [v1.BatchOutcome(input=item, reason="It cannot be read.") for item in part]
    with monkeypatch.context() as patched:
        create = Store.create

        def die(store: Store, place: Location, data: bytes) -> str:
            if "/ended/" in place.key:
                raise UnavailableError("the catalogue was killed")
            return create(store, place, data)

        patched.setattr(Store, "create", die)
        with pytest.raises(UnavailableError):
            ledger.end("t", outcomes)
    assert len(store.read(output / "manifests" / "t.csv").decode().splitlines()) == 4
    assert len(ledger.end("t", outcomes)[0]) == 3


def test_runs_that_deliver_the_images_of_a_job_together_have_them_all_in_its_table(store: Store, opened: Open) -> None:
    source, output = opened("together")
    ledger = Batches(store).open("default", "together", str(source), str(output), "anna")
    (part,) = ledger.inputs(brief=False)
    first, *others = [v1.BatchOutcome(input=item, reason="It cannot be read.") for item in part]
    ledger.end("t", [first])
    ledger.end("t", others)
    rows = store.read(output / "manifests" / "t.csv").decode().splitlines()
    assert [row.split(",")[0] for row in rows] == ["input", *sorted(item.name for item in part)]


def test_other_places_are_refused(call: Caller, opened: Open, store: Store) -> None:
    source, output = opened("places")
    root = store.results / "default"
    with pytest.raises(AlreadyExistsError, match="Choose another name"):
        call("OpenBatch", batch="places", source_uri=str(source), output_uri=str(root / "elsewhere"))
    with pytest.raises(NotFoundError):
        call("OpenBatch", batch="b", source_uri="s3://secret/inbox", output_uri=str(output))
    with pytest.raises(NotFoundError, match="open it"):
        call("ListBatchInputs", batch="never-opened")
    store.write(root / "published" / RESULT_MANIFEST, b"{}")
    for place in (source / "out", root / "published" / "x", store.models / "default" / "m", root / "_batches"):
        with pytest.raises(InvalidInputError, match=re.escape("Choose another folder") + "|Choose a folder"):
            call("OpenBatch", batch="b", source_uri=str(source), output_uri=str(place))
    # A damaged manifest counts as one that refers to everything, which other tests would notice.
    store.delete(root / "published" / RESULT_MANIFEST)
    item = listed(call, "places")["a.tif"]
    foreign = store.results / "lab-b" / "job" / "a.tif"
    store.write(foreign, b"secret")
    for uri, name in ((str(foreign), "a.tif"), (str(source / "a.tif"), "../../job-1/manifest.json")):
        output_ = v1.BatchOutput(kind="prediction", uri=uri, name=name)
        with pytest.raises((NotFoundError, InvalidInputError)):
            call("EndBatchInputs", batch="places", table="t", outcomes=[v1.BatchOutcome(input=item, outputs=[output_])])
    assert listed(call, "places")["a.tif"].state == v1.BATCH_INPUT_STATE_NEW
