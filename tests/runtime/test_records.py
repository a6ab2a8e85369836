"""Job records: numbered events, one truth, no stale writer. Against a real S3 server."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from parfocal import v1
from parfocal.runtime.errors import (
    DamagedError,
    InvalidParameterError,
    NotFoundError,
    PreconditionError,
    StaleWorkerError,
    UnavailableError,
)
from parfocal.runtime.jobs.records import JobStore, set_state
from parfocal.runtime.store.store import Store


@pytest.fixture
def jobs(store: Store) -> JobStore:
    return JobStore(store)


@pytest.fixture
def job(jobs: JobStore) -> v1.Job:
    record = jobs.create(v1.Job(id=uuid.uuid4().hex, project="records", service="mine", attempt=1), "digest")
    jobs.change("records", record.job.id, lambda job: set_state(job, v1.JOB_STATE_RUNNING, "go"))
    return record.job


def warn(text: str) -> v1.JobEvent:
    return v1.JobEvent(warning=v1.Warning(text=text))


def test_events_are_numbered_without_gaps_by_any_number_of_writers(jobs: JobStore, job: v1.Job) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: jobs.change("records", job.id, lambda _: warn(str(n))), range(12)))
    record = jobs.read("records", job.id)
    events = list(jobs.events(record, 0))
    assert [event.sequence for event in events] == list(range(1, 15))
    assert {event.warning.text for event in events[2:]} == {str(n) for n in range(12)}


def test_an_event_lost_between_the_two_writes_is_still_reported(jobs: JobStore, job: v1.Job) -> None:
    jobs.change("records", job.id, lambda _: warn("kept"))
    record = jobs.read("records", job.id)
    place = jobs.folder("records", job.id) / "events" / f"{record.job.last_sequence:08d}.json"
    jobs.store.delete(place)
    assert [event.warning.text for event in jobs.events(record, record.job.last_sequence - 1)] == ["kept"]
    jobs.change("records", job.id, lambda _: warn("next"))
    assert jobs.store.exists(place), "the next change repairs the gap"


def test_events_of_one_change_are_found_each_also_before_they_have_objects(jobs: JobStore, job: v1.Job) -> None:
    jobs.change("records", job.id, lambda _: [warn("a"), warn("b"), warn("c")], attempt=1)
    record = jobs.read("records", job.id)
    assert [event.sequence for event in record.events] == [3, 4, 5]
    events = jobs.folder("records", job.id) / "events"
    for number in (4, 5):  # the worker was killed after the first one
        jobs.store.delete(events / f"{number:08d}.json")
    assert [event.warning.text for event in jobs.events(record, 2)] == ["a", "b", "c"]
    JobStore(jobs.store).change("records", job.id, lambda _: warn("next"))
    assert [event.warning.text for event in jobs.events(jobs.read("records", job.id), 2)] == ["a", "b", "c", "next"]


def test_a_worker_reads_the_record_of_its_job_once(jobs: JobStore, job: v1.Job, reads: list[str]) -> None:
    for text in ("one", "two", "three"):
        jobs.change("records", job.id, lambda _, text=text: warn(text), attempt=1).message = "not stored"
    assert reads == [job.id]
    # Somebody else was faster: nothing of that is lost, and a job that was ended is left alone.
    JobStore(jobs.store).change("records", job.id, lambda _: warn("theirs"))
    jobs.change("records", job.id, lambda _: warn("mine"), attempt=1)
    record = jobs.read("records", job.id)
    texts = [event.warning.text for event in jobs.events(record, 2)]
    assert (texts, record.job.message) == (["one", "two", "three", "theirs", "mine"], "go")
    JobStore(jobs.store).change("records", job.id, lambda job: set_state(job, v1.JOB_STATE_CANCELLED, "enough"))
    with pytest.raises(StaleWorkerError):
        jobs.change("records", job.id, lambda _: warn("late"), attempt=1)


@pytest.mark.parametrize("others", [0, 1, 2])
def test_events_whose_answer_was_lost_are_not_reported_twice(
    jobs: JobStore, job: v1.Job, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    jobs.change("records", job.id, lambda _: warn("first"), attempt=1)
    replace, lost = jobs.store.replace, []

    def answer_lost(*arguments: Any) -> str:
        etag = replace(*arguments)
        if not lost:
            lost.append(etag)
            # Before the worker looks again, others report something too.
            for number in range(others):
                jobs.change("records", job.id, lambda _, number=number: warn(f"other {number}"))
            raise UnavailableError("The store does not answer.")
        return etag

    monkeypatch.setattr(jobs.store, "replace", answer_lost)
    jobs.change("records", job.id, lambda _: [warn("a"), warn("b")], attempt=1, patience_seconds=30)
    assert lost
    events = [event.warning.text for event in jobs.events(jobs.read("records", job.id), 2)]
    assert events == ["first", "a", "b", *(f"other {number}" for number in range(others))]


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_a_repeated_request_with_a_number_that_is_none_is_the_callers_mistake(
    jobs: JobStore, job: v1.Job, number: float
) -> None:
    # Found by `python -m fuzz`: the job exists, so its digest is compared before the parameters are looked at.
    request = v1.StartJobRequest(project="records", request_id=job.id)
    request.training.parameters.update({"seed": number})
    with pytest.raises(InvalidParameterError, match="finite"):
        jobs.repeated(request)


def test_a_worker_of_an_older_attempt_is_refused(jobs: JobStore, job: v1.Job) -> None:
    with pytest.raises(StaleWorkerError):
        jobs.change("records", job.id, lambda _: warn("late"), attempt=0)


def test_a_worker_of_an_ended_job_is_refused(jobs: JobStore, job: v1.Job) -> None:
    jobs.change("records", job.id, lambda job: set_state(job, v1.JOB_STATE_CANCELLED, "enough"))
    with pytest.raises(StaleWorkerError):
        jobs.change("records", job.id, lambda _: warn("late"), attempt=1)


def test_a_cancel_mark_is_for_one_attempt(jobs: JobStore, job: v1.Job) -> None:
    jobs.mark_cancelled(job, 1, keep_best=True, why="enough")
    assert jobs.cancel_mark(job) == {"keep_best": True, "why": "enough"}
    job.attempt = 2
    assert jobs.cancel_mark(job) is None


def test_a_working_job_is_not_deleted(jobs: JobStore, job: v1.Job) -> None:
    with pytest.raises(PreconditionError):
        jobs.delete("records", job.id)


def test_an_unknown_job_is_not_found(jobs: JobStore) -> None:
    with pytest.raises(NotFoundError, match="'nothing'"):
        jobs.read("records", "nothing")


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"job": {"state": 1.5}}'])
def test_a_damaged_record_is_reported_and_hides_no_other(jobs: JobStore, job: v1.Job, content: bytes) -> None:
    damaged = jobs.create(v1.Job(id=uuid.uuid4().hex, project="records", service="mine", attempt=1), "digest").job
    jobs.store.write(jobs.folder("records", damaged.id) / "job.json", content)
    with pytest.raises(DamagedError, match=damaged.id):
        jobs.read("records", damaged.id)
    known = {found.job_id for found in jobs.jobs_of("mine", "records")}
    assert job.id in known
    assert damaged.id not in known


def test_folders_that_others_put_into_the_store_hide_no_job(jobs: JobStore, job: v1.Job) -> None:
    # Programs that mirror folders leave some of their own.
    for place in (jobs.store.jobs / "@eaDir" / "x", jobs.store.jobs / "records" / "Bär und Co."):
        jobs.store.write(place / "job.json", b"{}")
    assert "records" in jobs.projects()
    assert "@eaDir" not in jobs.projects()
    assert job.id in {found.job_id for found in jobs.jobs_of("mine", "records")}


def ended(jobs: JobStore, project: str, service: str = "mine") -> v1.Job:
    job = jobs.create(v1.Job(id=uuid.uuid4().hex, project=project, service=service), "digest").job
    return jobs.change(project, job.id, lambda job: set_state(job, v1.JOB_STATE_FAILED, "no"))


def listed(jobs: JobStore, project: str, **options: bool) -> dict[str, v1.JobState.ValueType]:
    return {found.job_id: found.state for found in jobs.jobs_of("mine", project, remember=True, **options)}


@pytest.fixture
def reads(jobs: JobStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the jobs whose records have been read."""
    read, ids = jobs.read, []

    def count(project: str, job_id: str) -> Any:
        ids.append(job_id)
        return read(project, job_id)

    monkeypatch.setattr(jobs, "read", count)
    return ids


