"""What projects use: places for jobs that have not ended, and the time on devices by month.

```
jobs/.accounts/<project>.json     reservations and months; changed only by If-Match
```

A job is reserved here before it is admitted and settled after its end, each by one conditional write. So requests that
reach several services at once cannot overshoot a limit together, and no job is counted twice: only what is reserved can
be settled. What a crash leaves reserved is looked at when a limit is reached.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from parfocal import v1
from parfocal.runtime.access.policy import Limits
from parfocal.runtime.errors import (
    ConflictError,
    DamagedError,
    NotFoundError,
    QueueFullError,
    QuotaError,
    UnavailableError,
)
from parfocal.runtime.jobs.records import FINAL_STATES, JobStore, job_kind
from parfocal.runtime.store.names import check_name
from parfocal.runtime.store.store import Location

#: Without limits, as where there are no identities.
UNLIMITED: Final = Limits()
_FOLDER = ".accounts"
_ATTEMPTS = 60
# Far longer than the admission of a job takes.
_ADMISSION_SECONDS = 600.0
_ON_DEVICE = {v1.JOB_KIND_TRAINING, v1.JOB_KIND_PREDICTION}


class _Entry(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Reservation(_Entry):
    """A job that has not been settled.

    Attributes
    ----------
    user, service
        Who has made it, and which service runs it.
    since
        When it was reserved, in seconds since 1970.
    billed
        Seconds on the device that were settled before it was resumed.
    """

    user: str
    service: str
    since: float
    billed: float = 0.0


class Use(_Entry):
    """What one user has used of one service in one month: ended jobs, and seconds on the device."""

    jobs: int = 0
    device_seconds: float = 0.0


class Account(_Entry):
    """The account of a project: reservations by job, and use by month ("2026-11"), user and service."""

    active: dict[str, Reservation] = Field(default_factory=dict)
    months: dict[str, dict[str, dict[str, Use]]] = Field(default_factory=dict)

    def device_seconds(self, month: str) -> float:
        """Return the settled seconds on the device in a month."""
        return sum(use.device_seconds for services in self.months.get(month, {}).values() for use in services.values())


def device_seconds(job: v1.Job) -> float:
    """Return how long a training or prediction has been at work, without pauses before it was resumed; else 0."""
    if job_kind(job) not in _ON_DEVICE or not job.HasField("started_at"):
        return 0.0
    end = job.finished_at.ToNanoseconds() if job.HasField("finished_at") else time.time_ns()
    return max(0, end - job.started_at.ToNanoseconds() - job.paused.ToNanoseconds()) / 1e9


class Accounts:
    """The accounts of all projects. Safe to use from several threads and services."""

    def __init__(self, jobs: JobStore) -> None:
        self._jobs = jobs
        self._store = jobs.store

    def read(self, project: str) -> Account:
        """Return the account of a project."""
        return self._read(project)[0]

    def reserve(
        self, project: str, job_id: str, *, user: str, service: str, limits: Limits = UNLIMITED, billed: float = 0.0
    ) -> None:
        """Reserve a place for a job; one that is reserved already is left as it is.

        Parameters
        ----------
        user, service
            Who has made it, and which service runs it.
        limits
            What the project may use.
        billed
            Seconds on the device that were settled for it before.

        Raises
        ------
        QueueFullError
            The project, or the user in it, has as many jobs that have not ended as it may.
        QuotaError
            The project has used its hours of this month.
        """
        for account, etag in self._tries(project):
            if job_id in account.active:
                return
            problem = _over(account, user, limits) or self._over_hours(project, account, limits)
            if problem is not None:
                if not self._prune(project, account):
                    raise problem
            else:
                account.active[job_id] = Reservation(user=user, service=service, since=time.time(), billed=billed)
            if self._write(project, account, etag) and job_id in account.active:
                return

    def release(self, project: str, job_id: str) -> None:
        """Give back the place of a job that was not admitted."""
        for account, etag in self._tries(project):
            if account.active.pop(job_id, None) is None or self._write(project, account, etag):
                return

    def settle(self, job: v1.Job) -> None:
        """Give back the place of a job that has ended, and add what it used to the month of its end."""
        for account, etag in self._tries(job.project):
            if not _settle(account, job) or self._write(job.project, account, etag):
                return

    def _over_hours(self, project: str, account: Account, limits: Limits) -> QuotaError | None:
        if limits.device_hours_per_month is None:
            return None
        seconds = account.device_seconds(_month(time.time()))
        for job_id, reservation in account.active.items():
            try:
                seconds += max(0.0, device_seconds(self._jobs.read(project, job_id).job) - reservation.billed)
            except (NotFoundError, DamagedError):
                continue
        if seconds < 3600 * limits.device_hours_per_month:
            return None
        return QuotaError(
            f"The project {project!r} has used {seconds / 3600:.1f} of its {limits.device_hours_per_month:g} hours on "
            "devices this month, those of running jobs included. Wait for the next month, or ask whoever runs Parfocal "
            "for more."
        )

    def _prune(self, project: str, account: Account) -> bool:
        """Settle what has ended, and drop what was never admitted; return whether there was any."""
        changed = False
        for job_id, reservation in list(account.active.items()):
            try:
                job = self._jobs.read(project, job_id, deleting=True).job
            except NotFoundError:
                if time.time() - reservation.since > _ADMISSION_SECONDS:
                    del account.active[job_id]
                    changed = True
            except DamagedError:
                continue
            else:
                changed |= job.state in FINAL_STATES and _settle(account, job)
        return changed

    def _tries(self, project: str) -> Iterator[tuple[Account, str]]:
        """Yield the account as it stands, again and again as long as somebody else is faster."""
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(min(0.2, 0.005 * attempt))
            yield self._read(project)
        raise UnavailableError(f"The account of the project {project!r} is changed too often at the moment. Try again.")

    def _place(self, project: str) -> Location:
        return self._store.jobs / _FOLDER / f"{check_name('project', project)}.json"

    def _read(self, project: str) -> tuple[Account, str]:
        place = self._place(project)
        try:
            data, etag = self._store.read_versioned(place)
            return Account.model_validate_json(data), etag
        except NotFoundError:
            return Account(), ""
        except ValidationError as error:
            raise DamagedError(f"{place} cannot be read: restore it from a back-up, or remove it.") from error

    def _write(self, project: str, account: Account, etag: str) -> bool:
        """Store an account; return False if somebody else was faster."""
        place, data = self._place(project), account.model_dump_json().encode()
        try:
            if etag:
                self._store.replace(place, data, etag)
            else:
                self._store.create(place, data)
        except ConflictError:
            return False
        return True


def _over(account: Account, user: str, limits: Limits) -> QueueFullError | None:
    """Return why another job of this user would be one too many; None if it would not."""
    ask = "Try again when some have ended."
    if limits.active_jobs is not None and len(account.active) >= limits.active_jobs:
        return QueueFullError(
            f"The project has {len(account.active)} jobs that have not ended, and may have {limits.active_jobs}. {ask}"
        )
    own = sum(reservation.user == user for reservation in account.active.values())
    if limits.active_jobs_per_user is not None and own >= limits.active_jobs_per_user:
        return QueueFullError(
            f"{user} has {own} jobs in this project that have not ended, and may have "
            f"{limits.active_jobs_per_user}. {ask}"
        )
    return None


def _settle(account: Account, job: v1.Job) -> bool:
    reservation = account.active.pop(job.id, None)
    if reservation is None:
        return False
    month = account.months.setdefault(_month(job.finished_at.ToNanoseconds() / 1e9), {})
    use = month.setdefault(reservation.user, {}).setdefault(reservation.service, Use())
    use.jobs += 1
    use.device_seconds = round(use.device_seconds + max(0.0, device_seconds(job) - reservation.billed), 3)
    return True


def _month(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m")
