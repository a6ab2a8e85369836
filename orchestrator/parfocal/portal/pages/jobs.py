"""Jobs: the list, one job while it works, its events, its end."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response, StreamingResponse

from parfocal import v1
from parfocal.client import Client
from parfocal.client.models import read_model
from parfocal.client.quality import JUDGE_LABEL
from parfocal.client.watching import FINAL_STATES
from parfocal.portal.events import epoch_row, history, job_events
from parfocal.portal.follow import check_key
from parfocal.portal.portal import ClientHere, Portal, PortalHere, go, page, rights_of
from parfocal.portal.sessions import Session
from parfocal.runtime.errors import ParfocalError
from parfocal.runtime.numbers import whole_number
from parfocal.runtime.store.names import versioned_name

router = APIRouter(prefix="/p/{project}")
_PAGE = 50
_FILTERS = {
    "": (),
    "active": (v1.JOB_STATE_QUEUED, v1.JOB_STATE_RUNNING, v1.JOB_STATE_CANCELLING),
    "finished": (v1.JOB_STATE_SUCCEEDED,),
    "failed": (v1.JOB_STATE_FAILED,),
    "cancelled": (v1.JOB_STATE_CANCELLED,),
}


@router.get("/jobs")
def jobs(request: Request, client: ClientHere, state: str = "", page_number: int = 1) -> Response:
    """List the jobs, newest first."""
    number = max(1, page_number)
    tiles = state == "tiles"
    states: tuple[v1.JobState.ValueType, ...] = _FILTERS.get(state, ())
    # What the viewer needs is made by jobs, too, but nobody asked for them by name.
    found = [job for job in client.jobs(states, limit=2 * number * _PAGE + 1) if tiles == job.HasField("derivation")]
    return page(
        request,
        "jobs.html",
        jobs=found[(number - 1) * _PAGE : number * _PAGE],
        state=state if tiles or state in _FILTERS else "",
        number=number,
        more=len(found) > number * _PAGE,
    )


@router.get("/jobs/active")
def active(request: Request, client: ClientHere) -> Response:
    """Return the words of the header on what runs."""
    found = client.jobs(_FILTERS["active"], limit=100)
    return page(request, "_active.html", count=sum(not job.HasField("derivation") for job in found))


@router.get("/jobs/{job_id}")
def job(request: Request, client: ClientHere, portal: PortalHere, job_id: str, epoch: int = 0) -> Response:
    """Show one job, with the pictures after an epoch; the page's script goes on from here."""
    found = client.get(job_id)
    values = job_values(client, portal, found)
    if request.headers.get("hx-request") == "true":
        return page(request, "_job_state.html", job=found, **values)
    rows: list[dict[str, Any]] = []
    if found.WhichOneof("spec") == "training":
        events = history(client, job_id)
        rows = [epoch_row(event) for event in events if event.HasField("epoch_completed")]
    return page(request, "job.html", job=found, rows=rows, shown=_shown(found, epoch), **values)


@router.get("/jobs/{job_id}/pictures")
def pictures(request: Request, client: ClientHere, job_id: str, epoch: int = 0) -> Response:
    """Return the pictures of a training after an epoch; by default the newest."""
    found = client.get(job_id)
    return page(request, "_pictures.html", job=found, shown=_shown(found, epoch))


@router.get("/jobs/{job_id}/pictures/{attempt}-{epoch}/{name}.png")
def picture(client: ClientHere, job_id: str, attempt: int, epoch: int, name: str) -> Response:  # noqa: ARG001
    """Return one picture. It never changes, because its address names the attempt that has made it."""
    png = client.preview(job_id, epoch, name)
    return Response(png, media_type="image/png", headers={"Cache-Control": "private, max-age=86400, immutable"})


@router.get("/jobs/{job_id}/events")
async def events(
    request: Request,
    client: ClientHere,
    job_id: str,
    after: int = 0,
    last_event_id: str | None = Header(default=None),
) -> Response:
    """Stream the events of a job; a browser that lost the connection goes on after the last one it saw."""
    last = whole_number(last_event_id or "")
    seen = max(0, after) if last is None else last
    session: Session | None = request.state.session

    def allowed() -> bool:
        return (session is None or not session.is_over) and rights_of(request).role is not None

    return StreamingResponse(
        job_events(client, job_id, seen, allowed), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
    )


@router.post("/jobs/{job_id}/cancel")
def cancel(request: Request, client: ClientHere, job_id: str, keep: str = "") -> Response:
    """Ask a job to end, keeping the best weights of a training if that is wanted."""
    client.cancel(job_id, keep_best=keep == "best", why="asked for in the portal")
    return go(request, f"/jobs/{job_id}")


@router.post("/jobs/{job_id}/resume")
def resume(request: Request, client: ClientHere, job_id: str) -> Response:
    """Continue a failed or cancelled training from its last checkpoint."""
    client.resume(job_id)
    return go(request, f"/jobs/{job_id}")


def _shown(job: v1.Job, epoch: int) -> v1.TrainingPreview | None:
    """Return the pictures after an epoch, or the newest ones; None where there are none."""
    newest = job.previews[-1] if job.previews else None
    return next((each for each in job.previews if each.epoch == epoch), newest)


def job_values(client: Client, portal: Portal, found: v1.Job) -> dict[str, Any]:
    """Return what the page says of a job besides the job itself."""
    made = next((output.uri for output in found.outputs if output.kind == "model"), "")
    verdict, follows, problem = None, False, ""
    if made:
        key = check_key(client.project, versioned_name(made))
        follows, problem = portal.follower.runs(key), portal.follower.error(key)
        try:
            verdict = read_model(client, made).verdict
        except ParfocalError as error:
            problem = error.message
    return {
        "final": found.state in FINAL_STATES,
        "made": made,
        "verdict": verdict,
        "follows": follows and (verdict is None or verdict.state == "unchecked"),
        "problem": problem,
        "checks": JUDGE_LABEL in found.labels,
    }
