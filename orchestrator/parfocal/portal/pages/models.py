"""Models: the list, and one model with its verdict, scores, images, report and lineage."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from parfocal.client import Client
from parfocal.client.datasets import list_datasets, read_dataset
from parfocal.client.models import ModelSummary, list_models, read_model
from parfocal.client.published import read_manifest
from parfocal.client.quality import evaluation_summary
from parfocal.client.results import part_words
from parfocal.portal.follow import Steps, check_key, check_model
from parfocal.portal.layers import evaluation_config
from parfocal.portal.pages.files import picture_url, result_of
from parfocal.portal.portal import ClientHere, PortalHere, go, page, prepare_tiles
from parfocal.portal.words import address, named, title_in
from parfocal.runtime.errors import ParfocalError
from parfocal.runtime.store.evaluations import METRICS_FILE, EvaluationSummary, Metric
from parfocal.runtime.store.manifests import ResultManifest
from parfocal.runtime.store.names import check_request_id, new_request_id, versioned_name
from parfocal.runtime.store.scores import Scores
from parfocal.runtime.store.store import Location

router = APIRouter(prefix="/p/{project}")
_LISTED: Final = 50
_IMAGE: Final = (".tif", ".tiff", ".png")


@router.get("/models")
def models(request: Request, client: ClientHere, state: str = "") -> Response:
    """List the models."""
    damaged: list[str] = []
    found = list_models(client, lambda error: damaged.append(error.message), shared=True)
    newest: dict[tuple[str, str], ModelSummary] = {}
    for model in found:
        newest.setdefault((model.manifest.project, model.manifest.model), model)
    shown = [model for model in newest.values() if state in {"", model.verdict.state}]
    return page(
        request, "models.html", models=shown, total=len(newest), versions=_versions(found), damaged=damaged, state=state
    )


@router.get("/models/{name}/{version}")
def model(request: Request, client: ClientHere, portal: PortalHere, name: str, version: int) -> Response:
    """Show whether a model can be trusted, and why."""
    name = named(name)
    summary = read_model(client, f"{name}:{version}")
    own = summary.manifest.project == client.project
    every = list_models(client, shared=not own)
    key = check_key(client.project, f"{name}:{version}")
    running = portal.follower.runs(key)
    values: dict[str, Any] = {
        "model": summary,
        "manifest": summary.manifest,
        "verdict": summary.verdict,
        "versions": _versions(every).get((summary.manifest.project, summary.manifest.model), []),
        "children": [each for each in every if each.manifest.parent == summary.uri],
        "running": running,
        "problem": portal.follower.error(key),
        "method": portal.method(client, summary.manifest.method),
        "judged": None,
        "tiles_note": "",
        "quality_problem": "",
        "request_id": new_request_id(f"check-{name}"),
        # Quality control writes its verdict beside the model, which is another project's.
        "testable": _testable(client, summary) if own else [],
        "own": own,
        "part": part_words(client, summary.manifest),
        "trained_on": versioned_name(summary.manifest.dataset_uri, client.project)
        if own and summary.manifest.dataset_uri
        else "",
    }
    if summary.verdict.job and own:
        try:
            values["judged"] = _judged(client, summary)
            values["judged"]["labels"] = portal.makes_labels(client, summary.manifest.method)
            values["tiles_note"] = prepare_tiles(request, client, values["judged"]["shown"])
        except ParfocalError as error:
            values["quality_problem"] = error.message
    return page(request, "model.html", **values)


@router.get("/models/{name}/{version}/verdict")
def verdict(request: Request, client: ClientHere, portal: PortalHere, name: str, version: int) -> Response:
    """Return the verdict alone, which the page asks for while quality control works."""
    name = named(name)
    summary = read_model(client, f"{name}:{version}")
    key = check_key(client.project, f"{name}:{version}")
    running = portal.follower.runs(key)
    if not running and summary.verdict.state != "unchecked":
        return Response(status_code=204, headers={"HX-Refresh": "true"})
    return page(
        request,
        "_verdict.html",
        manifest=summary.manifest,
        verdict=summary.verdict,
        running=running,
        problem=portal.follower.error(key),
        judged=None,
    )


@router.get("/models/{name}/{version}/viewer.json")
def viewer(client: ClientHere, portal: PortalHere, name: str, version: int) -> Response:
    """Tell the viewer of the test images, the worst first."""
    summary = read_model(client, f"{name}:{version}")
    place, result = result_of(client, summary.verdict.job)
    found = evaluation_summary(client, str(place))
    scores = found.scores(client.catalog.read(str(place), METRICS_FILE).decode("utf-8", "replace"))
    order = _ranked(scores, found.primary)
    return JSONResponse(
        evaluation_config(client, place, result, order, labels=portal.makes_labels(client, summary.manifest.method))
    )


@router.post("/models/{name}/{version}/check")
async def check(request: Request, client: ClientHere, portal: PortalHere, name: str, version: int) -> Response:
    """Have quality control judge a model on the test images of a dataset."""
    form = await request.form()
    dataset = str(form.get("dataset", ""))
    origin = check_request_id(str(form.get("request_id", "")) or new_request_id(f"check-{name}"))
    uri = await run_in_threadpool(client.model_uri, f"{name}:{version}")
    key = check_key(client.project, f"{name}:{version}")
    portal.follower.begin(key, lambda: check_model(client, uri, dataset, Steps(client, origin)))
    return go(request, f"/models/{name}/{version}")


def score_rows(summary: EvaluationSummary) -> list[dict[str, Any]]:
    """Return one row for each metric that people are shown: its mean for input, baseline and prediction."""
    rows = []
    for metric in summary.shown_metrics:
        cells = []
        for kind in summary.names:
            found = summary.metrics[kind].get(metric.key)
            text, interval = "–", ""
            if found is not None:
                text = metric.number(found.mean)
                if found.low is not None and found.high is not None:
                    interval = f"95 % interval {metric.number(found.low)} to {metric.number(found.high)}"
            cells.append({"kind": kind, "text": text, "interval": interval})
        rows.append({"metric": metric, "cells": cells})
    return rows


def _judged(client: Client, model: ModelSummary) -> dict[str, Any]:
    """Return what the newest evaluation found."""
    job = model.verdict.job
    place, result = result_of(client, job)
    summary = evaluation_summary(client, str(place))
    scores = summary.scores(client.catalog.read(str(place), METRICS_FILE).decode("utf-8", "replace"))
    primary = summary.primary
    kinds = list(summary.names)
    images = _ranked(scores, primary)
    names = {entry.public_name for entry in result.files}
    predicted = _prediction_pictures(client, result)
    return {
        "job": job,
        "summary": summary,
        "parts": {role: score_rows(part) for role, part in summary.parts.items()},
        "names": summary.names,
        "figures": sorted(
            (name for name in names if name.endswith(".png") and "/" not in name),
            key=lambda name: (name != "figure.png", name),
        ),
        "files": names,
        "dataset": versioned_name(result.input_uri, client.project) if result.input_uri else "",
        "split": result.split,
        "primary": primary,
        "kinds": kinds,
        "shown": [uri for uri in (result.input_uri, _scored(result), str(place)) if uri],
        "images": [
            {
                "name": name,
                "scores": [_cell(scores, kind, name, primary) for kind in kinds],
                "pictures": predicted.get(name.rsplit(".", 1)[0], predicted.get(name, {})),
            }
            for name in images[:_LISTED]
        ],
        "more": max(0, len(images) - _LISTED),
    }


def _ranked(scores: Scores, metric: Metric) -> list[str]:
    """Return the names of the predicted images, the worst first."""
    sign = -1 if metric.better == "lower" else 1
    values = scores.get("prediction", {})
    return sorted(values, key=lambda name: sign * values[name].get(metric.key, float("-inf") * sign))


def _cell(scores: Scores, kind: str, image: str, metric: Metric) -> str:
    value = scores.get(kind, {}).get(image, {}).get(metric.key)
    return "–" if value is None else metric.number(value)


def _scored(result: ResultManifest) -> str:
    """Return the address of the prediction that an evaluation scored, which it names for each image."""
    return next((uri for image in result.images if (uri := image.outputs.get("prediction", ""))), "")


def _prediction_pictures(client: Client, result: ResultManifest) -> dict[str, dict[str, str]]:
    """Return by the stem of a test image where its input, prediction and target can be seen."""
    found: dict[str, dict[str, str]] = {}
    base = f"/p/{client.project}"
    dataset = versioned_name(result.input_uri, client.project) if result.input_uri else ""
    prediction = _scored(result)
    if dataset:
        for image in read_dataset(client, dataset).images:
            if image.split != result.split:
                continue
            role = {"source": "Input", "target": "Target"}.get(image.role)
            if role:
                found.setdefault(image.stem, {})[role] = picture_url(f"{base}/data/{address(dataset)}", image.file)
    if prediction:
        place = Location.parse(prediction)
        predicted = read_manifest(client, prediction, ResultManifest)
        for each in predicted.images:
            output = next((file for file in each.outputs.values() if file.endswith(_IMAGE)), "")
            if output:
                stem = each.input.rsplit("/", 1)[-1].rsplit(".", 1)[0]
                entry = next((entry for entry in predicted.files if entry.name == output), None)
                if entry is not None:
                    url = picture_url(f"{base}/results/{place.name}", entry.public_name)
                    found.setdefault(stem, {})["Prediction"] = url
    return found


def _versions(models: list[ModelSummary]) -> dict[tuple[str, str], list[ModelSummary]]:
    found: dict[tuple[str, str], list[ModelSummary]] = {}
    for each in models:
        found.setdefault((each.manifest.project, each.manifest.model), []).append(each)
    return found


def _testable(client: Client, model: ModelSummary) -> list[str]:
    """Return the datasets with test images on which a model can be judged, that of its training first."""
    own = versioned_name(model.manifest.dataset_uri, client.project) if model.manifest.dataset_uri else ""
    datasets = list_datasets(client, shared=True)
    names = [title_in(client.project, each) for each in datasets if each.can_be_judged_by("test")]
    return sorted(names, key=lambda name: (name != own, name))
