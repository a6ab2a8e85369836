"""The summary of a run: `summary.json` for programs, a table for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from chaos.evidence import Evidence
from chaos.judgement import Anomaly, Kind, judge
from parfocal import v1
from parfocal.runtime.jobs.records import state_name

SHOWN = 10
"""Anomalies of each kind in the table; the file has all."""


@dataclass(frozen=True)
class Summary:
    """What was done and what came of it.

    Attributes
    ----------
    seed, config, seconds, steps
        Of the run; a step is one fault.
    faults
        SIGKILLs of workers, services and the store, and pauses.
    requests, jobs
        How many by the clients' mode, and by the state in which they ended.
    handed_over
        How often a training has handed its device to shorter work.
    healed
        How many stuck jobs ended after a restart of their service.
    anomalies
        All that is wrong.
    """

    seed: int
    config: str
    seconds: int
    steps: int
    faults: Mapping[str, int]
    requests: Mapping[str, int]
    jobs: Mapping[str, int]
    handed_over: int
    healed: int
    anomalies: Sequence[Anomaly]

    @classmethod
    def of(
        cls, evidence: Evidence, *, seed: int, config: str, seconds: float, steps: int, faults: Mapping[str, int]
    ) -> Summary:
        """Judge the evidence of a run."""
        return cls(
            seed=seed,
            config=config,
            seconds=round(seconds),
            steps=steps,
            faults=dict(faults),
            requests=_counted(request.mode for request in evidence.requests.values()),
            jobs=_counted(state_name(stored.job.state) for stored in evidence.jobs.values()),
            handed_over=sum(
                event.state_change.state == v1.JOB_STATE_QUEUED
                and event.state_change.message.startswith("handed the device")
                for stored in evidence.jobs.values()
                for event in stored.events
            ),
            healed=len(evidence.stuck.healed),
            anomalies=judge(evidence),
        )

    @property
    def counts(self) -> dict[str, int]:
        """How many anomalies there are of each kind, zeros included."""
        found = Counter(anomaly.kind for anomaly in self.anomalies)
        return {str(kind): found[kind] for kind in Kind}

    @property
    def kills(self) -> int:
        """How many SIGKILLs were sent."""
        return sum(count for kind, count in self.faults.items() if kind != "pause")

    def content(self) -> dict[str, Any]:
        """Return what the file holds."""
        return {**asdict(self), "kills": self.kills, "counts": self.counts}

    def table(self) -> str:
        """Return the table of the end of a run."""
        lines = [
            f"seed {self.seed}, {self.config}: {self.steps} steps in {self.seconds} s",
            _line("kills", self.kills, {kind: count for kind, count in self.faults.items() if kind != "pause"}),
            _line("pauses", self.faults.get("pause", 0), {}),
            _line("requests", sum(self.requests.values()), self.requests),
            _line("jobs", sum(self.jobs.values()), self.jobs),
            _line("hand-overs", self.handed_over, {}),
            _line("anomalies", len(self.anomalies), {}),
        ]
        for kind, count in self.counts.items():
            lines.append(f"  {kind:<40}{count:>5}")
            found = [anomaly for anomaly in self.anomalies if anomaly.kind == kind]
            lines += [f"      {anomaly.job + ': ' if anomaly.job else ''}{anomaly.detail}" for anomaly in found[:SHOWN]]
            if len(found) > SHOWN:
                lines.append(f"      and {len(found) - SHOWN} more in summary.json")
        return "\n".join(lines)


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _line(name: str, total: int, parts: Mapping[str, int]) -> str:
    shown = ", ".join(f"{part} {count}" for part, count in parts.items())
    return f"{name:<12}{total:>5}{f'  ({shown})' if shown else ''}"
