"""Listing, reading, deleting and restoring, by a real catalogue on a real store."""

from __future__ import annotations

import io
import json
import time
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from catalog_calls import named
from support import publish_dataset, publish_images, publish_model

from parfocal import v1
from parfocal.catalog.entries import Entries
from parfocal.catalog.trash import Trash
from parfocal.catalog.usage import DerivedUsage
from parfocal.runtime.errors import InvalidInputError, NotFoundError, PreconditionError
from parfocal.runtime.jobs.records import JobStore, set_state
from parfocal.runtime.store.manifests import DatasetManifest, ModelManifest
from parfocal.runtime.store.names import derived_mark
from parfocal.runtime.store.publish import TRASH
from parfocal.runtime.store.store import Location, Store

Call = Callable[..., Any]
_DAY = 86_400.0


@pytest.fixture
def dataset(store: Store, pairs_folder: Path, request: pytest.FixtureRequest) -> v1.EntryName:
    """A published dataset version in a project of its own."""
    project = request.node.name.removeprefix("test_").replace("_", "-")[:40].split("[")[0]
    publish_dataset(store, "beads", pairs_folder, project)
    return named("dataset", "beads", 1, project)


def titles(call: Call, kind: str, project: str, **fields: Any) -> list[str]:
    answer = call("ListEntries", kind=f"ENTRY_KIND_{kind.upper()}", project=project, **fields)
    return [f"{entry.name}:{entry.version}" if entry.version else entry.name for entry in answer.entries]


def test_entries_are_listed_by_name_and_newest_version_first_on_pages(
    call: Call, store: Store, dataset: v1.EntryName, pairs_folder: Path
) -> None:
    for name in ("beads", "actin"):
        publish_dataset(store, name, pairs_folder, dataset.project)
    assert titles(call, "dataset", dataset.project) == ["actin:1", "beads:2", "beads:1"]
    first = call("ListEntries", kind=v1.ENTRY_KIND_DATASET, project=dataset.project, page_size=2)
    assert [entry.version for entry in first.entries] == [1, 2]
    more = {"page_size": 2, "page_token": first.next_page_token}
    assert titles(call, "dataset", dataset.project, **more) == ["beads:1"]
    assert titles(call, "dataset", dataset.project, query="ACT") == ["actin:1"]
    assert titles(call, "dataset", dataset.project, name="beads") == ["beads:2", "beads:1"]
    assert dataset.project in call("ListProjects").projects


def test_an_entry_says_what_its_manifest_does(call: Call, dataset: v1.EntryName) -> None:
    entry = call("GetEntry", entry=dataset).entry
    assert (entry.dataset.images["train"], entry.dataset.images["test"]) == (5, 3)
    assert (list(entry.dataset.axes), list(entry.dataset.dtypes)) == (["YX"], ["uint16"])
    assert entry.files == 16
    assert call("GetEntry", uri=entry.uri).entry == entry
    newest = named("dataset", "beads", 0, dataset.project)
    assert call("GetEntry", entry=newest).entry == entry
    manifest = b"".join(part.data for part in call("ReadFile", entry=dataset))
    assert sum(file.size for file in DatasetManifest.model_validate_json(manifest).files) == entry.bytes
    image = b"".join(part.data for part in call("ReadFile", uri=entry.uri, name="train/source/field0.tif"))
    assert image[:2] == b"II"
    whole = b"".join(part.data for part in call("ReadArchive", uri=entry.uri))
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        assert archive.testzip() is None
        assert archive.read("train/source/field0.tif") == image
        assert archive.read("dataset.json") == manifest
        assert len(archive.namelist()) == 17


def test_a_deleted_entry_is_gone_until_it_is_restored(call: Call, store: Store, dataset: v1.EntryName) -> None:
    before = store.read(Location(store.datasets.bucket, f"{dataset.project}/beads/1/dataset.json"))
    deleted = call("DeleteEntry", entry=dataset)
    assert deleted.removed_after.ToDatetime() > deleted.entry.deleted_at.ToDatetime()
    assert titles(call, "dataset", dataset.project) == []
    assert titles(call, "dataset", dataset.project, deleted=True) == ["beads:1"]
    with pytest.raises(NotFoundError):
        call("DeleteEntry", entry=dataset)
    usage = call("GetUsage", project=dataset.project).usages[0]
    assert (usage.entries, usage.deleted_entries, usage.objects) == (0, 1, 19)
    call("RestoreEntry", entry=dataset)
    assert titles(call, "dataset", dataset.project, deleted=True) == []
    assert store.read(Location(store.datasets.bucket, f"{dataset.project}/beads/1/dataset.json")) == before
    with pytest.raises(NotFoundError):
        call("RestoreEntry", entry=dataset)


