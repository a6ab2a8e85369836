"""The retention of results: what can be made again goes to the trash, everything else stays."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from support import publish_dataset

from parfocal import v1
from parfocal.catalog.entries import Entries
from parfocal.catalog.retention import Retention
from parfocal.catalog.trash import Trash
from parfocal.runtime.access.policy import Limits, Policy, Project
from parfocal.runtime.jobs.records import JobStore, set_state
from parfocal.runtime.store.manifests import DATASET_MANIFEST, RESULT_MANIFEST, ResultManifest
from parfocal.runtime.store.store import Location, Store

_LATER = time.time() + 40 * 86_400


@pytest.fixture
def project(store: Store, pairs_folder: Path) -> str:
    """A project with a dataset."""
    name = f"retention-{uuid.uuid4().hex[:8]}"
    publish_dataset(store, "beads", pairs_folder, name)
    return name


def publish_result(store: Store, project: str, job: str, *, made_by_job: bool = True, **fields: Any) -> str:
    """Publish a result that a job has made, or that was uploaded."""
    if made_by_job:
        jobs, record = JobStore(store), v1.Job(id=job, project=project, service="test", method="test")
        jobs.create(record, "digest")
        jobs.change(project, job, lambda known: set_state(known, v1.JOB_STATE_SUCCEEDED, "done"))
    manifest = ResultManifest(
        project=project,
        job=job,
        **{
            "service": "test",
            "method": "test",
            "kind": "prediction",
            "input_uri": f"s3://{store.datasets.bucket}/{project}/beads/1",
            "split": "test",
            **fields,
        },
    )
    place = store.results / project / job
    store.write(place / RESULT_MANIFEST, manifest.to_bytes())
    return str(place)


def listed(store: Store, project: str) -> set[str]:
    return {
        item.location.parent.name
        for item in store.objects(store.results / project)
        if ".trash" not in item.location.key
    }


def test_what_can_be_made_again_goes_to_the_trash(store: Store, project: str) -> None:
    judged = publish_result(store, project, "judged")
    publish_result(store, project, "old")
    publish_result(store, project, "evaluation", kind="evaluation", input_uri=judged)
    publish_result(store, project, "uploaded", made_by_job=False)
    publish_result(store, project, "comparison", kind="comparison")
    gone = f"s3://{store.datasets.bucket}/{project}/gone/1"
    publish_result(store, project, "of-what-is-gone", input_uri=gone)
    entries = Entries(store)
    trash = Trash(entries, days=30)
    retention = Retention(entries, trash, lambda name: 30.0 if name == project else 0.0)
    assert retention.apply() == 0, "nothing is old yet"
    kept = {"judged", "uploaded", "comparison", "of-what-is-gone"}
    assert retention.apply(now=_LATER) == 2
    assert listed(store, project) == kept
    # What was judged goes once nothing refers to it any more.
    assert retention.apply(now=_LATER) == 1
    assert listed(store, project) == kept - {"judged"}
    dataset = Location.parse(f"s3://{store.datasets.bucket}/{project}/beads/1")
    assert store.exists(dataset / DATASET_MANIFEST)


def test_a_project_has_a_retention_of_its_own() -> None:
    policy = Policy(projects={"a": Project(result_days=7), "*": Project(result_days=90), "b": Project(result_days=0)})
    assert [policy.limits(name).result_days for name in ("a", "b", "c")] == [7, 0, 90]
    assert Limits().result_days is None