def test_a_list_reads_ended_jobs_and_those_of_other_services_once(jobs: JobStore, reads: list[str]) -> None:
    project = uuid.uuid4().hex
    failed = ended(jobs, project)
    foreign = jobs.create(v1.Job(id="foreign", project=project, service="other"), "digest").job
    queued = jobs.create(v1.Job(id="queued", project=project, service="mine"), "digest").job
    states = {failed.id: v1.JOB_STATE_FAILED, queued.id: v1.JOB_STATE_QUEUED}
    assert listed(jobs, project) == states
    reads.clear()
    assert listed(jobs, project) == states
    assert reads == [queued.id]
    assert foreign.id not in states
    jobs.forget_all()
    assert listed(jobs, project) == states
    assert set(reads) == {failed.id, foreign.id, queued.id}


def test_a_list_shows_what_became_of_an_ended_job(jobs: JobStore) -> None:
    project = uuid.uuid4().hex
    job = ended(jobs, project)
    assert listed(jobs, project)[job.id] == v1.JOB_STATE_FAILED
    jobs.change(project, job.id, lambda job: set_state(job, v1.JOB_STATE_QUEUED, "resumed"))
    assert listed(jobs, project)[job.id] == v1.JOB_STATE_QUEUED
    job = jobs.change(project, job.id, lambda job: set_state(job, v1.JOB_STATE_CANCELLED, "enough"))
    assert listed(jobs, project)[job.id] == v1.JOB_STATE_CANCELLED
    jobs.delete(project, job.id)
    assert listed(jobs, project) == {}
    jobs.create(v1.Job(id=job.id, project=project, service="mine"), "digest")
    assert listed(jobs, project)[job.id] == v1.JOB_STATE_QUEUED


