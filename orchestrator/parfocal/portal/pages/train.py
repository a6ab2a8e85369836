"""The form of a training, made from what the method publishes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from parfocal import v1
from parfocal.client import Client
from parfocal.client.datasets import list_datasets, read_dataset
from parfocal.client.estimates import Estimate, estimate_training
from parfocal.client.models import list_models, read_model
from parfocal.client.previews import preview_stored
from parfocal.client.quality import JUDGE_LABEL
from parfocal.client.requests import training_request
from parfocal.client.watching import FINAL_STATES
from parfocal.portal.follow import follow_training
from parfocal.portal.forms import decisive_parameters, make_form, sent_parameters
from parfocal.portal.guard import require_work
from parfocal.portal.portal import ClientHere, Portal, PortalHere, go, page
from parfocal.portal.words import title_in
from parfocal.runtime.datasets.kinds import needed_title, suits
from parfocal.runtime.errors import InvalidInputError, NotFoundError, ParfocalError, Violation
from parfocal.runtime.store.names import check_request_id, is_name, new_request_id

_RECENT: Final = 200
# Parameters that decide what patches look like begin so.
_PATCHES: Final = ("augment_", "patch_")
router = APIRouter(prefix="/p/{project}")


@router.get("/train", dependencies=[Depends(require_work)])
def train(
    request: Request,
    client: ClientHere,
    portal: PortalHere,
    method: str = "",
    dataset: str = "",
    preset: str = "",
    initial: str = "",
) -> Response:
    """Show the form of a training."""
    values = _values(client, portal, method, dataset)
    chosen = values["method"]
    if chosen is None:
        return page(request, "train_choose.html", **values)
    names = [each.name for each in chosen.presets]
    # A first try should be quick, and the first preset is for that.
    preset = preset if preset in names or preset == "standard" else (names[0] if names else "standard")
    form = make_form(chosen, v1.JOB_KIND_TRAINING, preset="" if preset == "standard" else preset)
    return page(
        request,
        "train.html",
        form=form,
        estimate=_estimate(client, chosen, values, {field.name: field.value for field in form.fields}),
        preset=preset,
        # A model that goes on from another one is its next version.
        model=initial.rpartition("/")[2].partition(":")[0] or _suggested(dataset, chosen),
        initial=initial,
        check=True,
        request_id=new_request_id(f"train-{chosen.name}"),
        patches_query=_patches_query(chosen, dataset, {field.name: field.value for field in form.fields}),
        **values,
    )


@router.get("/train/from")
def fine_tune(request: Request, client: ClientHere, dataset: str = "", model: str = "") -> Response:
    """Go to the form that goes on with a model on another dataset."""
    found = read_model(client, model).manifest
    query = urlencode({"method": found.method, "dataset": dataset, "initial": title_in(client.project, found)})
    return go(request, f"/train?{query}")


@router.post("/train/estimate", dependencies=[Depends(require_work)])
async def estimate(request: Request, client: ClientHere, portal: PortalHere) -> Response:
    """Say anew what a training will need, after something in its form was changed."""
    sent = {name: str(value) for name, value in (await request.form()).items()}

    def answer() -> Response:
        values = _values(client, portal, sent.get("method", ""), sent.get("dataset", ""))
        chosen: v1.Method | None = values["method"]
        if chosen is None:
            return Response(status_code=204)
        return page(request, "_estimate.html", estimate=_estimate(client, chosen, values, _own(sent)), **values)

    return await run_in_threadpool(answer)


@router.post("/train")
async def start(request: Request, client: ClientHere, portal: PortalHere) -> Response:
    """Start a training; what is refused comes back with the values as they were sent."""
    sent = {name: str(value) for name, value in (await request.form()).items()}
    return await run_in_threadpool(_start, request, client, portal, sent)


def _start(request: Request, client: Client, portal: Portal, sent: dict[str, str]) -> Response:
    dataset, model = sent.get("dataset", ""), sent.get("model", "").strip()
    values = _values(client, portal, sent.get("method", ""), dataset)
    chosen: v1.Method | None = values["method"]
    if chosen is None:
        raise NotFoundError(f"No service offers the method {sent.get('method', '')!r} now. Choose another one.")
    own = _own(sent)
    request_id = check_request_id(sent.get("request_id", "") or new_request_id(f"train-{chosen.name}"))
    initial = sent.get("initial", "").strip()
    try:
        if not is_name(model):
            text = "Give the model a name of letters, digits, '.', '_' or '-', beginning with a letter or digit."
            raise InvalidInputError(text, [Violation("training.model", text)])
        if not dataset:
            text = "Choose the dataset to train on."
            raise InvalidInputError(text, [Violation("training.dataset_uri", text)])
        parameters = sent_parameters(chosen, v1.JOB_KIND_TRAINING, own)
        made = training_request(
            chosen.name,
            client.dataset_uri(dataset),
            model,
            parameters,
            initial_model_uri=client.model_uri(initial) if initial else "",
            request_id=request_id,
            labels={JUDGE_LABEL: "test"} if sent.get("check") else {},
        )
        job = client.start(made)
    except ParfocalError as error:
        form = make_form(chosen, v1.JOB_KIND_TRAINING, sent=own, error=error)
        fields = {violation.field.rsplit(".", 1)[-1] for violation in error.violations}
        return page(
            request,
            "train.html",
            422,
            form=form,
            estimate=_estimate(client, chosen, values, own),
            preset=sent.get("preset", ""),
            model=model,
            initial=initial,
            check=bool(sent.get("check")),
            request_id=request_id,
            error=error,
            patches_query=_patches_query(chosen, values["dataset"], own),
            **values,
            wrong_name="model" in fields,
            wrong_dataset="dataset_uri" in fields,
        )
    follow_training(portal.follower, client, job)
    return go(request, f"/jobs/{job.id}")


@router.get("/train/patches.png")
def patches(request: Request, client: ClientHere, portal: PortalHere, method: str = "", dataset: str = "") -> Response:
    """Return a sheet of patches as a training with the parameters in a form sees them."""
    chosen = portal.method(client, method)
    if chosen is None:
        raise NotFoundError(f"No service offers the method {method!r} now.")
    try:
        parameters = decisive_parameters(chosen, v1.JOB_KIND_TRAINING, _own(request.query_params), _PATCHES)
    except InvalidInputError:
        parameters = {}  # the form says what is wrong
    sheet = preview_stored(client, dataset, parameters, augmented=True)
    return Response(sheet, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})


def _patches_query(method: v1.Method, dataset: str, values: Mapping[str, str]) -> str:
    """Return what the address of the sheet of patches says of the values in a form."""
    chosen = {f"p.{name}": value for name, value in values.items() if name.startswith(_PATCHES)}
    return urlencode({"method": method.name, "dataset": dataset, **chosen})


def _own(sent: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters in a form that was sent; boxes without a tick are not."""
    return {name.removeprefix("p."): value for name, value in sent.items() if name.startswith("p.")} | {"sent": "yes"}


