"""Comparisons: two models on the same test images."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from parfocal import v1
from parfocal.client import Client
from parfocal.client.comparisons import Comparison, difference_rows, mean_rows, plan_comparison, ranking_sentence
from parfocal.client.datasets import list_datasets
from parfocal.client.models import list_models, read_model
from parfocal.client.quality import published_summary
from parfocal.client.results import result_uri
from parfocal.portal.follow import compare_key, compare_models
from parfocal.portal.portal import ClientHere, PortalHere, go, page
from parfocal.portal.words import plain
from parfocal.runtime.errors import ParfocalError
from parfocal.runtime.store.names import check_request_id, new_request_id, versioned_name

router = APIRouter(prefix="/p/{project}")


@router.get("/compare")
def compare(
    request: Request, client: ClientHere, portal: PortalHere, a: str = "", b: str = "", dataset: str = ""
) -> Response:
    """Show whether one of two models is better on the same test images."""
    values: dict[str, Any] = {
        "a": a,
        "b": b,
        "dataset": dataset,
        "models": list_models(client),
        "datasets": [each for each in list_datasets(client) if each.can_be_judged_by("test")],
        "running": False,
        "problem": "",
        "found": None,
        "planned": False,
        "request_id": new_request_id("compare"),
    }
    if a and b and dataset:
        try:
            plan = plan_comparison(client, (a, b), (), dataset)
            key = compare_key(client.project, plan)
            values |= {
                "planned": True,
                "running": portal.follower.runs(key),
                "problem": portal.follower.error(key),
                "found": _found(client, plan),
            }
        except ParfocalError as error:
            values["problem"] = error.message
    return page(request, "_compared.html" if request.headers.get("hx-request") else "compare.html", **values)


@router.post("/compare")
async def begin(request: Request, client: ClientHere, portal: PortalHere) -> Response:
    """Have two models compared; they are judged first where they have not been."""
    form = {name: str(value) for name, value in (await request.form()).items()}
    a, b, dataset = (form.get(name, "") for name in ("a", "b", "dataset"))
    plan = await run_in_threadpool(plan_comparison, client, (a, b), (), dataset)
    origin = check_request_id(form.get("request_id", "") or new_request_id("compare"))
    portal.follower.begin(compare_key(client.project, plan), lambda: compare_models(client, plan, origin))
    return go(request, f"/compare?{urlencode({'a': a, 'b': b, 'dataset': dataset})}")


def _found(client: Client, plan: Comparison) -> dict[str, Any] | None:
    """Return the newest comparison of the models on the dataset; None if there is none."""
    wanted = {versioned_name(uri) for uri in plan.model_uris}
    for job in client.jobs((v1.JOB_STATE_SUCCEEDED,)):
        if job.WhichOneof("spec") != "comparison" or job.comparison.dataset_uri != plan.dataset_uri or not job.outputs:
            continue
        summary = published_summary(client, result_uri(job))
        if {each["name"] for each in summary["candidates"] if each["kind"] == "model"} == wanted:
            first, second = (read_model(client, uri).manifest for uri in plan.model_uris)
            names = sorted(first.parameters.keys() | second.parameters.keys())
            return {
                "job": job,
                "summary": summary,
                "decided": any(
                    {test["first"], test["second"]} == wanted and test["outcome"] != "not shown"
                    for test in summary["tests"]
                ),
                "targets": {
                    target: {
                        "means": mean_rows(summary, target),
                        "differences": difference_rows(summary, target),
                        "ranking": ranking_sentence(summary, target),
                    }
                    for target in summary["metrics"]
                },
                "differs": [
                    (name, plain(first.parameters.get(name)), plain(second.parameters.get(name)))
                    for name in names
                    if first.parameters.get(name) != second.parameters.get(name)
                ],
            }
    return None
