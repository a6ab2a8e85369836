"""Job records in the store: the truth about every job.

```
jobs/<project>/<job>/job.json                the job and its newest event; changed only by If-Match
                     cancel-<attempt>        the mark that asks the worker of an attempt to end
                     events/<sequence>.json  created once each
                     checkpoints/<attempt>-<epoch>/
                     previews/<attempt>-<epoch>/
jobs/.open/<service>/<project>/<job>         marks the jobs with which a service may have something left to do
```

The mark in `.open` is written before its job is queued and removed after the job has ended and was cleaned up. So
these few marks lead the instance that runs a service's jobs to every job that it has to do with, whoever queued it.

Events are first written into job.json together with the change they report, and only then as their own objects.
So one conditional write decides who may report at all (a stale worker loses it), and an event whose own object
was not written before a crash is still found in job.json. Whoever has made the newest change knows the record, and
makes the next one without reading it: if somebody else was faster, the conditional write says so.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from google.protobuf import json_format, timestamp_pb2

from parfocal import v1
from parfocal.runtime.errors import (
    AlreadyExistsError,
    ConflictError,
    DamagedError,
    InvalidParameterError,
    NotFoundError,
    PreconditionError,
    StaleWorkerError,
    Violation,
)
from parfocal.runtime.jobs.stored import Record, decode, encode
from parfocal.runtime.store.names import is_job_id, is_name, job_location
from parfocal.runtime.store.store import Location, Store, patiently

_log = logging.getLogger(__name__)
_OPEN = ".open"
FINAL_STATES = frozenset({v1.JOB_STATE_SUCCEEDED, v1.JOB_STATE_FAILED, v1.JOB_STATE_CANCELLED})
WORKING_STATES = frozenset({v1.JOB_STATE_RUNNING, v1.JOB_STATE_CANCELLING})
# After so long a job that was not stored may have lost its mark (`JobStore.abandon`).
_SLOW_SECONDS = 60.0


@dataclass(frozen=True)
class Listed:
    """A job of a list: what it is ordered and chosen by, and its message, packed."""

    job_id: str
    created_ns: int
    state: v1.JobState.ValueType
    packed: bytes

    @classmethod
    def of(cls, job: v1.Job) -> Listed:
        """Return a job as one of a list."""
        return cls(job.id, job.created_at.ToNanoseconds(), job.state, job.SerializeToString())

    @property
    def place(self) -> tuple[int, str]:
        """Where the job stands in order of time."""
        return self.created_ns, self.job_id

    def job(self) -> v1.Job:
        """Return the message."""
        return v1.Job.FromString(self.packed)


def now() -> timestamp_pb2.Timestamp:
    """Return the present time."""
    stamp = timestamp_pb2.Timestamp()
    stamp.GetCurrentTime()
    return stamp


def state_name(state: v1.JobState.ValueType) -> str:
    """Return the short name of a state, e.g. "RUNNING"."""
    return v1.JobState.Name(state).removeprefix("JOB_STATE_")


def job_kind(job: v1.Job | v1.StartJobRequest) -> v1.JobKind.ValueType:
    """Return the kind of work of a job or request; UNSPECIFIED if none is set."""
    name = job.WhichOneof("spec")
    return v1.JobKind.Value(f"JOB_KIND_{name.upper()}") if name else v1.JOB_KIND_UNSPECIFIED


def described(job: v1.Job) -> dict[str, str | int]:
    """Return what spans of traces say of a job."""
    kind = job.WhichOneof("spec") or ""
    return {"project": job.project, "job": job.id, "kind": kind, "method": job.method, "attempt": job.attempt}


def request_digest(request: v1.StartJobRequest) -> str:
    """Return a digest of what a request asks for, to tell a repeated request from another one.

    Raises
    ------
    InvalidParameterError
        A parameter is infinite or no number, which no record can hold.
    """
    try:
        text = json_format.MessageToJson(request, sort_keys=True)
    except json_format.SerializeToJsonError as error:
        words = "must be finite numbers: one of them is infinite, or not a number"
        raise InvalidParameterError(f"The parameters {words}.", [Violation("parameters", words)]) from error
    return hashlib.sha256(text.encode()).hexdigest()


def set_state(job: v1.Job, state: v1.JobState.ValueType, message: str) -> v1.JobEvent:
    """Change the state of `job` and return the event that reports it; an ended one is resumed by it, after a pause."""
    job.state = state
    job.message = message
    if job.HasField("handed_over_at") and state != v1.JOB_STATE_QUEUED:
        _add_pause(job, job.handed_over_at)
        job.ClearField("handed_over_at")
    if state in FINAL_STATES:
        job.finished_at.CopyFrom(now())
        job.progress.ClearField("seconds_left")
    elif job.HasField("finished_at"):
        _add_pause(job, job.finished_at)
        job.ClearField("finished_at")
    return v1.JobEvent(state_change=v1.StateChange(state=state, message=message))


def _add_pause(job: v1.Job, since: timestamp_pb2.Timestamp) -> None:
    pause = now().ToNanoseconds() - since.ToNanoseconds()
    job.paused.FromNanoseconds(job.paused.ToNanoseconds() + max(0, pause))


def set_running(job: v1.Job) -> v1.JobEvent:
    """Let the present attempt of `job` run and return the event that reports it."""
    if not job.HasField("started_at"):
        job.started_at.GetCurrentTime()
    return set_state(job, v1.JOB_STATE_RUNNING, "the worker starts")


class JobStore:
    """Reads and changes job records. Safe to use from several threads.

    The instance that runs a service's jobs remembers those that have ended, so that a list of thousands does not read
    every record anew: only that instance can resume or delete them, and does so here.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._changes = 0
        # By project and id what can only be changed here: jobs that have ended, and None for those of other services.
        self._remembered: dict[str, dict[str, Listed | None]] = {}
        self._names: dict[str, list[str]] = {}
        # The record that a worker has changed here last, whose events all have their objects.
        self._own: Record | None = None

    def folder(self, project: str, job_id: str) -> Location:
        """Return the folder of a job's record."""
        return job_location(self.store, project, job_id)

    def create(self, job: v1.Job, request_sha256: str) -> Record:
        """Store a new job with its first event; raise ConflictError if the id is taken."""
        events = self._numbered(job, set_state(job, v1.JOB_STATE_QUEUED, "waiting for its turn"))
        data = encode(job, events, request_sha256)
        begin = time.monotonic()
        self.mark_open(job)
        etag = self.store.create(self.folder(job.project, job.id) / "job.json", data)
        if time.monotonic() - begin > _SLOW_SECONDS:
            self.mark_open(job)
        # A deleted job's id may be used again.
        self._forget(job.project, job.id)
        self._write_events(job, events)
        return Record(job, events, request_sha256, etag)

    def read(self, project: str, job_id: str, *, deleting: bool = False) -> Record:
        """Return a job's record; raise NotFoundError if there is none.

        A record that is being deleted is there only for those who ask for it by `deleting`, to finish the deletion.
        """
        try:
            data, etag = self.store.read_versioned(self.folder(project, job_id) / "job.json")
        except NotFoundError as error:
            raise NotFoundError(f"There is no job {job_id!r} in project {project!r}.") from error
        try:
            record = decode(data, etag)
        except ValueError as error:
            place = self.folder(project, job_id) / "job.json"
            raise DamagedError(
                f"The record of job {job_id} cannot be read ({error}): restore or remove {place}."
            ) from error
        if record.deleting and not deleting:
            raise NotFoundError(f"Job {job_id!r} of project {project!r} is being deleted.")
        return record

    def change(
        self,
        project: str,
        job_id: str,
        change: Callable[[v1.Job], v1.JobEvent | Sequence[v1.JobEvent] | None],
        *,
        attempt: int | None = None,
        patience_seconds: float = 0.0,
    ) -> v1.Job:
        """Apply `change` to the stored job atomically; `change` may run again if somebody else was faster.

        Parameters
        ----------
        change
            Alters the job in place and returns the event that reports it, or several in order; None for progress
            alone.
        attempt
            Given by workers: the change is refused with StaleWorkerError when the job is not running in this
            attempt any more.
        patience_seconds
            How long to go on trying while the store does not answer: a training must survive its restart.
        """
        written: tuple[v1.JobEvent, ...] = ()

        def try_once() -> v1.Job | None:
            nonlocal written
            record = self._take_own(project, job_id)
            if record is None:
                record = self.read(project, job_id)
                if written and next(self.events(record, written[-1].sequence - 1), None) == written[-1]:
                    # The write had succeeded although its answer was lost: no event is reported twice. Others may have
                    # reported more since.
                    self._write_events(record.job, record.events)
                    return record.job
                # Repairs a crash between the two writes, so that numbers have no gaps.
                self._write_events(record.job, record.events)
            job = record.job
            if attempt is not None and (job.attempt != attempt or job.state not in WORKING_STATES):
                raise StaleWorkerError(
                    f"Job {job_id} is {state_name(job.state)} in attempt {job.attempt}; attempt {attempt} must end."
                )
            events = self._numbered(job, change(job))
            if events:
                written = events
            data = encode(job, events or record.events, record.request_sha256)
            try:
                etag = self.store.replace(self.folder(project, job_id) / "job.json", data, record.etag)
            except ConflictError:
                return None
            finally:
                # Also where the answer was lost: the write may have succeeded.
                self._forget(project, job_id)
            self._write_events(job, events)
            if attempt is not None:
                # A worker is the one who goes on changing its job.
                self._keep_own(Record(job, events or record.events, record.request_sha256, etag))
            return job

        while True:
            job = patiently(try_once, patience_seconds)
            if job is not None:
                return job

    def _take_own(self, project: str, job_id: str) -> Record | None:
        """Return the record as this object wrote it last, if it wrote that of this job last; each only once."""
        with self._lock:
            own, self._own = self._own, None
        if own is None or (own.job.project, own.job.id) != (project, job_id):
            return None
        return own

    def _keep_own(self, record: Record) -> None:
        # Callers may alter the job that they are given.
        job = v1.Job()
        job.CopyFrom(record.job)
        with self._lock:
            self._own = replace(record, job=job)

    def events(self, record: Record, after: int) -> Iterator[v1.JobEvent]:
        """Yield the events of a job with numbers above `after`, up to the newest one of `record`.

        An event that is lost or damaged is logged and left out: it must not end the watching of a job that goes on.
        """
        folder = self.folder(record.job.project, record.job.id) / "events"
        newest = {event.sequence: event for event in record.events}
        for sequence in range(after + 1, record.job.last_sequence + 1):
            if sequence in newest:
                yield newest[sequence]
                continue
            place = folder / f"{sequence:08d}.json"
            try:
                yield json_format.Parse(self.store.read(place), v1.JobEvent(), ignore_unknown_fields=True)
            except (NotFoundError, json_format.ParseError, UnicodeDecodeError) as error:
                _log.error("event %s is left out, because it is lost or damaged: %s", place, error)

    def jobs_of(self, service: str, project: str, *, remember: bool = False, further: bool = False) -> list[Listed]:
        """Return the jobs of a service in a project, newest first; a damaged record is logged and left out.

        Parameters
        ----------
        service, project
            Whose jobs.
        remember
            Rely on what was read before of jobs that have ended. Only for the instance that runs the service's jobs,
            and for one service in the life of this object.
        further
            With `remember`: the next page of a list; jobs that have come since then are not asked for.
        """
        known = self._remembered.setdefault(project, {}) if remember else {}
        names = self._names.get(project) if remember and further else None
        if names is None:
            names = [name for name in self.store.folders(self.store.jobs / project) if is_job_id(name)]
            if remember:
                self._names[project] = names

        def look(job_id: str) -> Listed | None:
            changes = self._changes
            try:
                job = self.read(project, job_id).job
            except NotFoundError:
                return None  # deleted meanwhile
            except DamagedError as error:
                _log.error("%s", error)
                return None
            listed = Listed.of(job) if job.service == service else None
            if listed is None or job.state in FINAL_STATES:
                with self._lock:
                    # What was changed while it was read may have been read before the change.
                    if changes == self._changes:
                        known[job_id] = listed
            return listed

        with self._lock:
            present = dict(known)
        jobs = [present[name] for name in names if name in present]
        with ThreadPoolExecutor(max_workers=8) as pool:
            jobs += pool.map(look, [name for name in names if name not in present])
        return sorted([listed for listed in jobs if listed is not None], key=lambda listed: listed.place, reverse=True)

    def forget_all(self) -> None:
        """Rely on nothing that was read before: another instance may have run the jobs meanwhile."""
        with self._lock:
            self._changes += 1
            self._remembered, self._names = {}, {}

    def _forget(self, project: str, job_id: str) -> None:
        with self._lock:
            self._changes += 1
            self._remembered.get(project, {}).pop(job_id, None)

    def projects(self) -> list[str]:
        """Return the names of all projects that have jobs."""
        return [name for name in self.store.folders(self.store.jobs) if is_name(name)]

    def mark_open(self, job: v1.Job) -> None:
        """Note that the service has something to do with a job. To be done before the job is queued."""
        self.store.write(self._open_mark(job.service, job.project, job.id), b"open")

    def open_jobs(self, service: str) -> list[tuple[str, str]]:
        """Return project and id of each job that a service may have something left to do with."""
        root = self.store.jobs / _OPEN / service
        names = (item.location.key.removeprefix(f"{root.key}/").partition("/") for item in self.store.objects(root))
        return [(project, job_id) for project, _, job_id in names if is_name(project) and is_job_id(job_id)]

    def close(self, service: str, project: str, job_id: str) -> None:
        """Remove the mark of a job that needs nothing any more."""
        self.store.delete(self._open_mark(service, project, job_id))

    def abandon(self, service: str, project: str, job_id: str) -> None:
        """Remove the mark of a job that was never stored."""
        self.close(service, project, job_id)
        try:
            # Stored just now? A slower one marks its job again (`create`).
            self.mark_open(self.read(project, job_id).job)
        except NotFoundError:
            return

    def mark_forgotten(self, service: str) -> int:
        """Mark the jobs of a service that have no mark although they have not ended; return how many these are."""
        known, count = set(self.open_jobs(service)), 0
        for project in self.projects():
            for listed in self.jobs_of(service, project, remember=True):
                if listed.state not in FINAL_STATES and (project, listed.job_id) not in known:
                    self.mark_open(listed.job())
                    count += 1
        return count

    def _open_mark(self, service: str, project: str, job_id: str) -> Location:
        return self.store.jobs / _OPEN / service / project / job_id

    def mark_cancelled(self, job: v1.Job, attempt: int, *, keep_best: bool, why: str) -> None:
        """Leave the mark that asks the worker of an attempt of `job` to end."""
        mark = json.dumps({"keep_best": keep_best, "why": why}).encode()
        self.store.write(self._cancel_mark(job, attempt), mark)

    def unmark_cancelled(self, job: v1.Job, attempt: int) -> None:
        """Remove the mark for an attempt, if there is one."""
        self.store.delete(self._cancel_mark(job, attempt))

    def cancel_mark(self, job: v1.Job) -> dict[str, object] | None:
        """Return the cancel mark for the present attempt of `job`, or None."""
        place = self._cancel_mark(job, job.attempt)
        try:
            mark: dict[str, object] = json.loads(self.store.read(place))
            if not {"keep_best", "why"} <= set(mark):
                raise ValueError("keep_best or why is missing")
        except NotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            _log.error("the cancel mark %s is damaged and left out: %s", place, error)
            return None
        return mark

    def _cancel_mark(self, job: v1.Job, attempt: int) -> Location:
        # One for each attempt, so that an instance that was replaced cannot overwrite that of its successor.
        return self.folder(job.project, job.id) / f"cancel-{attempt:04d}"

    def delete(self, project: str, job_id: str) -> None:
        """Move the record of an ended job to the trash, or go on where an interrupted deletion has stopped."""
        record = self.read(project, job_id, deleting=True)
        job = record.job
        if job.state not in FINAL_STATES:
            raise PreconditionError(f"Job {job.id} is {state_name(job.state)}: cancel it before deleting its record.")
        folder = self.folder(project, job_id)
        whole = encode(job, record.events, record.request_sha256)
        if not record.deleting:
            # Whoever deletes need not be the one who finishes it, and nobody can resume the job meanwhile.
            self.mark_open(job)
            try:
                self.store.replace(
                    folder / "job.json",
                    encode(job, record.events, record.request_sha256, deleting=True),
                    record.etag,
                )
            except ConflictError as error:
                raise PreconditionError(f"Job {job.id} was changed meanwhile; look at it again.") from error
            finally:
                self._forget(project, job_id)
        trash = self.store.jobs / ".trash" / project / f"{job.id}-{now().ToSeconds()}"
        items = [item.location for item in self.store.objects(folder) if item.location != folder / "job.json"]
        for item in items:
            name = item.key.removeprefix(f"{folder.key}/")
            if not name.startswith("checkpoints/"):
                self.store.copy(item, trash / name)
        self.store.write(trash / "job.json", whole)
        for item in [*items, folder / "job.json"]:
            self.store.delete(item)
        self.close(job.service, project, job_id)

    def repeated(self, request: v1.StartJobRequest) -> v1.Job | None:
        """Return the job that the same request started before; None if there is none.

        Raises
        ------
        AlreadyExistsError
            The request id belongs to another request.
        """
        try:
            record = self.read(request.project, request.request_id)
        except NotFoundError:
            return None
        if record.request_sha256 != request_digest(request):
            raise AlreadyExistsError(
                f"The request id {request.request_id!r} belongs to another request of project {request.project!r}: "
                "use a fresh one."
            )
        return record.job

    @staticmethod
    def _numbered(job: v1.Job, events: v1.JobEvent | Sequence[v1.JobEvent] | None) -> tuple[v1.JobEvent, ...]:
        """Give new events of a job their numbers, and return them."""
        several = () if events is None else (events,) if isinstance(events, v1.JobEvent) else tuple(events)
        for event in several:
            job.last_sequence += 1
            event.sequence = job.last_sequence
            event.attempt = job.attempt
            event.time.CopyFrom(now())
        return several

    def _write_events(self, job: v1.Job, events: Sequence[v1.JobEvent]) -> None:
        folder = self.folder(job.project, job.id) / "events"
        for event in events:
            try:
                self.store.create(folder / f"{event.sequence:08d}.json", json_format.MessageToJson(event).encode())
            except ConflictError:
                continue  # already written, by us or by whoever repaired it: the number was given only once
