"""The judgement finds each kind of anomaly in made-up evidence, and nothing in that of two jobs that went well."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import psutil

from chaos.evidence import Evidence, Publication, PublishedFile, StoredJob
from chaos.faults import WEIGHTS, Kill, order
from chaos.judgement import FORGOTTEN_SECONDS, Kind, judge
from chaos.lull import Stuck
from chaos.summary import Summary
from chaos.watching import Watched
from chaos.work import Request
from chaos.workers import ORPHAN_SECONDS, LiveWorker, Lookout
from parfocal import v1

PLACE = "s3://models/default/model-a/1"
FILES = (PublishedFile("filter.json", "1"), PublishedFile("training.csv", "2"))
QUEUED, RUNNING, FAILED = v1.JOB_STATE_QUEUED, v1.JOB_STATE_RUNNING, v1.JOB_STATE_FAILED


def state(value: v1.JobState.ValueType, at: int, attempt: int = 1) -> v1.JobEvent:
    event = v1.JobEvent(attempt=attempt, state_change=v1.StateChange(state=value))
    event.time.FromSeconds(at)
    return event


def stored(*events: v1.JobEvent, created: int = 0, **fields: object) -> StoredJob:
    """A training of one epoch with these events, by default one that succeeded."""
    if not events:
        epoch = v1.JobEvent(attempt=1, epoch_completed=v1.EpochCompleted(epoch=1))
        events = (state(QUEUED, 0), state(RUNNING, 1), epoch, state(v1.JOB_STATE_SUCCEEDED, 2))
    for number, event in enumerate(events, 1):
        event.sequence = number
    job = v1.Job(state=events[-1].state_change.state, last_sequence=len(events), reserved_uri=PLACE)
    job.training.SetInParent()
    job.resolved_parameters["epochs"] = 1
    job.created_at.FromSeconds(created)
    published: tuple[Publication, ...] = ()
    if job.state == v1.JOB_STATE_SUCCEEDED:
        job.outputs.add(kind="model", uri=PLACE)
        published = (Publication(PLACE, FILES, epochs=1, rows=1),)
    found = StoredJob(job, events, published)
    return replace(found, **fields)  # type: ignore[arg-type]


def request(name: str) -> Request:
    return Request(v1.StartJobRequest(request_id=name), "training", "dropped", answered_at=1.0, reserved_uri=PLACE)


def watched() -> Watched:
    return Watched("raw", sequences=[1, 2, 3, 4], last_sequence=4)


def good(**changes: object) -> Evidence:
    """The evidence of two equal trainings that went well, with changes."""
    evidence = Evidence(
        jobs={"a": stored(), "b": stored()},
        requests={"a": request("a"), "b": request("b")},
        watched={"a": watched(), "b": watched()},
        workers={("a", 1): 1, ("b", 1): 1},
        gathered_at=100.0,
    )
    return replace(evidence, **changes)  # type: ignore[arg-type]


def found(evidence: Evidence) -> list[tuple[Kind, str]]:
    return [(anomaly.kind, anomaly.job) for anomaly in judge(evidence)]


def with_job(job: StoredJob, **changes: object) -> Evidence:
    """The good evidence with another job "a", which nobody watches."""
    return good(jobs={"a": job, "b": stored()}, watched={"b": watched()}, **changes)


def changed(change: Callable[[v1.Job], object]) -> StoredJob:
    job = stored()
    change(job.job)
    return job


def test_nothing_is_wrong_with_jobs_that_went_well() -> None:
    assert found(good()) == []


def test_an_accepted_job_without_a_record_is_lost() -> None:
    assert found(good(jobs={"b": stored()}, watched={"b": watched()})) == [(Kind.LOST, "a")]
    unanswered = request("a")
    unanswered.answered_at = None
    nobody = {"requests": {"a": unanswered, "b": request("b")}, "watched": {"b": watched()}}
    assert found(good(jobs={"b": stored()}, **nobody)) == []


def test_a_job_that_does_not_end_in_a_lull_is_stuck_even_if_a_restart_heals_it() -> None:
    assert found(good(stuck=Stuck({"a": "QUEUED"}, healed={"a"}))) == [(Kind.STUCK, "a")]


def test_a_queued_job_that_younger_ones_overtake_is_forgotten() -> None:
    late = int(FORGOTTEN_SECONDS) + 1

    def evidence(younger: int, started: int) -> Evidence:
        jobs = {"a": stored(state(QUEUED, 0), state(RUNNING, 60))}
        jobs |= {f"y{n}": stored(state(QUEUED, 5), state(RUNNING, started), created=5) for n in range(younger)}
        return Evidence(jobs=jobs, gathered_at=100.0)

    assert found(evidence(2, late)) == [(Kind.FORGOTTEN, "a")]
    assert found(evidence(1, late)) == []
    assert found(evidence(2, late - 2)) == []
    predictions = evidence(2, late)
    for name in ("y0", "y1"):
        predictions.jobs[name].job.prediction.model_uri = "s3://models/m"
    assert found(predictions) == []
    waiting = Evidence(jobs={**evidence(2, late).jobs, "a": stored(state(QUEUED, 0))}, gathered_at=100.0)
    assert found(waiting) == [(Kind.FORGOTTEN, "a")]


def test_what_comes_twice_is_doubled() -> None:
    other = Publication("s3://models/default/model-a/2", FILES, epochs=1, rows=1)
    assert found(with_job(stored(publications=(*stored().publications, other)))) == [(Kind.DOUBLED, "a")]
    epoch = v1.JobEvent(attempt=1, epoch_completed=v1.EpochCompleted(epoch=1))
    again = v1.JobEvent(attempt=2, epoch_completed=v1.EpochCompleted(epoch=1))
    repeated = v1.JobEvent(attempt=1, epoch_completed=v1.EpochCompleted(epoch=1))
    assert found(with_job(stored(state(QUEUED, 0), epoch, again))) == []
    assert found(with_job(stored(state(QUEUED, 0), epoch, repeated))) == [(Kind.DOUBLED, "a")]
    outputs = [v1.JobEvent(attempt=attempt, output=v1.Output(uri=PLACE)) for attempt in (1, 2)]
    assert found(with_job(stored(state(QUEUED, 0), *outputs))) == [(Kind.DOUBLED, "a")]
    assert found(with_job(stored(state(QUEUED, 0), state(QUEUED, 1)))) == [(Kind.DOUBLED, "a")]


def test_what_contradicts_itself_or_is_damaged_is_invalid() -> None:
    invalid = [(Kind.INVALID, "a")]
    assert found(good(jobs={"b": stored()}, unreadable={"a": "damaged"}, watched={"b": watched()})) == invalid
    assert found(with_job(stored(publications=()))) == invalid
    assert found(with_job(changed(lambda job: job.ClearField("outputs")))) == invalid
    damaged = Publication(PLACE, (*FILES, PublishedFile("loss.png", "3", "is missing")), epochs=1, rows=1)
    assert found(with_job(stored(publications=(damaged,)))) == invalid
    short = Publication(PLACE, FILES, epochs=1, rows=0)
    assert found(with_job(stored(publications=(short,)))) == invalid
    epochless = stored(state(QUEUED, 0), state(RUNNING, 1), state(v1.JOB_STATE_SUCCEEDED, 2))
    assert found(with_job(epochless)) == invalid
    empty = Publication(PLACE, FILES[1:], epochs=1, rows=1)
    both = {name: stored(publications=(empty,)) for name in ("a", "b")}
    assert found(good(jobs=both)) == [(Kind.INVALID, "a"), (Kind.INVALID, "b")]


def test_missing_events_are_gaps_for_the_store_and_for_watchers() -> None:
    whole = stored()
    assert found(with_job(replace(whole, events=(*whole.events[:2], whole.events[3])))) == [
        (Kind.INVALID, "a"),  # of its only epoch nothing is reported
        (Kind.GAPS, "a"),
    ]

    def seen(*sequences: int, **fields: object) -> Evidence:
        watcher = replace(Watched("raw", list(sequences), 4), **fields)  # type: ignore[arg-type]
        return good(watched={"a": watcher, "b": watched()})

    assert found(seen(1, 2, 2, 3, 4)) == [(Kind.GAPS, "a")]
    assert found(seen(1, 3, 4)) == [(Kind.GAPS, "a")]
    assert found(seen(1, 2, 3)) == [(Kind.GAPS, "a")]
    assert found(seen(1, 2, 3, 4, last_sequence=None)) == [(Kind.GAPS, "a")]
    assert found(seen(1, 2, 3, 4, problems=["NOT_FOUND"])) == [(Kind.GAPS, "a")]


def test_two_processes_for_one_attempt_are_two_workers() -> None:
    assert found(good(workers={("a", 1): 2, ("a", 2): 1})) == [(Kind.TWO_WORKERS, "a")]


def test_equal_requests_must_have_equal_weights() -> None:
    other = Publication(PLACE, (PublishedFile("filter.json", "9"), FILES[1]), epochs=1, rows=1)
    jobs = {"a": stored(), "b": stored(), "c": stored(publications=(other,))}
    requests = {name: request(name) for name in jobs}
    assert found(good(jobs=jobs, requests=requests)) == [(Kind.DIFFERENT, "c")]
    requests["c"].work = "another training"
    assert found(good(jobs=jobs, requests=requests)) == []


def test_a_job_may_fail_only_by_three_workers_killed_without_a_checkpoint_in_between() -> None:
    def gave_up(*killed: int, checkpoint: int = 0, reason: str = "WORKER_LOST") -> list[tuple[Kind, str]]:
        job = stored(state(QUEUED, 0), state(FAILED, 9), checkpoint_attempt=checkpoint)
        job.job.error.reason = reason
        return found(with_job(job, kills=[Kill(0.0, "a", attempt) for attempt in killed] + [Kill(0.0, "b", 1)]))

    assert gave_up(1, 2, 5) == []
    assert gave_up(1, 2, 3, reason="OUT_OF_MEMORY") == []
    assert gave_up(1, 2, 4, 5, checkpoint=2) == []  # the worker of attempt 2 was killed after its checkpoint
    wrong = [(Kind.FAILED, "a")]
    assert gave_up(1, 2) == wrong
    assert gave_up(1, 2, 2) == wrong
    assert gave_up(1, 2, 3, checkpoint=2) == wrong
    assert gave_up(1, 2, 3, reason="INVALID_INPUT") == wrong


def test_only_workers_killed_by_themselves_count_as_losses() -> None:
    charged = changed(lambda job: setattr(job, "lost_workers", 2))
    assert found(with_job(charged, kills=[Kill(0.0, "a", 1), Kill(0.0, "a", 3)])) == []
    assert found(with_job(charged, kills=[Kill(0.0, "a", 1)])) == [(Kind.UNFAIR, "a")]


def test_wrong_answers_orphans_and_troubles_are_named() -> None:
    refused = request("a")
    refused.problems.append("refused, INTERNAL")
    evidence = good(requests={"a": refused, "b": request("b")}, orphans=["a worker"], troubles=["did not start"])
    assert found(evidence) == [(Kind.ORPHAN, ""), (Kind.ANSWER, "a"), (Kind.TROUBLE, "")]


def test_the_lookout_counts_processes_and_knows_an_orphan_from_a_worker_that_is_about_to_end() -> None:
    lookout = Lookout(list, set)
    one, two = (psutil.Process(pid) for pid in (psutil.Process().pid, psutil.Process().ppid()))
    lookout._note([LiveWorker(one, 7, "a", 1)], {7}, now=0.0)
    lookout._note([LiveWorker(one, 1, "a", 1), LiveWorker(two, 7, "a", 1)], {7}, now=1.0)
    assert lookout.seen == {("a", 1): {one, two}}
    assert not lookout.orphans
    lookout._note([LiveWorker(one, 1, "a", 1)], {7}, now=1.5 + ORPHAN_SECONDS)
    assert list(lookout.orphans) == [one]


def test_the_table_names_every_kind_and_what_was_found() -> None:
    evidence = good(stuck=Stuck({"a": "QUEUED"}))
    faults = {"worker": 2, "pause": 1}
    summary = Summary.of(evidence, seed=1, config="shared", seconds=9.6, steps=3, faults=faults)
    assert summary.kills == 2
    assert summary.counts == {str(kind): int(kind is Kind.STUCK) for kind in Kind}
    assert json.loads(json.dumps(summary.content()))["counts"] == summary.counts
    table = summary.table()
    assert all(kind in table for kind in Kind)
    assert "a: QUEUED without a worker (client: dropped)" in table


def test_a_run_begins_with_every_kind_of_fault() -> None:
    first = list(islice(order(random.Random("1")), 40))
    assert sorted(first[: len(WEIGHTS)]) == sorted(WEIGHTS)
    assert first == list(islice(order(random.Random("1")), 40))
    assert first != list(islice(order(random.Random("2")), 40))