def test_usage_has_jobs_and_what_is_derived_where_that_is_asked_for(call: Call, store: Store) -> None:
    own, other = (f"lab-{uuid.uuid4().hex[:8]}" for _ in range(2))
    assert not call("GetUsage", project=own).others
    store.write(store.jobs / own / "job-1" / "job.json", bytes(100))
    store.write(store.jobs / TRASH / own / "job-2-1" / "job.json", bytes(20))
    store.write(store.jobs / other / "job-1" / "job.json", bytes(3))
    for digest, projects in ((uuid.uuid4().hex * 2, (own, other)), (uuid.uuid4().hex * 2, (other,))):
        store.write(store.derived / digest / "info.json", bytes(1000))
        for project in projects:
            store.write(derived_mark(store, digest, project), b"")
    usages = DerivedUsage(store)
    assert [usages.of(project).bytes for project in (own, other, "nobody")] == [1000, 2000, 0]
    jobs, derived = call("GetUsage", project=own, with_others=True).others
    assert (jobs.kind, jobs.objects, jobs.bytes) == (v1.OTHER_USAGE_KIND_JOBS, 2, 120)
    assert (derived.kind, derived.objects, derived.bytes) == (v1.OTHER_USAGE_KIND_DERIVED, 3, 1000)


def test_files_go_after_the_retention_and_never_while_something_refers_to_them(
    call: Call, store: Store, dataset_uri: str, tmp_path: Path
) -> None:
    dataset = named("dataset", *_name(dataset_uri))
    model_uri = publish_model(store, "referrer", dataset_uri)
    model = named("model", *_name(model_uri))
    deleted = call("DeleteEntry", entry=dataset)
    assert list(deleted.referrers) == [model_uri]
    trash = Trash(Entries(store), days=30)
    place = Location.parse(dataset_uri)

    def left_after(days: int) -> list[str]:
        trash.empty(now=time.time() + days * _DAY)
        return [item.location.name for item in store.objects(place)]

    assert len(left_after(31)) > 1
    # The model may be restored, and then it must know its dataset.
    call("DeleteEntry", entry=model)
    assert len(left_after(29)) > 1
    assert len(left_after(31)) > 1, "the model goes first"
    assert left_after(31) == ["claim.json"], "the number of a version is never used again"
    with pytest.raises(NotFoundError):
        call("RestoreEntry", entry=dataset)


def test_what_a_job_uses_is_not_deleted(call: Call, store: Store, dataset_uri: str) -> None:
    jobs = JobStore(store)
    job = v1.Job(
        id=f"uses-{uuid.uuid4().hex}", project="default", service="test", method="test", state=v1.JOB_STATE_QUEUED
    )
    job.training.dataset_uri = dataset_uri
    jobs.create(job, "0")
    dataset = named("dataset", *_name(dataset_uri))
    with pytest.raises(PreconditionError, match=job.id):
        call("DeleteEntry", entry=dataset)
    jobs.change("default", job.id, lambda job: set_state(job, v1.JOB_STATE_CANCELLED, "cancelled"))
    call("DeleteEntry", entry=dataset)


def test_lineage_goes_both_ways(call: Call, store: Store, dataset_uri: str, tmp_path: Path) -> None:
    first = publish_model(store, "first", dataset_uri)
    second = publish_model(store, "second", dataset_uri, parent=first)
    publish_model(store, "unrelated", f"s3://parfocal-datasets/default/beads/{'9' * 5000}")
    lineage = call("GetLineage", entry=named("model", *_name(first)))
    assert {entry.uri for entry in lineage.entries} == {dataset_uri, first, second}
    links = {(link.uri, link.from_uri, link.role) for link in lineage.relations}
    assert (second, first, "parent") in links
    assert (first, dataset_uri, "dataset_uri") in links


def test_results_are_listed_newest_first(call: Call, store: Store, pairs_folder: Path) -> None:
    uris = [publish_images(store, pairs_folder / "test" / "target") for _ in range(2)]
    names = sorted((uri.rsplit("/", 1)[-1] for uri in uris), reverse=True)
    listed = titles(call, "result", "default")
    assert [name for name in listed if name in names] == names
    assert sorted(listed, reverse=True) == listed


def test_a_damaged_entry_hides_no_other(call: Call, store: Store, dataset: v1.EntryName) -> None:
    store.write(Location(store.datasets.bucket, f"{dataset.project}/broken/1/dataset.json"), b"{")
    answer = call("ListEntries", kind=v1.ENTRY_KIND_DATASET, project=dataset.project)
    assert [entry.name for entry in answer.entries] == ["beads"]
    assert "broken/1" in answer.damaged[0]
    broken = named("dataset", "broken", 1, dataset.project)
    assert "broken/1" in call("DeleteEntry", entry=broken).entry.warnings[0]
    assert not call("ListEntries", kind=v1.ENTRY_KIND_DATASET, project=dataset.project).damaged
    assert titles(call, "dataset", dataset.project, deleted=True) == ["broken:1"]