def test_a_job_resumed_while_a_list_reads_it_is_not_remembered_as_ended(
    jobs: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = uuid.uuid4().hex
    job = ended(jobs, project)
    read = jobs.read

    def resumed_after_reading(project: str, job_id: str) -> Any:
        monkeypatch.setattr(jobs, "read", read)
        record = read(project, job_id)
        jobs.change(project, job_id, lambda job: set_state(job, v1.JOB_STATE_QUEUED, "resumed"))
        return record

    monkeypatch.setattr(jobs, "read", resumed_after_reading)
    listed(jobs, project)
    assert listed(jobs, project) == {job.id: v1.JOB_STATE_QUEUED}


def test_the_next_page_does_not_ask_for_newer_jobs_but_misses_deleted_ones(jobs: JobStore) -> None:
    project = uuid.uuid4().hex
    first, second = ended(jobs, project), ended(jobs, project)
    listed(jobs, project)
    newer = ended(jobs, project)
    jobs.delete(project, first.id)
    assert list(listed(jobs, project, further=True)) == [second.id]
    assert set(listed(jobs, project)) == {second.id, newer.id}


def test_an_instance_that_does_not_run_the_jobs_remembers_none(jobs: JobStore, reads: list[str]) -> None:
    project = uuid.uuid4().hex
    job = ended(jobs, project)
    for _ in range(2):
        reads.clear()
        assert [found.job_id for found in jobs.jobs_of("mine", project)] == [job.id]
        assert reads == [job.id]


def test_a_change_whose_answer_was_lost_is_not_made_twice(
    jobs: JobStore, job: v1.Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, lost = jobs.store.replace, []

    def lose_the_first_answer(*arguments: Any) -> str:
        etag = replace(*arguments)
        if not lost:
            lost.append(etag)
            raise UnavailableError("the connection broke after the write")
        return etag

    monkeypatch.setattr(jobs.store, "replace", lose_the_first_answer)
    jobs.change("records", job.id, lambda _: warn("once"), patience_seconds=10)
    texts = [event.warning.text for event in jobs.events(jobs.read("records", job.id), 0)]
    assert texts.count("once") == 1


def test_the_pause_of_a_resumed_job_is_taken_down() -> None:
    job = v1.Job(state=v1.JOB_STATE_RUNNING)
    for hours in (2, 3):
        set_state(job, v1.JOB_STATE_FAILED, "an error")
        job.finished_at.FromSeconds(job.finished_at.seconds - 3600 * hours)
        set_state(job, v1.JOB_STATE_QUEUED, "resumed")
        set_state(job, v1.JOB_STATE_RUNNING, "the worker starts")
    assert not job.HasField("finished_at")
    assert job.paused.ToTimedelta().total_seconds() == pytest.approx(5 * 3600, abs=5)
