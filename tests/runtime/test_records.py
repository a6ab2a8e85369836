"""Job records: numbered events, one truth, no stale writer. Against a real S3 server."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from parfocal import v1
from parfocal.runtime.errors import DamagedError, NotFoundError, PreconditionError, StaleWorkerError, UnavailableError
from parfocal.runtime.jobs.records import JobStore, set_state
from parfocal.runtime.store import Store


@pytest.fixture
def jobs(store: Store) -> JobStore:
    return JobStore(store)


@pytest.fixture
def job(jobs: JobStore) -> v1.Job:
    record = jobs.create(v1.Job(id=uuid.uuid4().hex, project="records", attempt=1), "digest")
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


def test_a_worker_of_an_older_attempt_is_refused(jobs: JobStore, job: v1.Job) -> None:
    with pytest.raises(StaleWorkerError):
        jobs.change("records", job.id, lambda _: warn("late"), attempt=0)


def test_a_worker_of_an_ended_job_is_refused(jobs: JobStore, job: v1.Job) -> None:
    jobs.change("records", job.id, lambda job: set_state(job, v1.JOB_STATE_CANCELLED, "enough"))
    with pytest.raises(StaleWorkerError):
        jobs.change("records", job.id, lambda _: warn("late"), attempt=1)


def test_a_cancel_mark_is_for_one_attempt(jobs: JobStore, job: v1.Job) -> None:
    jobs.mark_cancelled(job, keep_best=True, why="enough")
    assert jobs.cancel_mark(job) == {"attempt": 1, "keep_best": True, "why": "enough"}
    job.attempt = 2
    assert jobs.cancel_mark(job) is None


def test_a_working_job_is_not_deleted(jobs: JobStore, job: v1.Job) -> None:
    running = jobs.read("records", job.id).job
    with pytest.raises(PreconditionError):
        jobs.delete(running)


def test_an_unknown_job_is_not_found(jobs: JobStore) -> None:
    with pytest.raises(NotFoundError, match="no job 'nothing'"):
        jobs.read("records", "nothing")


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"job": {"state": 1.5}}'])
def test_a_damaged_record_is_reported_and_hides_no_other(jobs: JobStore, job: v1.Job, content: bytes) -> None:
    damaged = jobs.create(v1.Job(id=uuid.uuid4().hex, project="records", attempt=1), "digest").job
    jobs.store.write(jobs.folder("records", damaged.id) / "job.json", content)
    with pytest.raises(DamagedError, match=damaged.id):
        jobs.read("records", damaged.id)
    known = {found.id for found in jobs.all_jobs("records")}
    assert job.id in known
    assert damaged.id not in known


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