def _estimate(client: Client, method: v1.Method, values: Mapping[str, Any], own: Mapping[str, str]) -> Estimate | None:
    """Return what is known of a training with the parameters in a form; nothing while one of them is wrong."""
    try:
        chosen = sent_parameters(method, v1.JOB_KIND_TRAINING, own)
        return estimate_training(client, method, values["manifest"], chosen, values["jobs"])
    except ParfocalError:
        return None


def _values(client: Client, portal: Portal, method: str, dataset: str) -> dict[str, Any]:
    chosen = portal.method(client, method) if method else None
    options = []
    for each in list_datasets(client, shared=True):
        fits = chosen is None or suits(each.kind, chosen.data_requirements.target)
        reason = "" if fits or chosen is None else f"needs {needed_title(chosen.data_requirements.target)}"
        options.append({"name": title_in(client.project, each), "fits": fits, "reason": reason})
    manifest = None
    if dataset:
        try:
            manifest = read_dataset(client, dataset)
        except ParfocalError:
            dataset = ""
    return {
        "method": chosen,
        "methods": portal.methods(client),
        "dataset": dataset if manifest else "",
        "manifest": manifest,
        "datasets": options,
        **_before(client, chosen),
        "models": [
            title_in(client.project, each.manifest)
            for each in list_models(client, shared=True)
            if chosen is not None and each.manifest.method == chosen.name
        ],
    }


def _before(client: Client, method: v1.Method | None) -> dict[str, Any]:
    """Return the newest finished training of a method, which says how long one takes here, and what is ahead now."""
    if method is None:
        return {"earlier": None, "ahead": 0, "jobs": []}
    jobs = client.jobs(limit=_RECENT)
    done = (job for job in jobs if job.state == v1.JOB_STATE_SUCCEEDED and job.WhichOneof("spec") == "training")
    active = (job for job in jobs if job.state not in FINAL_STATES and not job.HasField("derivation"))
    return {
        "jobs": jobs,
        "earlier": next((job for job in done if job.method == method.name and job.progress.epoch), None),
        "ahead": sum(1 for _ in active),
    }


def _suggested(dataset: str, method: v1.Method) -> str:
    """Return a name for the model: that of its dataset with the method's."""
    name = f"{dataset.rpartition('/')[2].partition(':')[0]}-{method.name}" if dataset else method.name
    return name[:63]
