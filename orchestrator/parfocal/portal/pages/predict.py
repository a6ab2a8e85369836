"""Predictions: one image at once, all of them as a job, and what came out."""

from __future__ import annotations

import io
import tempfile
import threading
import time
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from parfocal import v1
from parfocal.client import Client
from parfocal.client.convert import WHOLE, convert, part_of_image
from parfocal.client.datasets import list_datasets, read_dataset
from parfocal.client.models import ModelSummary, list_models, read_model
from parfocal.client.requests import prediction_request
from parfocal.client.results import find_inputs, taken_in_training, unsuitable_inputs, upload_inputs
from parfocal.client.single_images import PredictedImage
from parfocal.portal.forms import make_form, sent_parameters
from parfocal.portal.guard import require_work
from parfocal.portal.layers import has_areas, prediction_config
from parfocal.portal.pages.files import fetched, picture_url, result_of
from parfocal.portal.pictures import display_limits, middle_plane, picture
from parfocal.portal.portal import ClientHere, Portal, PortalHere, go, page, prepare_tiles
from parfocal.portal.tables import Table, place_of, read_table
from parfocal.portal.words import address, makes_prediction, title_in
from parfocal.runtime.errors import InvalidInputError, NotFoundError, ParfocalError, Violation, refusal
from parfocal.runtime.images.files import Image, ImageLimits, image_stem, inspect_image, read_image
from parfocal.runtime.store.manifests import DatasetManifest, ResultManifest
from parfocal.runtime.store.names import check_request_id, new_request_id, versioned_name
from parfocal.runtime.store.store import Location

router = APIRouter(prefix="/p/{project}")
_TRIED_AT_ONCE, _TRIED_SECONDS = 16, 900.0
_SIDE: Final = 720
_PAGE: Final = 24
_ROWS: Final = 200
_FOUND: Final = ("objects", "detections", "localisations")
_IMAGE: Final = (".tif", ".tiff", ".png")


