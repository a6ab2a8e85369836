"""The operator's page: services, devices, what waits, what fails and why."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from parfocal import v1
from parfocal.client.watching import FINAL_STATES, seconds_at_work
from parfocal.portal.portal import ClientHere, PortalHere, page, rights_of
from parfocal.runtime.access.identity import UNVERIFIED
from parfocal.runtime.errors import ParfocalError, PermissionDeniedError


def require_operator(request: Request) -> None:
    """Raise PermissionDeniedError unless whoever asks is an operator of the project."""
    rights = rights_of(request)
    if rights.role is not None and not rights.operate:
        raise PermissionDeniedError(
            f"You ({rights.name}) are a {rights.role.title} of the project {request.path_params['project']!r}; "
            "this page is for its operators."
        )


router = APIRouter(prefix="/p/{project}", dependencies=[Depends(require_operator)])
_RECENT = 500


@router.get("/operator/storage")
def storage(request: Request, client: ClientHere) -> Response:
    """Show what the project keeps; it is counted when somebody asks, which can take a while."""
    usages: Sequence[v1.Usage] = ()
    problem = ""
    try:
        usages = client.catalog.usage()
    except ParfocalError as error:
        problem = error.message
    return page(request, "_storage.html", usages=usages, problem=problem)


@router.get("/operator")
def operator(request: Request, client: ClientHere, portal: PortalHere) -> Response:
    """Show what is down, full or failing."""
    jobs: list[v1.Job] = []
    problem = ""
    try:
        jobs = client.jobs(limit=_RECENT)
    except ParfocalError as error:
        problem = error.message
    reasons: dict[tuple[str, str], list[v1.Job]] = defaultdict(list)
    for job in jobs:
        if job.state == v1.JOB_STATE_FAILED:
            reasons[(job.service, job.error.reason or "UNKNOWN")].append(job)
    spent: Counter[str] = Counter()
    people: dict[str, Counter[str]] = defaultdict(Counter)
    for job in jobs:
        person = people["" if job.created_by == UNVERIFIED.name else job.created_by]
        person["jobs"] += 1
        person["failed"] += job.state == v1.JOB_STATE_FAILED
        if job.HasField("started_at"):
            seconds = round(seconds_at_work(job))
            spent[job.service] += seconds
            person["seconds"] += seconds
    return page(
        request,
        "operator.html",
        infos=portal.services(client),
        problem=problem,
        waiting=[job for job in reversed(jobs) if job.state == v1.JOB_STATE_QUEUED],
        running=[job for job in jobs if job.state not in FINAL_STATES and job.state != v1.JOB_STATE_QUEUED],
        reasons=sorted(reasons.items(), key=lambda item: -len(item[1])),
        spent=spent,
        people=sorted(people.items(), key=lambda item: -item[1]["seconds"]),
        since=jobs[-1].created_at if jobs else None,
        counted=len(jobs),
    )