@pytest.mark.parametrize("whole", [True, False])
def test_a_damaged_manifest_still_counts_for_what_it_was_made_from(
    call: Call, store: Store, pairs_folder: Path, whole: bool
) -> None:
    dataset = named("dataset", "beads", 1, f"damaged-{uuid.uuid4().hex[:8]}")
    publish_dataset(store, "beads", pairs_folder, dataset.project)
    uri = f"s3://{store.datasets.bucket}/{dataset.project}/beads/1"
    damaged = Location(store.models.bucket, f"{dataset.project}/sharp/1")
    # Cut off in the middle; what it was made from can still be read, or nothing of it.
    store.write(damaged / "model.json", b'{"dataset_uri": "' + uri.encode() + b'", "fil' if whole else b"")
    other = ModelManifest(
        project=dataset.project,
        model="other",
        version=1,
        service="s",
        method="m",
        job="",
        parameters={},
        axes="YX",
        normaliser={},
        dataset_uri="",
    )
    store.write(Location(store.models.bucket, f"{dataset.project}/other/1/model.json"), other.to_bytes())
    deleted = call("DeleteEntry", entry=dataset)
    assert list(deleted.referrers) == [str(damaged)]
    trash = Trash(Entries(store), days=30)
    trash.empty(now=time.time() + 31 * 86_400)
    call("RestoreEntry", entry=dataset)
    call("DeleteEntry", entry=named("model", "other", 1, dataset.project))
    trash.empty(now=time.time() + 31 * 86_400)
    assert bool(titles(call, "model", dataset.project, deleted=True)) is not whole


@pytest.mark.parametrize(
    "fields",
    [
        {"entry": named("dataset", "../models/x", 1)},
        {"entry": named("dataset", "beads", -1)},
        {"entry": named("result", "job", 1)},
        {"entry": v1.EntryName(name="beads", version=1)},
        {"entry": named("dataset", "beads", 1, "../other")},
        {"uri": "s3://parfocal-datasets/default/beads"},
        {"uri": f"s3://parfocal-datasets/default/beads/{'9' * 5000}"},
        {"uri": "s3://parfocal-jobs/default/job"},
        {"uri": "s3://parfocal-datasets/default/../other/beads/1"},
        {"uri": "http://127.0.0.1/default/beads/1"},
    ],
)
def test_what_names_no_entry_is_refused(call: Call, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        call("GetEntry", **fields)


@pytest.mark.parametrize("version", ["x", "9" * 5000, "\u0661"])
def test_a_page_begins_only_where_another_ended(call: Call, version: str) -> None:
    with pytest.raises(InvalidInputError, match="page_token"):
        call("ListEntries", kind=v1.ENTRY_KIND_DATASET, page_token=f"beads:{version}")


def test_derived_files_are_read_by_digest_and_name_in_projects_that_have_the_image(call: Call, store: Store) -> None:
    digest = "ab" * 32
    tile = bytes(range(256)) * 9000
    store.write(store.derived / digest / "0/0/tile", tile)
    with pytest.raises(NotFoundError):
        call("ReadDerived", digest=digest, name="0/0/tile")
    store.write(derived_mark(store, digest, "default"), b"")
    for other in ({"project": "another"}, {"name": ".projects/default"}):
        with pytest.raises(NotFoundError):
            call("ReadDerived", **{"digest": digest, "name": "0/0/tile", **other})
    parts = call("ReadDerived", digest=digest, name="0/0/tile")
    assert b"".join(part.data for part in parts) == tile
    assert len(parts) > 1
    with pytest.raises(NotFoundError):
        call("ReadDerived", digest=digest, name="0/1/tile")
    for wrong in ({"digest": "ab", "name": "tile"}, {"digest": digest, "name": "../x"}, {"digest": digest, "name": ""}):
        with pytest.raises(InvalidInputError):
            call("ReadDerived", **wrong)


def test_the_trash_survives_an_interrupted_deletion(call: Call, store: Store, dataset: v1.EntryName) -> None:
    folder = Location(store.datasets.bucket, f"{dataset.project}/.trash/beads/1")
    record = {"deleted_at": "2020-01-01T00:00:00Z", "deleted_by": "somebody"}
    place = Location(store.datasets.bucket, f"{dataset.project}/beads/1/dataset.json")
    store.copy(place, folder / "dataset.json")
    store.write(folder / "deleted.json", json.dumps(record).encode())
    assert Trash(Entries(store), days=30).empty() == 0
    assert titles(call, "dataset", dataset.project) == ["beads:1"], "its manifest was never moved"
    assert titles(call, "dataset", dataset.project, deleted=True) == []


def test_what_is_being_restored_is_not_removed(
    call: Call, store: Store, dataset: v1.EntryName, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Location(store.datasets.bucket, f"{dataset.project}/beads/1")
    before = [item.location for item in store.objects(place)]
    call("DeleteEntry", entry=dataset)
    record = Location(store.datasets.bucket, f"{dataset.project}/.trash/beads/1/deleted.json")

    def restore(*_arguments: Any) -> dict[str, Any]:
        """Stand where a restoration is that began after the trash had been listed."""
        content = store.read_json(record) | {"state": "restoring"}
        store.write(record, json.dumps(content).encode())
        return {}

    with monkeypatch.context() as patched:
        patched.setattr("parfocal.catalog.trash.active_jobs", restore)
        Trash(Entries(store), days=30).empty(now=time.time() + 31 * _DAY)
    call("RestoreEntry", entry=dataset)
    assert [item.location for item in store.objects(place)] == before


def _name(uri: str) -> tuple[str, int]:
    name, version = uri.rsplit("/", 2)[1:]
    return name, int(version)