class _Tried:
    """Pictures of images that were tried lately; nobody needs them when the page is closed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[float, dict[str, bytes]]] = OrderedDict()

    def keep(self, project: str, key: str, pictures: dict[str, bytes]) -> None:
        with self._lock:
            self._kept[f"{project}/{key}"] = (time.monotonic(), pictures)
            while len(self._kept) > _TRIED_AT_ONCE:
                self._kept.popitem(last=False)

    def get(self, project: str, key: str, name: str) -> bytes:
        with self._lock:
            kept = self._kept.get(f"{project}/{key}")
        if kept is None or time.monotonic() - kept[0] > _TRIED_SECONDS or name not in kept[1]:
            raise NotFoundError("This picture is no longer there. Try the image again.")
        return kept[1][name]


_tried = _Tried()


@router.get("/predict", dependencies=[Depends(require_work)])
def predict(request: Request, client: ClientHere, portal: PortalHere, model: str = "", input: str = "") -> Response:
    """Choose a model and images; try one, then predict all."""
    return page(request, "predict.html", **_values(client, portal, model, input))


@router.post("/predict/try")
async def try_one(request: Request, client: ClientHere, portal: PortalHere) -> Response:
    """Predict one image at once."""
    sent = {name: str(value) for name, value in (await request.form()).items()}
    return await run_in_threadpool(_try, request, client, portal, sent)


@router.get("/predict/tried/{key}/{name}.png")
def tried(project: str, key: str, name: str) -> Response:
    """Return a picture of an image that was tried."""
    return Response(_tried.get(project, key, name), media_type="image/png")


@router.post("/predict")
async def predict_all(request: Request, client: ClientHere, portal: PortalHere) -> Response:
    """Start a prediction of all chosen images."""
    sent = {name: str(value) for name, value in (await request.form()).items()}
    return await run_in_threadpool(_start, request, client, portal, sent)


@router.get("/results")
def results(request: Request, client: ClientHere, number: int = 1) -> Response:
    """List the predictions."""
    found = [job for job in client.jobs(limit=500) if makes_prediction(job)]
    shown = found[(number - 1) * 50 : number * 50]
    return page(request, "results.html", jobs=shown, number=number, more=len(found) > number * 50)


@router.get("/results/{job_id}")
def result(request: Request, client: ClientHere, portal: PortalHere, job_id: str, number: int = 1) -> Response:
    """Show what a prediction, evaluation or comparison made."""
    place, manifest = result_of(client, job_id)
    if manifest.kind != "prediction":
        return page(request, "result_files.html", job_id=job_id, manifest=manifest)
    labels = portal.shows_labels(client, manifest)
    tiles_note = prepare_tiles(request, client, (str(place), *([manifest.input_uri] if manifest.split else [])))
    sources = _sources(client, manifest)
    public = {entry.name: entry.public_name for entry in manifest.files}
    shown = manifest.images[(number - 1) * _PAGE : number * _PAGE]
    tables = [entry for entry in manifest.files if entry.public_name.endswith(".csv")]
    return page(
        request,
        "result.html",
        job_id=job_id,
        manifest=manifest,
        tiles_note=tiles_note,
        labels=labels,
        number=number,
        pages=-(-len(manifest.images) // _PAGE),
        images=[
            {
                "file": image,
                "name": PurePosixPath(image.input).name,
                "source": sources.get(_stem(image.input), ""),
                "outputs": {
                    kind: public[name]
                    for kind, name in image.outputs.items()
                    if name in public and public[name].endswith(_IMAGE)
                },
                "others": [
                    public[name]
                    for name in image.outputs.values()
                    if name in public and not public[name].endswith(_IMAGE)
                ],
            }
            for image in shown
        ],
        failed=[image for image in manifest.images if image.reason],
        drifted=[image for image in manifest.images if image.drift],
        model_name=versioned_name(manifest.model_uri, client.project) if manifest.model_uri else "",
        tables=tables,
        counted=any(kind in _FOUND for image in manifest.images for kind in image.outputs),
        total_bytes=sum(entry.size for entry in manifest.files),
        verdict_of=_verdict(client, manifest),
        correctable=_correctable(portal, client, manifest),
        draft_id=new_request_id("draft"),
    )


@router.get("/results/{job_id}/viewer.json")
def viewer(client: ClientHere, portal: PortalHere, job_id: str) -> Response:
    """Tell the viewer of the images of a prediction."""
    _, manifest = result_of(client, job_id)
    return JSONResponse(prediction_config(client, manifest, labels=portal.shows_labels(client, manifest)))


@router.get("/results/{job_id}/objects")
def objects(request: Request, client: ClientHere, job_id: str, image: str = "") -> Response:
    """Show what was found in one image of a prediction; a row leads to its place in the viewer."""
    place, manifest = result_of(client, job_id)
    chosen = next((each for each in manifest.images if PurePosixPath(each.input).name == image), None)
    public = {entry.name: entry.public_name for entry in manifest.files}
    found = {kind: public.get(name, "") for kind, name in (chosen.outputs if chosen else {}).items()}
    kind = next((kind for kind in _FOUND if found.get(kind, "").endswith(".csv")), "")
    table, problem = Table((), (), 0), ""
    if kind:
        try:
            table = read_table(found[kind], client.catalog.read(str(place), found[kind]), _ROWS)
        except InvalidInputError as error:
            problem = error.message
    return page(
        request,
        "_objects.html",
        job_id=job_id,
        image=image,
        kind=kind,
        file=found.get(kind, ""),
        problem=problem,
        table=table,
        columns=_ordered(table),
        rows=[(place_of(row), row) for row in table.rows],
    )


def _ordered(table: Table) -> list[str]:
    """Return the columns of a table of objects as the page shows them: what they are like first, where they are last.

    A column "plane" of a single image says nothing.
    """
    shown = [name for name in table.columns if name != "plane" or any(row[name] not in {"", "0"} for row in table.rows)]
    return sorted(shown, key=lambda name: name.partition("_")[0].partition(" ")[0] in {"z", "y", "x"})


@router.get("/results/{job_id}/table/{file:path}")
def table(request: Request, client: ClientHere, job_id: str, file: str) -> Response:
    """Show a table that a prediction made."""
    place, _ = result_of(client, job_id)
    found = read_table(file, client.catalog.read(str(place), file), _ROWS)
    return page(request, "table.html", job_id=job_id, file=file, table=found)


@router.get("/results/{job_id}/all.zip")
def download(client: ClientHere, job_id: str) -> Response:
    """Return all files of a result in one archive, which is made while it is sent."""
    place, manifest = result_of(client, job_id)
    return StreamingResponse(
        _archive(client, place, manifest),
        media_type="application/zip",
        headers={"Content-Disposition": f'attachment; filename="{job_id}.zip"'},
    )


def _values(client: Client, portal: Portal, model: str, chosen: str) -> dict[str, Any]:
    """Return what the page needs; `chosen` is "NAME:VERSION/SPLIT" of a dataset, or the id of an upload."""
    models = list_models(client, shared=True)
    summary: ModelSummary | None = None
    if model:
        summary = read_model(client, model)
        model = title_in(client.project, summary.manifest)
    method = portal.method(client, summary.manifest.method) if summary else None
    datasets = list_datasets(client, shared=True)
    choices = [
        f"{title_in(client.project, each)}/{split}"
        for each in datasets
        for split in ("test", "train")
        if each.select(split, "source")
    ]
    upload = chosen if chosen and "/" not in chosen and ":" not in chosen else ""
    images: list[str] = []
    part, taken = WHOLE, ""
    if upload:
        images = [file.path for file in portal.uploads.files(client.project, upload)]
        if summary:
            place = portal.uploads.place(client.project, upload)
            part, taken = taken_in_training(client, summary.manifest, [place / name for name in images])
    elif chosen:
        manifest, split = _dataset(client, chosen)
        images = [image.file for image in manifest.select(split, _source(summary))]
    form = make_form(method, v1.JOB_KIND_PREDICTION) if method is not None else None
    return {
        "models": models,
        "model": model,
        "summary": summary,
        "method": method,
        "form": form,
        "choices": choices,
        "chosen": chosen,
        "upload": upload,
        "images": images,
        "part": part,
        "taken": taken,
        "request_id": new_request_id("predict"),
    }


def _dataset(client: Client, chosen: str) -> tuple[DatasetManifest, str]:
    name, _, split = chosen.rpartition("/")
    # A name with a version may have a slash itself: that of another project.
    return (read_dataset(client, name), split) if split in {"train", "test"} else (read_dataset(client, chosen), "test")


def _source(summary: ModelSummary | None) -> str:
    return (summary.manifest.source if summary else "") or "source"


def _try(request: Request, client: Client, portal: Portal, sent: dict[str, str]) -> Response:
    model, chosen, name = sent.get("model", ""), sent.get("input", ""), sent.get("image", "")
    values = _values(client, portal, model, chosen)
    try:
        if not values["images"]:
            raise InvalidInputError("Choose images first: those of a dataset, or your own.")
        if name not in values["images"]:
            name = values["images"][0]
        begun = time.monotonic()
        image = _read(client, portal, values, chosen, name)
        own = {key.removeprefix("p."): value for key, value in sent.items() if key.startswith("p.")}
        parameters = sent_parameters(values["method"], v1.JOB_KIND_PREDICTION, {**own, "sent": "yes"}) if own else {}
        predicted = client.predict_image(client.model_uri(values["model"]), image, parameters)
        seconds = time.monotonic() - begun
    except ParfocalError as error:
        if request.headers.get("hx-request") == "true":
            return page(request, "_tried.html", 422, error=error, tried=None)
        return page(request, "predict.html", 422, **{**values, "error": error})
    labels = portal.makes_labels(client, values["method"].name)
    shown = _pictures(image, predicted, labels=labels)
    key = new_request_id("tried")
    _tried.keep(client.project, key, shown)
    found = {
        "key": key,
        "name": name,
        "seconds": seconds,
        "pictures": list(shown),
        "warnings": predicted.warnings,
        "tables": {title: max(0, len(text.splitlines()) - 1) for title, text in predicted.tables.items()},
        "shape": image.pixels.shape,
    }
    if request.headers.get("hx-request") == "true":
        return page(request, "_tried.html", tried=found)
    return page(request, "predict.html", **values, tried=found)


def _read(client: Client, portal: Portal, values: dict[str, Any], chosen: str, name: str) -> Image:
    """Return one of the chosen images; one that is too large to be tried is refused before it is decoded."""
    limits = ImageLimits(portal.settings.max_image_pixels, portal.settings.max_image_bytes)
    if values["upload"]:
        path = portal.uploads.place(client.project, values["upload"]) / name
        inspect_image(path, limits=limits)
        own = part_of_image(path, values["part"])
        with tempfile.TemporaryDirectory(prefix="parfocal-") as scratch:
            return read_image(convert(path, Path(scratch), own)[0] if own.of_images else path, limits=limits)
    manifest, _ = _dataset(client, chosen)
    place = Location.parse(client.dataset_uri(title_in(client.project, manifest)))
    with tempfile.TemporaryDirectory(prefix="parfocal-") as scratch:
        entry = next(entry for entry in manifest.files if entry.name == name)
        return read_image(fetched(client, place, entry, Path(scratch)), limits=limits)


def _pictures(image: Image, predicted: PredictedImage, *, labels: bool) -> dict[str, bytes]:
    """Return the input and what was made of it as PNG; grey images of the same kind share black and white."""
    shown = {"input": picture(image, _SIDE)}
    limits = display_limits(middle_plane(image))
    for name, made in predicted.images.items():
        low, high = display_limits(middle_plane(made))
        # A restored image has the grey values of its input; another kind of image has its own.
        alike = name == "prediction" and not labels and limits[0] <= high and low <= limits[1]
        black = min(limits[0], low) if alike else low
        white = max(limits[1], high) if alike else high
        if alike:
            shown["input"] = picture(image, _SIDE, limits=(black, white))
        shown[name] = picture(made, _SIDE, labels=labels and name == "prediction", limits=(black, white))
    return shown


def _start(request: Request, client: Client, portal: Portal, sent: dict[str, str]) -> Response:
    model, chosen = sent.get("model", ""), sent.get("input", "")
    values = _values(client, portal, model, chosen)
    request_id = check_request_id(sent.get("request_id", "") or new_request_id("predict"))
    own = {key.removeprefix("p."): value for key, value in sent.items() if key.startswith("p.")}
    try:
        if values["summary"] is None or values["method"] is None:
            raise InvalidInputError("Choose a model first.")
        if not values["images"]:
            raise InvalidInputError("Choose images first: those of a dataset, or your own.")
        parameters = sent_parameters(values["method"], v1.JOB_KIND_PREDICTION, {**own, "sent": "yes"})
        split = ""
        if values["upload"]:
            uri = _send(client, portal, values, request_id)
        else:
            manifest, split = _dataset(client, chosen)
            uri = client.dataset_uri(title_in(client.project, manifest))
        job = client.start(
            prediction_request(client.model_uri(values["model"]), uri, parameters, split=split, request_id=request_id)
        )
    except ParfocalError as error:
        if values["method"] is not None:
            values["form"] = make_form(
                values["method"], v1.JOB_KIND_PREDICTION, sent={**own, "sent": "yes"}, error=error
            )
        return page(request, "predict.html", 422, **{**values, "request_id": request_id, "error": error})
    return go(request, f"/jobs/{job.id}")


def _send(client: Client, portal: Portal, values: dict[str, Any], request_id: str) -> str:
    """Upload the images of an upload as the input of a prediction; return their address."""
    place = portal.uploads.place(client.project, values["upload"])
    with tempfile.TemporaryDirectory(prefix="parfocal-") as scratch:
        for name in values["images"]:
            link = Path(scratch) / PurePosixPath(name).name
            if link.is_symlink():
                raise InvalidInputError(f"Two files are called {link.name}. Rename one of them and upload it again.")
            link.symlink_to(place / name)
        paths = find_inputs(Path(scratch))
        unsuitable = unsuitable_inputs(values["method"], values["summary"].manifest, paths, part=values["part"])
        if unsuitable:
            problems = [Violation(path.name, violation.description) for path, violation in unsuitable.items()]
            raise refusal("Some images cannot be predicted with this model; nothing was started:", problems)
        return upload_inputs(client, request_id, paths, part=values["part"])


def _sources(client: Client, manifest: ResultManifest) -> dict[str, str]:
    """Return by the stem of an input where it can be seen, if it is an image of a dataset."""
    if not manifest.split or not manifest.input_uri:
        return {}
    name = versioned_name(manifest.input_uri, client.project)
    try:
        dataset = read_dataset(client, name)
    except ParfocalError:
        return {}
    base = f"/p/{client.project}/data/{address(name)}"
    return {image.stem: picture_url(base, image.file) for image in dataset.select(manifest.split, "source")}


def _correctable(portal: Portal, client: Client, manifest: ResultManifest) -> bool:
    """Return whether what a prediction found can be corrected in the browser."""
    found = any(kind in image.outputs for image in manifest.images for kind in ("objects", "detections"))
    return found or has_areas(portal.method(client, manifest.method), manifest)


def _stem(name: str) -> str:
    return image_stem(Path(name))


def _verdict(client: Client, manifest: ResultManifest) -> Any:
    """Return what quality control said of the model that predicted; None where nothing is known."""
    try:
        return read_model(client, manifest.model_uri).verdict if manifest.model_uri else None
    except ParfocalError:
        return None


class _Outlet(io.RawIOBase):
    """Where an archive writes to: what was written is taken away in pieces."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


def _archive(client: Client, place: Location, manifest: ResultManifest) -> Iterator[bytes]:
    """Yield a ZIP archive of all files, which are compressed already."""
    outlet = _Outlet()
    with (
        zipfile.ZipFile(outlet, "w", zipfile.ZIP_STORED) as archive,
        tempfile.TemporaryDirectory(prefix="parfocal-") as scratch,
    ):
        for entry in manifest.files:
            path = fetched(client, place, entry, Path(scratch))
            with (
                archive.open(zipfile.ZipInfo.from_file(path, entry.public_name), "w") as member,
                path.open("rb") as file,
            ):
                while chunk := file.read(2**20):
                    member.write(chunk)
                    yield outlet.take()
            path.unlink()
        archive.writestr("manifest.json", manifest.to_bytes())
    yield outlet.take()
