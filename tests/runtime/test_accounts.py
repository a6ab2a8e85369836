"""What projects may use, and what they are told they have used."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from parfocal import v1
from parfocal.runtime.access.policy import Limits
from parfocal.runtime.errors import ParfocalError, QueueFullError, QuotaError
from parfocal.runtime.jobs import accounts as account_module
from parfocal.runtime.jobs.accounts import Accounts
from parfocal.runtime.jobs.records import JobStore

HOUR = 3600 * 10**9
NOVEMBER = 1_795_000_000 * 10**9


@pytest.fixture
def project() -> str:
    return f"p-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def accounts(store: Any) -> Accounts:
    return Accounts(JobStore(store))


def ended(project: str, job_id: str, hours: float, paused: float = 0.0) -> v1.Job:
    job = v1.Job(id=job_id, project=project, service="fake", created_by="ann", state=v1.JOB_STATE_SUCCEEDED)
    job.training.method = "fake-2d"
    job.started_at.FromNanoseconds(NOVEMBER)
    job.finished_at.FromNanoseconds(NOVEMBER + int((hours + paused) * HOUR))
    job.paused.FromNanoseconds(int(paused * HOUR))
    return job


def test_services_that_are_asked_at_once_do_not_overshoot_together(store: Any, project: str) -> None:
    limits = Limits(active_jobs=3)
    services = [Accounts(JobStore(store)) for _ in range(2)]

    def reserve(number: int) -> str:
        try:
            services[number % 2].reserve(project, f"job-{number}", user="ann", service="fake", limits=limits)
        except ParfocalError as error:
            return error.reason
        return "reserved"

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(reserve, range(8)))
    assert sorted(found) == ["QUEUE_FULL"] * 5 + ["reserved"] * 3
    assert len(services[0].read(project).active) == 3


def test_each_user_has_places_of_their_own_and_is_told_how_many(accounts: Accounts, project: str) -> None:
    limits = Limits(active_jobs_per_user=1)
    accounts.reserve(project, "a", user="ann", service="fake", limits=limits)
    accounts.reserve(project, "a", user="ann", service="fake", limits=limits)
    accounts.reserve(project, "b", user="bob", service="fake", limits=limits)
    with pytest.raises(QueueFullError, match="ann has 1"):
        accounts.reserve(project, "c", user="ann", service="fake", limits=limits)
    accounts.release(project, "a")
    accounts.reserve(project, "c", user="ann", service="fake", limits=limits)


def test_a_job_is_counted_once_without_pauses_and_goes_on_where_it_was(accounts: Accounts, project: str) -> None:
    accounts.reserve(project, "a", user="ann", service="fake")
    for _ in range(2):
        accounts.settle(ended(project, "a", 1.0))
    accounts.reserve(project, "a", user="ann", service="fake", billed=3600.0)
    accounts.settle(ended(project, "a", 1.5, paused=20.0))
    account = accounts.read(project)
    assert not account.active
    ((month, users),) = account.months.items()
    assert month == "2026-11"
    assert users["ann"]["fake"].jobs == 2
    assert users["ann"]["fake"].device_seconds == pytest.approx(1.5 * 3600)


def test_quality_control_needs_no_device(accounts: Accounts, project: str) -> None:
    job = ended(project, "a", 2.0)
    job.evaluation.method = "judge"
    accounts.reserve(project, "a", user="ann", service="qc")
    accounts.settle(job)
    assert accounts.read(project).months["2026-11"]["ann"]["qc"].device_seconds == 0


def test_hours_that_are_used_up_are_said(accounts: Accounts, project: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_module.time, "time", lambda: NOVEMBER / 1e9 + 60)
    accounts.reserve(project, "a", user="ann", service="fake")
    accounts.settle(ended(project, "a", 2.0))
    accounts.reserve(project, "b", user="ann", service="fake", limits=Limits(device_hours_per_month=2.5))
    with pytest.raises(QuotaError, match=r"2\.0 of its 2 hours"):
        accounts.reserve(project, "c", user="bob", service="fake", limits=Limits(device_hours_per_month=2))


def test_what_a_crash_has_left_reserved_is_given_back_when_it_is_needed(
    accounts: Accounts, project: str, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(active_jobs=2)
    jobs = JobStore(store)
    accounts.reserve(project, "never-admitted", user="ann", service="fake")
    accounts.reserve(project, "ended", user="ann", service="fake")
    jobs.create(ended(project, "ended", 1.0), "")

    def finish(job: v1.Job) -> None:
        job.state = v1.JOB_STATE_SUCCEEDED
        job.finished_at.FromNanoseconds(NOVEMBER + HOUR)

    jobs.change(project, "ended", finish)
    accounts.reserve(project, "new", user="ann", service="fake", limits=limits)
    assert set(accounts.read(project).active) == {"never-admitted", "new"}
    with pytest.raises(QueueFullError):
        accounts.reserve(project, "newer", user="ann", service="fake", limits=limits)
    monkeypatch.setattr(account_module, "_ADMISSION_SECONDS", 0.0)
    # A job without a record that was reserved long ago was never admitted.
    accounts.reserve(project, "newer", user="ann", service="fake", limits=limits)
    assert set(accounts.read(project).active) == {"newer"}
