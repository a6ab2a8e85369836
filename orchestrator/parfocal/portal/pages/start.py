"""The start page: what needs attention, what runs, what is new."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from parfocal import v1
from parfocal.client import Client
from parfocal.client.datasets import list_datasets
from parfocal.client.models import ModelSummary, list_models
from parfocal.client.watching import FINAL_STATES
from parfocal.portal.portal import ClientHere, PortalHere, page, together
from parfocal.portal.words import makes_prediction, subject, title_in, work
from parfocal.runtime.errors import ParfocalError
from parfocal.runtime.store.manifests import DatasetManifest

router = APIRouter(prefix="/p/{project}")
_RECENT = 60
_SEARCHED, _SHOWN = 500, 50


@router.get("/")
def start(request: Request, client: ClientHere, portal: PortalHere) -> Response:
    """Show what needs somebody, what runs and what is new."""
    problems = []
    jobs: list[v1.Job] = []
    models: list[ModelSummary] = []
    datasets: list[DatasetManifest] = []
    asked = together(lambda: _recent_jobs(client), lambda: list_models(client), lambda: list_datasets(client))
    try:
        jobs = asked[0].result()
    except ParfocalError as error:
        problems.append(error.message)
    try:
        models, datasets = asked[1].result(), asked[2].result()
    except ParfocalError as error:
        problems.append(error.message)
    failed = [job for job in jobs if job.state == v1.JOB_STATE_FAILED]
    newest: dict[str, ModelSummary] = {}
    for model in models:
        newest.setdefault(model.manifest.model, model)
    recent = sorted(models, key=lambda model: model.manifest.created_at, reverse=True)
    return page(
        request,
        "start.html",
        problems=list(dict.fromkeys(problems)),
        silent=[info for info in portal.services(client) if info.error],
        running=[job for job in jobs if job.state not in FINAL_STATES],
        failed=failed[:4],
        doubtful=[model for model in newest.values() if model.verdict.state == "failed"][:3],
        models=recent[:5],
        datasets=sorted(datasets, key=lambda each: each.created_at, reverse=True)[:5],
        results=[job for job in jobs if _is_result(job)][:5],
        uploads=portal.uploads.open(client.project)[:3],
    )


def _recent_jobs(client: Client) -> list[v1.Job]:
    return [job for job in client.jobs(limit=_RECENT) if not job.HasField("derivation")]


@router.get("/search")
def search(request: Request, client: ClientHere, q: str = "") -> Response:
    """Show the datasets, models and jobs whose names have all words of a question."""
    words = q.casefold().split()

    def found(*texts: str) -> bool:
        text = " ".join(texts).casefold()
        return bool(words) and all(word in text for word in words)

    jobs = [job for job in client.jobs(limit=_SEARCHED) if not job.HasField("derivation")] if words else []
    return page(
        request,
        "search.html",
        q=q,
        datasets=[
            each
            for each in (list_datasets(client, shared=True) if words else [])
            if found(title_in(client.project, each), each.description)
        ],
        models=[
            each
            for each in (list_models(client, shared=True) if words else [])
            if found(title_in(client.project, each.manifest), each.manifest.method)
        ],
        jobs=[job for job in jobs if found(job.id, job.method, work(job), subject(job))][:_SHOWN],
    )


def _is_result(job: v1.Job) -> bool:
    """Return whether a job predicted somebody's own images, rather than those of a dataset to be judged."""
    return job.state == v1.JOB_STATE_SUCCEEDED and makes_prediction(job) and not job.prediction.split
