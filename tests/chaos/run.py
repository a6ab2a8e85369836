"""One run from the first process to the last."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from support import filament_pair, publish_dataset, wait_for, write_pairs

from chaos.arena import Arena, Config
from chaos.clients import Clients
from chaos.evidence import Evidence, read_jobs
from chaos.faults import Faults
from chaos.journal import Journal
from chaos.lull import Lulls
from chaos.summary import Summary
from chaos.watching import Watching
from chaos.work import MODELS, Book, Work
from chaos.workers import Lookout
from parfocal import v1

STEPS_PER_LULL = 15
MODEL_SECONDS = 120.0


@dataclass(frozen=True)
class Options:
    """What a run is given.

    Attributes
    ----------
    seed
        Decides what is asked for and which faults are committed; the machine decides when.
    config
        "shared": both instances on one machine; "apart": as on two.
    kills, minutes
        Faults end after so many SIGKILLs, or after this time.
    out
        Folder for the journal, the summary, the store and the logs; made when missing.
    lease_seconds
        PARFOCAL_LEASE_SECONDS of the services; pauses and times without a store are measured in it.
    backlog
        Jobs that are under way before clients wait.
    echo
        Whether to print what is done.
    """

    seed: int
    config: Config
    kills: int
    minutes: float
    out: Path
    lease_seconds: float = 6.0
    backlog: int = 7
    echo: bool = False


def run(options: Options) -> Summary:
    """Kill, freeze, judge, write `summary.json` and return it. No process is left, however it ends."""
    options.out.mkdir(parents=True, exist_ok=True)
    seed = f"{options.seed} {options.config}"
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(options.out / "steps.jsonl", echo=options.echo))
        arena = stack.enter_context(Arena(options.out, options.config, options.lease_seconds, journal))
        pairs = write_pairs(options.out / "pairs", filament_pair)
        work, book = Work(publish_dataset(arena.store, "filaments", pairs)), Book()
        lookout = stack.enter_context(Lookout(arena.workers, arena.pids))
        watching = stack.enter_context(Watching(arena, seed=seed))
        clients = stack.enter_context(Clients(arena, work, book, watching, journal, seed=seed, backlog=options.backlog))
        faults = stack.enter_context(Faults(arena, clients, journal, seed=seed))
        lulls = Lulls(arena, clients, watching, faults, lookout, journal)
        journal.note("begin", loud=True, seed=options.seed, config=options.config, store=arena.s3.endpoint)
        _train_models(arena, clients, book, work)
        journal.note("there are models", loud=True, names=", ".join(MODELS))
        deadline = time.monotonic() + 60 * options.minutes
        clients.go_on()
        while time.monotonic() < deadline and faults.killed < options.kills:
            faults.next()
            if faults.steps % STEPS_PER_LULL == 0:
                lulls.hold()
                clients.go_on()
        lulls.hold()
        # Every watcher should be done; where one is not, this tells why.
        (options.out / "waiting.txt").write_text(watching.waiting(), encoding="utf-8")
        arena.stop()
        left = arena.workers()
        jobs, unreadable = read_jobs(arena)
        outlived = [*lookout.orphans.values(), *left]
        evidence = Evidence(
            jobs=jobs,
            unreadable=unreadable,
            requests=book.all(),
            watched=watching.watched(),
            kills=tuple(faults.kills),
            workers={key: len(processes) for key, processes in lookout.seen.items()},
            orphans=[f"the worker of {item.job}, attempt {item.attempt}" for item in outlived],
            stuck=lulls.stuck,
            troubles=tuple(arena.troubles),
        )
        summary = Summary.of(
            evidence,
            seed=options.seed,
            config=options.config,
            seconds=journal.seconds,
            steps=faults.steps,
            faults=faults.counts,
        )
    (options.out / "summary.json").write_text(json.dumps(summary.content(), indent=1), encoding="utf-8")
    return summary


def _train_models(arena: Arena, clients: Clients, book: Book, work: Work) -> None:
    """Train the models that predictions use, before anything is killed."""
    for name, parameters in MODELS.items():
        request = work.training(f"model-{name}", "plain", f"model '{name}'", parameters)
        book.add(request)
        clients.ask(request)
    for name in MODELS:

        def trained(job: str = f"model-{name}") -> bool:
            return arena.jobs.read("default", job).job.state == v1.JOB_STATE_SUCCEEDED

        wait_for(trained, MODEL_SECONDS, f"the model {name}")
        work.models[name] = book.all()[f"model-{name}"].reserved_uri
