"""The steps of the workflows with a real store and a real service, without Prefect."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import publish_dataset, wait_for

from parfocal import v1
from parfocal.client import Client, requests
from parfocal.flows import _jobs, _work
from parfocal.flows._jobs import JobNotSucceededError, Run
from parfocal.runtime.errors import InvalidInputError, NotFoundError, QueueFullError, UnavailableError
from parfocal.runtime.images.files import Image, write_image


class Notes:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.starts: list[tuple[str, bool]] = []
        self.epochs: list[int] = []
        self.waits: list[str] = []

    def started(self, job: v1.Job, *, again: bool) -> None:
        self.starts.append((job.id, again))

    def progressed(self, job: v1.Job) -> None:
        pass

    def happened(self, _job: v1.Job, event: v1.JobEvent) -> None:
        if event.HasField("epoch_completed"):
            self.epochs.append(event.epoch_completed.epoch)

    def waiting(self, why: str) -> None:
        self.waits.append(why)


@pytest.fixture(scope="module")
def client(s3: Any, start_service: Callable[..., Any]) -> Iterator[Client]:
    service = start_service("fake", max_active_jobs="3")
    with Client(s3.client_settings, services=[service.address]) as client:
        yield client
    service.stop()


@pytest.fixture(scope="module")
def images(client: Client, pairs_folder: Path) -> str:
    return publish_dataset(client.store, "steps", pairs_folder)


@pytest.fixture
def run() -> Run:
    return Run(str(uuid.uuid4()))


@pytest.fixture
def notes() -> Notes:
    return Notes()


def train(client: Client, run: Run, notes: Notes, uri: str, **parameters: Any) -> v1.Job:
    return _work.train_model(
        client, run, notes, method="fake-2d", dataset_uri=uri, model="steps", parameters={"epochs": 2, **parameters}
    )


def broken(client: Client, folder: Path) -> str:
    """Publish a dataset whose images only the worker finds unusable."""
    for split in ("train", "test"):
        for role in ("source", "target"):
            for number in range(3):
                path = folder / split / role / f"{number}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_image(path, Image(pixels=np.full((32, 32), np.nan, np.float32), axes="YX", pixel_size=None))
    return publish_dataset(client.store, "broken", folder)


def test_training_reports_its_epochs(client: Client, images: str, run: Run, notes: Notes) -> None:
    job = train(client, run, notes, images)
    assert job.id == f"{run.id}-train"
    assert notes.epochs == [1, 2]


def test_a_repeated_training_step_returns_the_same_job(client: Client, images: str, run: Run, notes: Notes) -> None:
    first = train(client, run, notes, images)
    second = train(client, Run(run.id, attempt=2), notes, images)
    assert _work.model_uri_of(first) == _work.model_uri_of(second)
    assert notes.starts == [(first.id, False), (first.id, True)]
    assert second.attempt == 1


def test_a_failed_training_raises_the_words_of_the_job(client: Client, tmp_path: Path, run: Run, notes: Notes) -> None:
    with pytest.raises(JobNotSucceededError) as caught:
        train(client, run, notes, broken(client, tmp_path))
    assert caught.value.message == caught.value.job.error.text
    assert "finite" in caught.value.message or "NaN" in caught.value.message


def test_a_retried_run_continues_a_cancelled_training(client: Client, images: str, run: Run, notes: Notes) -> None:
    uri = images
    request_id = run.request_id("train")

    class CancelAtFirstEpoch(Notes):
        def happened(self, job: v1.Job, event: v1.JobEvent) -> None:
            super().happened(job, event)
            if self.epochs == [1]:
                client.cancel(request_id, why="test")

    with pytest.raises(JobNotSucceededError, match="cancelled"):
        train(client, run, CancelAtFirstEpoch(), uri, epochs=4, pause_seconds=0.2)
    job = train(client, Run(run.id, attempt=2), notes, uri, epochs=4, pause_seconds=0.2)
    assert job.state == v1.JOB_STATE_SUCCEEDED
    assert job.attempt == 2


def test_a_run_that_judges_follows_a_training_and_never_starts_one(
    client: Client, images: str, run: Run, notes: Notes
) -> None:
    with pytest.raises(NotFoundError):
        _jobs.ended_job(client, "nowhere", notes)
    request = requests.training_request("fake-2d", images, "steps", {"epochs": 2})
    job = client.start(request)
    assert _jobs.ended_job(client, job.id, notes).state == v1.JOB_STATE_SUCCEEDED
    assert notes.starts == [(job.id, True)]


def test_a_full_queue_is_waited_for(
    client: Client, images: str, run: Run, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_jobs, "_MAX_PAUSE_SECONDS", 0.5)

    def block() -> v1.Job | None:
        endless = {"epochs": 1000, "pause_seconds": 1.0}
        try:
            return client.start(requests.training_request("fake-2d", images, "blocker", endless))
        except QueueFullError:
            # The worker of an earlier test has not left yet.
            return None

    blockers = [wait_for(block, 60) for _ in range(3)]

    class Impatient(Notes):
        def waiting(self, why: str) -> None:
            super().waiting(why)
            if len(self.waits) == 1:
                for blocker in blockers:
                    client.cancel(blocker.id)

    impatient = Impatient()
    assert train(client, run, impatient, images).state == v1.JOB_STATE_SUCCEEDED
    assert "admits" in impatient.waits[0]


def test_predicting_a_split_gives_one_output_for_each_image(
    client: Client, images: str, run: Run, notes: Notes
) -> None:
    model_uri = _work.model_uri_of(train(client, run, notes, images))
    finished = _work.predict_images(client, run, notes, model_uri=model_uri, input_uri=images, split="test")
    assert sorted(image.input for image in finished.manifest.images) == ["field0.tif", "field1.tif", "field2.tif"]
    again = _work.predict_images(client, run, notes, model_uri=model_uri, input_uri=images, split="test")
    assert again.job.id == finished.job.id


def test_parts_of_a_prediction_are_merged_and_found_again(client: Client, images: str, run: Run, notes: Notes) -> None:
    model_uri = _work.model_uri_of(train(client, run, notes, images))
    where = {"model_uri": model_uri, "input_uri": images, "split": "test"}
    merged = _work.predict_images(client, run, notes, **where, parts=2)
    assert merged.manifest.parts == (run.request_id("predict-1of2"), run.request_id("predict-2of2"))
    for part in merged.manifest.parts:
        with pytest.raises(NotFoundError):
            client.catalog.entry("result", part)
    again = _work.predict_images(client, Run(run.id, attempt=2), notes, **where, parts=2)
    assert again.job.id == merged.job.id
    one = _work.predict_images(client, Run(f"{run.id}-one"), notes, **where)
    digests = [
        {entry.public_name: entry.sha256 for entry in each.manifest.files if entry.public_name.endswith(".tif")}
        for each in (merged, one)
    ]
    assert len(digests[0]) == 3
    assert digests[0] == digests[1]


def test_cancelling_the_jobs_of_a_run_leaves_those_of_others(client: Client, images: str, run: Run) -> None:
    mine = client.start(
        requests.training_request(
            "fake-2d", images, "mine", {"epochs": 1000, "pause_seconds": 1.0}, labels=dict(run.labels)
        )
    )
    assert _work.cancel_jobs(client, Run("another run"), "test") == []
    assert [job.id for job in _work.cancel_jobs(client, run, "test")] == [mine.id]
    assert client.wait(mine.id).state == v1.JOB_STATE_CANCELLED


def test_jobs_are_not_taken_for_cancelled_where_a_service_is_silent(client: Client, images: str, run: Run) -> None:
    with (
        Client(client.settings, services=[*client.addresses, "127.0.0.1:9"]) as other,
        pytest.raises(UnavailableError),
    ):
        _work.cancel_jobs(other, run, "test", patience_seconds=0.0)


def test_a_dataset_without_test_images_is_noted(
    client: Client, pairs_folder: Path, tmp_path: Path, notes: Notes
) -> None:
    shutil.copytree(pairs_folder / "train", tmp_path / "train")
    publish_dataset(client.store, "untested", tmp_path)
    checked = _work.check_dataset(client, client.method("fake-2d"), client.dataset_uri("untested"))
    assert not checked.has_test_images
    assert any("no test images" in note for note in checked.notes)


def test_too_few_images_are_refused_with_both_numbers(client: Client, pairs_folder: Path, tmp_path: Path) -> None:
    for role in ("source", "target"):
        (tmp_path / "train" / role).mkdir(parents=True)
        shutil.copy(pairs_folder / "train" / role / "field0.tif", tmp_path / "train" / role)
    publish_dataset(client.store, "single", tmp_path)
    with pytest.raises(InvalidInputError, match=r"1 training image;.*Fake 2D.* 2\b"):
        _work.check_dataset(client, client.method("fake-2d"), client.dataset_uri("single"))
