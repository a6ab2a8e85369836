"""Comparisons: two models on the same test images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from parfocal import v1
from parfocal.client import Client
from parfocal.client.comparisons import Comparison, difference_rows, mean_rows, plan_comparison, ranking_sentence
from parfocal.client.datasets import list_datasets
from parfocal.client.models import list_models, read_model
from parfocal.client.published import read_manifest
from parfocal.client.quality import published_summary
from parfocal.client.results import result_uri
from parfocal.portal.follow import compare_key, compare_models
from parfocal.portal.layers import comparison_config
from parfocal.portal.portal import ClientHere, PortalHere, go, page, prepare_tiles
from parfocal.portal.words import plain
from parfocal.runtime.errors import NotFoundError, ParfocalError
from parfocal.runtime.store.evaluations import Metric
from parfocal.runtime.store.manifests import ResultManifest
from parfocal.runtime.store.names import check_request_id, new_request_id

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
        "models": list_models(client, shared=True),
        "datasets": [each for each in list_datasets(client, shared=True) if each.can_be_judged_by("test")],
        "running": False,
        "problem": "",
        "found": None,
        "planned": False,
        "tiles_note": "",
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
            if values["found"] and not values["found"]["deleted"]:
                values["tiles_note"] = prepare_tiles(request, client, values["found"]["shown"])
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


@router.get("/compare/viewer.json")
def viewer(client: ClientHere, a: str = "", b: str = "", dataset: str = "") -> Response:
    """Tell the viewer of the test images with the predictions of both models, the largest difference first."""
    found = _found(client, plan_comparison(client, (a, b), (), dataset))
    if found is None:
        raise NotFoundError(f"{a} and {b} have not been compared on {dataset} yet.")
    if found["deleted"]:
        raise NotFoundError(found["deleted"])
    order = {each["name"]: each["note"] for each in found["images"]}
    return JSONResponse(comparison_config(client, found["evaluations"], order))


def _images(metric: Metric, compared: Sequence[tuple[str, ResultManifest]]) -> list[dict[str, Any]]:
    """Return the images that all models were scored on, the largest difference between two of them first."""
    scores = [{each.input: each.metrics.get(metric.key) for each in result.images} for _, result in compared]
    rows = []
    for name in scores[0]:
        values = [value for each in scores if (value := each.get(name)) is not None]
        if len(values) == len(scores):
            texts = [metric.number(value) for value in values]
            note = ", ".join(f"{model} {text}" for (model, _), text in zip(compared, texts, strict=True))
            rows.append(
                {
                    "name": name,
                    "scores": texts,
                    "note": f"{metric.heading}: {note}",
                    "difference": metric.number(values[1] - values[0], signed=True),
                    "size": abs(values[1] - values[0]),
                }
            )
    return sorted(rows, key=lambda row: -row["size"])


def _deleted(names: Sequence[str]) -> str:
    """Return what to say where evaluations of models are gone; nothing where there are none."""
    if not names:
        return ""
    which = "evaluation" if len(names) == 1 else "evaluations"
    return (
        f"The {which} of {' and '.join(names)} on these images {'was' if len(names) == 1 else 'were'} deleted, so "
        "single images cannot be shown side by side. The means and differences below are those of the comparison."
    )


def _found(client: Client, plan: Comparison) -> dict[str, Any] | None:
    """Return the newest comparison of the models on the dataset that is still there; None if there is none."""
    for job in client.jobs((v1.JOB_STATE_SUCCEEDED,)):
        if job.WhichOneof("spec") != "comparison" or job.comparison.dataset_uri != plan.dataset_uri or not job.outputs:
            continue
        try:
            summary = published_summary(client, result_uri(job))
        except NotFoundError:  # it was deleted
            continue
        by_uri = {each["model_uri"]: each for each in summary["candidates"] if each["kind"] == "model"}
        if by_uri.keys() == {*plan.model_uris}:
            first, second = (read_model(client, uri).manifest for uri in plan.model_uris)
            chosen = [by_uri[uri] for uri in plan.model_uris]
            wanted = {each["name"] for each in chosen}
            compared, gone = [], []
            for each in chosen:
                try:
                    compared.append((each["name"], read_manifest(client, each["evaluation_uri"], ResultManifest)))
                except NotFoundError:
                    gone.append(each["name"])
            metric = next(
                Metric.model_validate(column) for column in summary["columns"] if column["key"] == summary["ranked_by"]
            )
            names = sorted(first.parameters.keys() | second.parameters.keys())
            return {
                "job": job,
                "summary": summary,
                "evaluations": compared,
                "metric": metric,
                "deleted": _deleted(gone),
                "images": [] if gone else _images(metric, compared),
                "shown": [plan.dataset_uri, *(each["prediction_uri"] for each in chosen)],
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
