"""Snapshots of a store in use: whole whatever happens meanwhile, cheap to repeat, checked before they are restored."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import S3Server, publish_dataset, publish_images, publish_model, wait_for

from parfocal import v1
from parfocal.runtime.errors import DamagedError, NotFoundError, PreconditionError
from parfocal.runtime.jobs.records import JobStore, set_running, set_state
from parfocal.runtime.store.backup.restoring import restore
from parfocal.runtime.store.backup.saving import save
from parfocal.runtime.store.backup.snapshot import INDEX, check, names_others
from parfocal.runtime.store.manifests import DATASET_MANIFEST, MODEL_MANIFEST, RESULT_MANIFEST, Manifest
from parfocal.runtime.store.store import Location, Store


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A store with data of its own."""
    server = S3Server(tmp_path_factory.mktemp("full"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A store to restore into."""
    server = S3Server(tmp_path_factory.mktemp("empty"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def published(full: S3Server, pairs_folder: Path) -> dict[str, str]:
    """What is published in the full store: addresses of a dataset, a model and a result."""
    store = full.store()
    dataset = publish_dataset(store, "pairs", pairs_folder)
    images = publish_images(store, pairs_folder / "test" / "target")
    return {"dataset": dataset, "model": publish_model(store, "m", dataset), "result": images}


def whole(folder: Path) -> int:
    """Return the number of manifests in a snapshot; every file that one of them lists must be there."""
    count = 0
    for name in (DATASET_MANIFEST, MODEL_MANIFEST, RESULT_MANIFEST):
        for path in folder.rglob(name):
            files = json.loads(path.read_text("utf-8"))["files"]
            missing = [file["name"] for file in files if not (path.parent / file["name"]).is_file()]
            assert not missing, path
            count += 1
    return count


def test_manifests_that_appear_meanwhile_are_never_without_their_files(
    full: S3Server, published: dict[str, str], pairs_folder: Path, tmp_path: Path
) -> None:
    store, stop, made = full.store(), threading.Event(), []

    def go_on() -> None:
        while not stop.is_set():
            made.append(publish_images(store, pairs_folder / "train" / "source"))

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        wait_for(lambda: made, what="the first result")
        before = len(made)
        saved = save(full.store(), tmp_path)
        after = len(made)
    finally:
        stop.set()
        thread.join()
    assert after > before, "nothing was published meanwhile"
    assert whole(saved.folder) >= len(published) + before
    assert check(saved.folder) == saved.snapshot


@pytest.mark.parametrize(
    ("key", "first"),
    [
        ("p/beads/1/dataset.json", True),
        ("p/m/1/qc/job/verdict.json", True),
        ("p/.drafts/d/images/k.json", True),
        ("p/_batches/nightly/ended/k.json", True),
        ("p/.trash/beads/1/deleted.json", True),
        ("p/.drafts/d/files/0", False),
        ("p/m/1/a0001/config.json", False),
        ("p/m/1/claim.json", False),
    ],
)
def test_what_names_others_is_copied_before_them(key: str, first: bool) -> None:
    assert names_others(Location("bucket", key)) == first


def test_a_running_job_is_kept_as_it_was_at_one_moment(full: S3Server, tmp_path: Path) -> None:
    jobs = JobStore(full.store())
    job = jobs.create(v1.Job(id="running-1", project="kept", service="fake", attempt=1), "0").job
    jobs.change("kept", job.id, set_running)
    stop = threading.Event()

    def train() -> None:
        epoch = 0
        while not stop.is_set():
            epoch += 1
            name = f"0001-{epoch:06d}"
            jobs.store.write(jobs.folder("kept", job.id) / "checkpoints" / name / "complete.json", b"{}")

            def keep(stored: v1.Job, name: str = name) -> v1.JobEvent:
                stored.checkpoints[:] = [*stored.checkpoints[-1:], name]
                return set_state(stored, v1.JOB_STATE_RUNNING, name)

            jobs.change("kept", job.id, keep)
            for old in jobs.store.folders(jobs.folder("kept", job.id) / "checkpoints"):
                if old not in (name, f"0001-{epoch - 1:06d}"):
                    jobs.store.delete(jobs.folder("kept", job.id) / "checkpoints" / old / "complete.json")
            stop.wait(0.5)

    thread = threading.Thread(target=train)
    thread.start()
    try:
        wait_for(lambda: jobs.read("kept", job.id).job.last_sequence > 4, what="checkpoints")
        saved = save(full.store(), tmp_path)
    finally:
        stop.set()
        thread.join()
    folder = saved.folder / jobs.store.jobs.bucket / "kept" / job.id
    stored = json.loads((folder / "job.json").read_text("utf-8"))["job"]
    assert stored["checkpoints"]
    assert {path.name for path in (folder / "checkpoints").iterdir()} >= set(stored["checkpoints"])
    numbers = [int(path.stem) for path in (folder / "events").iterdir()]
    assert sorted(numbers) == [*range(1, len(numbers) + 1)]
    assert len(numbers) in (int(stored["lastSequence"]), int(stored["lastSequence"]) - 1)


def test_the_second_snapshot_costs_what_is_new_and_the_first_may_go(
    full: S3Server, published: dict[str, str], tmp_path: Path
) -> None:
    first = save(full.store(), tmp_path)
    publish_model(full.store(), "m", published["dataset"])
    # Snapshots are named by the second.
    wait_for(lambda: not _same_second(first.folder), what="the next second")
    second = save(full.store(), tmp_path)
    assert second.copied <= 4, "the manifest and the claim of the model, and records of jobs with checkpoints"
    shutil.rmtree(first.folder)
    assert check(second.folder).objects.keys() > first.snapshot.objects.keys()


def _same_second(folder: Path) -> bool:
    from datetime import UTC, datetime

    return folder.name == f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}Z"


def test_a_restored_store_has_everything_and_the_marks_of_open_jobs(
    full: S3Server, empty: S3Server, published: dict[str, str], tmp_path: Path
) -> None:
    jobs = JobStore(full.store())
    jobs.create(v1.Job(id="waiting-1", project="kept", service="fake"), "0")
    full.store().create(full.store().jobs / ".leases" / "fake.json", b"{}")
    saved = save(full.store(), tmp_path)
    target = empty.store()
    restore(target, saved.folder)

    def names(store: Store) -> set[str]:
        roots = (store.datasets, store.models, store.results, store.jobs)
        return {str(item.location) for root in roots for item in store.objects(root)}

    assert names(full.store()) - names(target) == {"s3://parfocal-jobs/.leases/fake.json"}
    assert ("kept", "waiting-1") in JobStore(target).open_jobs("fake")
    place = Location.parse(published["dataset"])
    manifest = Manifest.read(target, place / DATASET_MANIFEST)
    for file in manifest.files:
        assert target.read(place / file.name) == full.store().read(place / file.name)
    with pytest.raises(PreconditionError, match="not empty"):
        restore(target, saved.folder)


@pytest.mark.usefixtures("published")
def test_what_is_damaged_is_named_before_anything_is_written(
    full: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = save(full.store(), tmp_path)
    first, second, *_ = (name for name in saved.snapshot.objects if name.endswith(".tif"))
    path = saved.folder / first
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    (saved.folder / second).unlink()
    written: list[Any] = []
    monkeypatch.setattr(Store, "upload", lambda *_: written.append(_))
    monkeypatch.setattr("parfocal.runtime.store.backup.restoring._check_buckets", lambda *_: None)
    with pytest.raises(DamagedError) as caught:
        restore(full.store(), saved.folder)
    assert first in caught.value.message
    assert second in caught.value.message
    assert not written
    with pytest.raises(NotFoundError, match=INDEX):
        check(tmp_path)


@pytest.mark.usefixtures("published")
def test_the_command_says_what_it_has_done_or_why_not(full: S3Server, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "parfocal.runtime.store.backup"]

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *map(str, arguments)],
            env={**os.environ, **full.environment},
            capture_output=True,
            text=True,
            check=False,
        )

    ended = run("save", tmp_path / "b")
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert json.loads(run("check", told["snapshot"]).stdout)["objects"] == told["objects"] > 10
    refused = run("restore", told["snapshot"])
    assert refused.returncode == 1
    assert "not empty" in refused.stderr
    assert "Traceback" not in refused.stderr
