"""Brings flow runs into line with jobs, which are the truth: those of an earlier runner, and those that are missing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any
from uuid import UUID

from parfocal import v1
from parfocal.client import Client
from parfocal.client.quality import JUDGE_LABEL, awaits_verdict
from parfocal.flows._jobs import ACTIVE_STATES, CREATOR_LABEL, job_ending
from parfocal.flows._work import cancel_jobs, connect, jobs_of
from parfocal.flows.hooks import run_of
from parfocal.runtime.access.identity import UNVERIFIED

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State

_log = logging.getLogger("prefect.parfocal.flows")
_LIMIT = 200
# Those that ended lately have a flow run also if a command was faster or they failed: notices tell of it.
_RECENT = timedelta(days=1)


class Fate(Enum):
    """What becomes of a flow run without a process."""

    AGAIN = "taken up again"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LEFT = "left as it is"


@dataclass(frozen=True)
class Decision:
    """The fate of a flow run, and why, in words for its page."""

    fate: Fate
    message: str


def decide(state: str, jobs: Sequence[v1.Job]) -> Decision:
    """Return what becomes of a flow run whose process is gone.

    Parameters
    ----------
    state
        Type of its state in Prefect: "RUNNING", "PENDING", "CANCELLING" or "CRASHED".
    jobs
        Its jobs, newest first.
    """
    active = [job for job in jobs if job.state in ACTIVE_STATES]
    if state == "CANCELLING":
        return Decision(Fate.CANCELLED, "Cancelled while Parfocal was stopped.")
    if active:
        return Decision(
            Fate.AGAIN,
            f"Job {active[0].id} goes on; this run follows it again after a restart of Parfocal.",
        )
    if state == "CRASHED":
        return Decision(Fate.LEFT, "No job of it goes on.")
    if jobs and jobs[0].state == v1.JOB_STATE_FAILED:
        return Decision(Fate.FAILED, job_ending(jobs[0]))
    if jobs and jobs[0].state == v1.JOB_STATE_CANCELLED:
        return Decision(Fate.CANCELLED, job_ending(jobs[0]))
    # Steps that are done are found done: only what is missing is worked at.
    return Decision(Fate.AGAIN, "Parfocal was restarted; this run goes on where it stopped.")


async def reconcile(deployment_ids: Sequence[UUID]) -> list[tuple[UUID, Decision]]:
    """Set the state of all flow runs of these deployments that no process works at; return what was decided.

    To be called before the runner starts its first process.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort

    if not deployment_ids:
        return []
    types = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING, StateType.CRASHED]
    decisions = []
    async with get_client() as client:
        runs = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=types))),
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=list(deployment_ids))),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=_LIMIT,
        )
        for flow_run in runs:
            decision = await asyncio.to_thread(_decide_for, flow_run)
            if decision.fate is not Fate.LEFT:
                await client.set_flow_run_state(flow_run.id, _state(decision), force=True)
                _log.info("flow run %s: %s: %s", flow_run.name, decision.fate.value, decision.message)
                decisions.append((flow_run.id, decision))
    return decisions


def due(jobs: Sequence[v1.Job], now: datetime) -> list[v1.Job]:
    """Return the trainings among the jobs of a project that ask for a verdict and shall have a flow run by now."""

    def ended_lately(job: v1.Job) -> bool:
        ended = job.state in {v1.JOB_STATE_SUCCEEDED, v1.JOB_STATE_FAILED}
        return ended and now - job.finished_at.ToDatetime(UTC) < _RECENT

    labelled = [job for job in jobs if job.HasField("training") and JUDGE_LABEL in job.labels]
    return [job for job in labelled if ended_lately(job) or awaits_verdict(job, jobs)]


async def judge_trainings(client: Client, deployment: UUID, begun: set[str]) -> None:
    """Start one flow run of `judge` for each training that is due, in all projects that the client sees.

    Parameters
    ----------
    deployment
        That of the flow `judge`.
    begun
        Keys of those that have a flow run; what is started is added. Prefect knows the keys too, and starts none twice.
    """
    from prefect.client.orchestration import get_client

    for project in await asyncio.to_thread(client.catalog.projects):
        for job in due(await asyncio.to_thread(client.jobs, project=project), datetime.now(UTC)):
            # One that failed and was resumed ends once more.
            key = f"{project}/{job.id}/{job.attempt}"
            if key in begun:
                continue
            async with get_client() as prefect:
                flow_run = await prefect.create_flow_run_from_deployment(
                    deployment,
                    parameters={"training": job.id, "project": project},
                    labels={CREATOR_LABEL: job.created_by} if job.created_by != UNVERIFIED.name else {},
                    idempotency_key=key,
                )
            begun.add(key)
            _log.info("flow run %s judges the model of the training %s of %s", flow_run.name, job.id, project)


def _decide_for(flow_run: FlowRun) -> Decision:
    state = flow_run.state_type.value if flow_run.state_type else ""
    with connect(str(flow_run.parameters.get("project") or "")) as client:
        run = run_of(flow_run)
        decision = decide(state, jobs_of(client, run))
        if decision.fate is Fate.CANCELLED:
            cancel_jobs(client, run, "the flow run was cancelled in Prefect")
    return decision


def _state(decision: Decision) -> State[Any]:
    from prefect.states import AwaitingRetry, Cancelled, Failed

    make = {Fate.AGAIN: AwaitingRetry, Fate.FAILED: Failed, Fate.CANCELLED: Cancelled}[decision.fate]
    state: State[Any] = make(message=decision.message)
    return state
