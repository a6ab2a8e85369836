"""The judgement: what became of the jobs that should not have. Pure functions of the evidence."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from chaos.evidence import Evidence, StoredJob
from parfocal import v1
from parfocal.runtime.jobs.records import FINAL_STATES, state_name

LOSSES = 3
GAVE_UP = frozenset({"WORKER_LOST", "OUT_OF_MEMORY"})
"""Reasons of jobs that failed because they lost their workers."""
FORGOTTEN_SECONDS = 6.0
"""A queued job is known to the instance that runs the jobs within this time, whatever became of its request."""
FORGOTTEN_AFTER = 2
"""Younger jobs that were started before it."""


class Kind(StrEnum):
    """What can be wrong."""

    LOST = "lost"
    STUCK = "stuck"
    FORGOTTEN = "forgotten"
    DOUBLED = "doubled"
    INVALID = "invalid"
    GAPS = "gaps in events"
    TWO_WORKERS = "two workers for one attempt"
    DIFFERENT = "different results of equal requests"
    FAILED = "failed without three losses of its own"
    UNFAIR = "losses counted that were none"
    ORPHAN = "orphaned workers"
    ANSWER = "wrong answers"
    TROUBLE = "trouble with services or store"


@dataclass(frozen=True)
class Anomaly:
    """One thing that is wrong, with the job ("" where it is none of a job) and what was seen."""

    kind: Kind
    job: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.job + ': ' if self.job else ''}{self.detail}"


def judge(evidence: Evidence) -> list[Anomaly]:
    """Return everything that is wrong; nothing at all is what Parfocal promises."""
    return [anomaly for check in CHECKS for anomaly in check(evidence)]


def lost(evidence: Evidence) -> Iterator[Anomaly]:
    """A job was the answer to a request, and there is no record of it."""
    for name, request in evidence.requests.items():
        if request.answered_at is not None and name not in evidence.jobs and name not in evidence.unreadable:
            yield Anomaly(Kind.LOST, name, f"asked for by a client of the mode '{request.mode}'; no record")


def stuck(evidence: Evidence) -> Iterator[Anomaly]:
    """A stored job did not end although it was left in peace; one that was not reported to anybody counts as well."""
    for name, state in evidence.stuck.states.items():
        healed = "ended after a restart" if name in evidence.stuck.healed else "did not end after a restart either"
        yield Anomaly(Kind.STUCK, name, f"{state} without a worker (client: {_mode(evidence, name)}); {healed}")


def forgotten(evidence: Evidence) -> Iterator[Anomaly]:
    """A queued job was overtaken by younger ones of its kind: the instance that started these did not know of it."""
    starts = [
        (event.time.ToNanoseconds() / 1e9, _created(stored), name, stored.job.WhichOneof("spec"))
        for name, stored in evidence.jobs.items()
        for event in stored.events
        if event.state_change.state == v1.JOB_STATE_RUNNING
    ]
    for name, stored in evidence.jobs.items():
        if name in evidence.stuck.states:
            continue
        for begin, end in _queued(stored, evidence.gathered_at):
            younger = [
                other
                for started, created, other, kind in starts
                if begin + FORGOTTEN_SECONDS < started < end and created > _created(stored) + 0.5 and other != name
                # Predictions go before trainings, or behind them when they have used up their share.
                if kind == stored.job.WhichOneof("spec")
            ]
            if len(younger) >= FORGOTTEN_AFTER:
                detail = f"queued for {end - begin:.1f} s while {len(younger)} younger jobs were started"
                yield Anomaly(Kind.FORGOTTEN, name, f"{detail} (client: {_mode(evidence, name)})")
                break


def doubled(evidence: Evidence) -> Iterator[Anomaly]:
    """Something was published or reported twice."""
    for name, stored in evidence.jobs.items():
        if len(stored.publications) > 1:
            yield Anomaly(Kind.DOUBLED, name, f"published {[item.place for item in stored.publications]}")
        counted = Counter(key for event in stored.events if (key := _once(event)) is not None)
        for key, count in counted.items():
            if count > 1:
                yield Anomaly(Kind.DOUBLED, name, f"{count} events of {key}")
        states = [event for event in stored.events if event.HasField("state_change")]
        for first, second in pairwise(states):
            if first.state_change.state == second.state_change.state:
                state = state_name(second.state_change.state)
                yield Anomaly(Kind.DOUBLED, name, f"{state} twice in a row, event {second.sequence}")


def invalid(evidence: Evidence) -> Iterator[Anomaly]:
    """A record cannot be read, contradicts what is published, or what is published is not what its manifest says."""
    for name, why in evidence.unreadable.items():
        yield Anomaly(Kind.INVALID, name, why)
    for name, stored in evidence.jobs.items():
        for problem in (*_contradictions(stored), *_damage(stored)):
            yield Anomaly(Kind.INVALID, name, problem)


def gaps(evidence: Evidence) -> Iterator[Anomaly]:
    """Events are missing in the store, or a watcher did not receive some or received one twice."""
    for name, stored in evidence.jobs.items():
        numbers = [event.sequence for event in stored.events]
        if numbers != list(range(1, stored.job.last_sequence + 1)):
            yield Anomaly(Kind.GAPS, name, f"stored are {numbers} of {stored.job.last_sequence}")
    for name, watched in evidence.watched.items():
        by, seen = watched.by, watched.sequences
        if seen != list(range(1, len(seen) + 1)):
            yield Anomaly(Kind.GAPS, name, f"watched ({by}) were {seen}")
        for problem in watched.problems:
            yield Anomaly(Kind.GAPS, name, f"watching ({by}) failed: {problem}")
        known = evidence.jobs.get(name)
        if known is None or known.job.state not in FINAL_STATES:
            continue
        if not watched.is_done or watched.newest != known.job.last_sequence:
            yield Anomaly(Kind.GAPS, name, f"watched ({by}) to {watched.newest} of {known.job.last_sequence}")


def two_workers(evidence: Evidence) -> Iterator[Anomaly]:
    """An attempt was given to two workers."""
    for (name, attempt), count in evidence.workers.items():
        if count > 1:
            yield Anomaly(Kind.TWO_WORKERS, name, f"{count} processes for attempt {attempt}")


def different(evidence: Evidence) -> Iterator[Anomaly]:
    """Equal requests gave different weights or pixels."""
    variants: dict[str, dict[tuple[tuple[str, str], ...], list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, stored in evidence.jobs.items():
        request = evidence.requests.get(name)
        for publication in stored.publications if request is not None else ():
            assert request is not None
            digests = tuple(sorted((file.name, file.sha256) for file in publication.files if file.is_result))
            variants[request.work][digests].append(name)
    for work, found in variants.items():
        usual = max(found.values(), key=len)
        for names in found.values():
            if names is not usual:
                yield Anomaly(Kind.DIFFERENT, names[0], f"{work}: {names} differ from {len(usual)} others")


def failed(evidence: Evidence) -> Iterator[Anomaly]:
    """A job failed, and not because three of its workers were killed by themselves without a checkpoint in between."""
    for name, stored in evidence.jobs.items():
        job = stored.job
        if job.state != v1.JOB_STATE_FAILED:
            continue
        # The attempt that wrote the newest checkpoint was killed after it.
        losses = {attempt for attempt in _killed(evidence, name) if attempt >= stored.checkpoint_attempt}
        if job.error.reason not in GAVE_UP or len(losses) < LOSSES:
            detail = f"{job.error.reason}, workers killed in attempts {sorted(losses)}: {job.error.text}"
            yield Anomaly(Kind.FAILED, name, f"{detail} (client: {_mode(evidence, name)})")


def unfair(evidence: Evidence) -> Iterator[Anomaly]:
    """A job was charged with more losses than it had workers killed by themselves."""
    for name, stored in evidence.jobs.items():
        losses = len(_killed(evidence, name))
        if stored.job.lost_workers > losses:
            yield Anomaly(Kind.UNFAIR, name, f"{stored.job.lost_workers} counted, {losses} workers killed")


def orphans(evidence: Evidence) -> Iterator[Anomaly]:
    """A worker outlived its service or the whole run."""
    for text in evidence.orphans:
        yield Anomaly(Kind.ORPHAN, "", text)


def answers(evidence: Evidence) -> Iterator[Anomaly]:
    """A patient client was refused, not answered, or told different things."""
    for name, request in evidence.requests.items():
        for problem in request.problems:
            yield Anomaly(Kind.ANSWER, name, f"{problem} (client: {request.mode})")


def trouble(evidence: Evidence) -> Iterator[Anomaly]:
    """A service ended by itself or did not start, the store did not start, or nobody took over."""
    for text in evidence.troubles:
        yield Anomaly(Kind.TROUBLE, "", text)


CHECKS: tuple[Callable[[Evidence], Iterator[Anomaly]], ...] = (
    *(lost, stuck, forgotten, doubled, invalid, gaps, two_workers, different, failed, unfair, orphans, answers),
    trouble,
)


def _mode(evidence: Evidence, name: str) -> str:
    request = evidence.requests.get(name)
    return request.mode if request is not None else "unknown"


def _created(stored: StoredJob) -> float:
    return stored.job.created_at.ToNanoseconds() / 1e9


def _killed(evidence: Evidence, name: str) -> set[int]:
    return {kill.attempt for kill in evidence.kills if kill.job == name}


def _queued(stored: StoredJob, until: float) -> Iterator[tuple[float, float]]:
    """Yield the spans of time, in seconds since 1970, during which a job was queued."""
    begin = None
    for event in stored.events:
        if not event.HasField("state_change"):
            continue
        time = event.time.ToNanoseconds() / 1e9
        if event.state_change.state == v1.JOB_STATE_QUEUED:
            begin = time
        elif begin is not None:
            yield begin, time
            begin = None
    if begin is not None:
        yield begin, until


def _once(event: v1.JobEvent) -> tuple[object, ...] | None:
    """Return what an event may report only once: epochs, images and warnings in each attempt, outputs in all."""
    kind = event.WhichOneof("event")
    if kind == "epoch_completed":
        return "epoch", event.epoch_completed.epoch, "attempt", event.attempt
    if kind == "image_completed":
        return "image", event.image_completed.name, "attempt", event.attempt
    if kind == "warning":
        return "warning", event.warning.text, "attempt", event.attempt
    if kind == "output":
        return "output", event.output.uri
    return None


def _contradictions(stored: StoredJob) -> Iterator[str]:
    job, published = stored.job, [item.place for item in stored.publications]
    succeeded = job.state == v1.JOB_STATE_SUCCEEDED
    if job.state in FINAL_STATES and succeeded != bool(published):
        yield f"the job is {state_name(job.state)} and has published {published or 'nothing'}"
    if not succeeded:
        return
    if [output.uri for output in job.outputs] != [job.reserved_uri]:
        yield f"its outputs are {[output.uri for output in job.outputs]} and not {job.reserved_uri}"
    if job.WhichOneof("spec") == "training":
        wanted = set(range(1, int(job.resolved_parameters.fields["epochs"].number_value) + 1))
        reported = {event.epoch_completed.epoch for event in stored.events if event.HasField("epoch_completed")}
        if reported != wanted:
            yield f"it has reported the epochs {sorted(reported)} of {len(wanted)}"
        if any(item.epochs != len(wanted) or item.rows != len(wanted) for item in stored.publications):
            counts = [(item.epochs, item.rows) for item in stored.publications]
            yield f"manifest and history have (epochs, rows) {counts} instead of {len(wanted)}"


def _damage(stored: StoredJob) -> Iterator[str]:
    for publication in stored.publications:
        for file in publication.files:
            if file.problem:
                yield f"{publication.place}: {file.name} {file.problem}"
        if not any(file.is_result for file in publication.files):
            yield f"{publication.place} has neither weights nor pixels: {[file.name for file in publication.files]}"
