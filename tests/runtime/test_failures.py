"""What fails around jobs and must not take others with it: records, leases, checkpoints, disks, the store's answers."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from image_service import Service
from support import ServiceProcess, mentions, publish_dataset, publish_model, wait_for

from parfocal import v1
from parfocal.runtime.errors import ConflictError, DamagedError, NotFoundError, UnavailableError
from parfocal.runtime.jobs.lease import Lease
from parfocal.runtime.jobs.records import FINAL_STATES, JobStore
from parfocal.runtime.store.manifests import MODEL_MANIFEST, ModelManifest
from parfocal.runtime.store.patient import PatientStore
from parfocal.runtime.store.store import Location, Store
from parfocal.runtime.store.verdicts import VERDICT_FILE, newest_verdict

SLOW = {"epochs": 1000, "pause_seconds": 0.05}


@pytest.fixture(scope="module")
def service(
    start_service: Callable[..., ServiceProcess], s3: Any, pairs_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    state = tmp_path_factory.mktemp("state")
    process = start_service("fake", checkpoint_seconds="0", state_dir=str(state))
    with grpc.insecure_channel(process.address) as channel:
        yield Service(process, channel, publish_dataset(s3.store(), "failures", pairs_folder))


def ended(service: Service, job: v1.Job) -> v1.Job:
    get = v1.GetJobRequest(job_id=job.id, project=job.project)
    wait_for(lambda: service.jobs.GetJob(get).job.state in FINAL_STATES, 60, "the end of the job")
    return service.jobs.GetJob(get).job


def test_a_damaged_record_holds_up_no_other_job(service: Service, store: Store) -> None:
    first = service.start_training(**SLOW)
    damaged, third = service.start_training(), service.start_training()
    wait_for(lambda: service.state_of(first) == v1.JOB_STATE_RUNNING, 30, "the first job")
    place = JobStore(store).folder("default", damaged.id) / "job.json"
    whole = store.read(place)
    store.write(place, whole[: len(whole) // 2])
    service.drop(first)
    assert ended(service, third).state == v1.JOB_STATE_SUCCEEDED
    store.write(place, whole)


def test_an_ended_job_that_names_no_place_of_the_store_holds_up_no_other_job(service: Service, store: Store) -> None:
    odd = v1.Job(id="odd", project="default", service="fake", state=v1.JOB_STATE_SUCCEEDED)
    odd.training.method = "fake-2d"
    odd.finished_at.FromSeconds(1_700_000_000)
    JobStore(store).create(odd, "")
    wait_for(lambda: "job odd is left out" in service.process.log.read_text(), 60, "the service to look at it")
    assert ended(service, service.start_training()).state == v1.JOB_STATE_SUCCEEDED


def test_the_damaged_record_of_a_running_job_frees_the_device(service: Service, store: Store) -> None:
    damaged = service.start_training(**SLOW)
    wait_for(lambda: service.state_of(damaged) == v1.JOB_STATE_RUNNING, 30, "the job")
    place = JobStore(store).folder("default", damaged.id) / "job.json"
    store.write(place, b"{")
    assert ended(service, service.start_training()).state == v1.JOB_STATE_SUCCEEDED


def test_a_worker_that_cannot_be_started_fails_its_job_and_no_other(
    service: Service, store: Store, pairs_folder: Path, tmp_path: Path
) -> None:
    project = f"p{uuid.uuid4().hex[:8]}"
    logs = Path(service.process.environment["PARFOCAL_STATE_DIR"]) / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    (logs / project).write_text("in the way of the folder of logs")
    spec = v1.TrainingSpec(
        method="fake-2d", dataset_uri=publish_dataset(store, "own", pairs_folder, project), model="never"
    )
    request = v1.StartJobRequest(training=spec, project=project, request_id=uuid.uuid4().hex)
    job = ended(service, service.jobs.StartJob(request).job)
    assert job.state == v1.JOB_STATE_FAILED
    assert "No worker" in job.error.text
    assert ended(service, service.start_training()).state == v1.JOB_STATE_SUCCEEDED


def test_a_damaged_checkpoint_is_passed_over(service: Service, store: Store) -> None:
    job = service.start_training(**SLOW | {"epochs": 30})
    folder = JobStore(store).folder("default", job.id) / "checkpoints"

    def whole() -> list[Location]:
        names = (item.location for item in store.objects(folder) if item.location.name == "complete.json")
        return sorted((place.parent for place in names), key=lambda place: place.name)

    wait_for(lambda: len(whole()) == 2, 30, "two checkpoints")
    service.drop(job)
    newest = whole()[-1]
    store.write(newest / "weights.npz", store.read(newest / "weights.npz")[:100])
    service.jobs.ResumeJob(v1.ResumeJobRequest(job_id=job.id))
    job = ended(service, job)
    assert job.state == v1.JOB_STATE_SUCCEEDED, job.error.text
    (warning,) = (text for text in job.warnings if "checkpoint" in text)
    assert f"after epoch {int(newest.name.partition('-')[2])} cannot be used" in warning


def test_a_lost_event_ends_no_watching(service: Service, store: Store) -> None:
    job = ended(service, service.start_training())
    events = JobStore(store).folder("default", job.id) / "events"
    store.delete(events / "00000003.json")
    store.write(events / "00000004.json", b"{")
    answers = service.jobs.WatchJob(v1.WatchJobRequest(job_id=job.id), timeout=30)
    seen = [answer.event.sequence for answer in answers if answer.HasField("event")]
    assert seen == [number for number in range(1, job.last_sequence + 1) if number not in {3, 4}]


def test_a_damaged_cancel_mark_is_none(store: Store) -> None:
    jobs, job = JobStore(store), v1.Job(id=uuid.uuid4().hex, project="marks", attempt=1)
    jobs.mark_cancelled(job, 1, keep_best=False, why="no")
    assert jobs.cancel_mark(job) is not None
    for content in (b'{"kee', b"[]", b'{"why": ""}'):
        store.write(jobs.folder("marks", job.id) / "cancel-0001", content)
        assert jobs.cancel_mark(job) is None


class LosesAnswers(Store):
    """A store whose next writes succeed although nobody is told."""

    lost = 0

    def create(self, location: Location, data: bytes) -> str:
        return self._answered(super().create(location, data))

    def replace(self, location: Location, data: bytes, etag: str) -> str:
        return self._answered(super().replace(location, data, etag))

    def _answered(self, etag: str) -> str:
        if self.lost:
            self.lost -= 1
            raise UnavailableError("no answer")
        return etag


def test_a_lease_whose_renewal_was_not_answered_is_still_held(store: Store) -> None:
    losing = LosesAnswers(store.settings)
    name = f"service-{uuid.uuid4().hex}"
    lease, other = Lease(losing, name, 60), Lease(losing, name, 60)
    assert lease.hold()
    assert not other.hold()
    losing.lost = 1
    with pytest.raises(UnavailableError):
        lease.hold()
    assert lease.hold()
    assert not other.hold()


def test_a_lease_whose_first_request_was_not_answered_is_held(store: Store) -> None:
    losing = LosesAnswers(store.settings)
    lease = Lease(losing, f"service-{uuid.uuid4().hex}", 60)
    losing.lost = 1
    with pytest.raises(UnavailableError):
        lease.hold()
    assert lease.hold()


@pytest.mark.parametrize("content", [b"{}", b"[]", b"{", b'{"until": "soon"}'])
def test_a_damaged_lease_is_free(store: Store, content: bytes) -> None:
    name = f"service-{uuid.uuid4().hex}"
    store.create(store.jobs / ".leases" / f"{name}.json", content)
    assert Lease(store, name, 60).hold()


class AnswersLate(PatientStore):
    """A patient store whose server does not answer the first time, but has done what it was asked for."""

    asked = 0

    def _put(self, location: Location, data: bytes, conditions: dict[str, str]) -> str:
        etag = super()._put(location, data, conditions)
        self.asked += 1
        if self.asked == 1:
            raise UnavailableError("no answer")
        return etag


def test_a_patient_store_knows_what_it_has_created(store: Store) -> None:
    place = store.jobs / "patience" / uuid.uuid4().hex
    late = AnswersLate(store.settings, seconds=20)
    late.create(place, b"mine")
    assert store.read(place) == b"mine"
    with pytest.raises(ConflictError):
        late.create(place, b"another")


def test_a_patient_store_waits_and_gives_up(store: Store) -> None:
    begin = time.monotonic()
    settings = store.settings.model_copy(update={"s3_endpoint": "http://127.0.0.1:9"})
    with pytest.raises(UnavailableError):
        PatientStore(settings, seconds=1).exists(store.jobs / "x")
    assert time.monotonic() - begin > 1
    with pytest.raises(NotFoundError):
        PatientStore(store.settings, seconds=20).read(store.jobs / "nothing")


def test_a_newer_manifest_is_read_or_named(store: Store, pairs_folder: Path) -> None:
    uri = publish_model(store, "newer", publish_dataset(store, "newer", pairs_folder))
    place = Location.parse(uri) / MODEL_MANIFEST
    content = store.read_json(place) | {"files": [{"name": "a", "size": 1, "sha256": "0", "colour": "red"}]}
    store.write(place, json.dumps(content | {"mood": "fine"}).encode())
    assert ModelManifest.read(store, place).entry("a") is not None
    store.write(place, json.dumps(content | {"schema_version": 99}).encode())
    with pytest.raises(DamagedError, match="newer version of Parfocal"):
        ModelManifest.read(store, place)
    store.write(place, b'{"project": 1')
    with pytest.raises(DamagedError) as caught:
        ModelManifest.read(store, place)
    assert "pydantic" not in caught.value.message


def test_a_damaged_verdict_hides_no_other(store: Store, pairs_folder: Path) -> None:
    model = Location.parse(publish_model(store, "verdicts", publish_dataset(store, "verdicts", pairs_folder)))
    store.write(model / "qc" / "one" / VERDICT_FILE, b'{"state": "passed", "created_at": "2026"}')
    for name, content in (("two", b"{"), ("three", b"[1]")):
        store.write(model / "qc" / name / VERDICT_FILE, content)
    assert newest_verdict(store, model).state == "passed"


def test_the_log_of_a_worker_is_named_with_its_path(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from parfocal.runtime.jobs.attempt import log_file; print(log_file())"]
    path = tmp_path / "job-1.log"
    with path.open("wb") as log:
        said = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, check=True, text=True).stdout
    assert mentions(said, str(path), platform.node())
    piped = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    assert piped.strip() == ""
