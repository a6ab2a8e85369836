"""Files of datasets, models and results: pictures, figures, reports and downloads."""

from __future__ import annotations

import tempfile
from pathlib import Path, PurePosixPath
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool

from parfocal.client import Client
from parfocal.client.datasets import read_dataset
from parfocal.client.models import read_model
from parfocal.client.results import result_uri
from parfocal.portal.guard import REPORT_POLICY
from parfocal.portal.pictures import picture_of
from parfocal.portal.portal import ClientHere
from parfocal.runtime.errors import NotFoundError
from parfocal.runtime.images.files import IMAGE_SUFFIXES
from parfocal.runtime.store.manifests import RESULT_MANIFEST, FileEntry, ResultManifest
from parfocal.runtime.store.names import result_location
from parfocal.runtime.store.store import Location

router = APIRouter(prefix="/p/{project}")
_SIDES: Final = (96, 240, 512, 1024)
_SHOWN: Final = {".png": "image/png", ".html": "text/html; charset=utf-8"}
_KEEP: Final = {"Cache-Control": "private, max-age=86400"}


@router.get("/data/{name}/{version}/pictures/{file:path}")
def dataset_picture(
    request: Request, client: ClientHere, name: str, version: int, file: str, side: int = 240
) -> Response:
    """Return an image of a dataset as PNG."""
    manifest = read_dataset(client, f"{name}:{version}")
    entry = _entry(manifest.files, file)
    place = Location.parse(client.dataset_uri(f"{name}:{version}"))
    role = PurePosixPath(file).parent.name
    labels = role.startswith("target") and manifest.kind in {"labels", "classes"}
    return _picture(request, client, place, entry, side, labels=labels)


@router.get("/results/{job_id}/pictures/{file:path}")
def result_picture(
    request: Request, client: ClientHere, job_id: str, file: str, side: int = 240, labels: bool = False
) -> Response:
    """Return an image that a job made as PNG."""
    place, manifest = result_of(client, job_id)
    return _picture(request, client, place, _entry(manifest.files, file), side, labels=labels)


@router.get("/results/{job_id}/files/{file:path}")
def result_file(request: Request, client: ClientHere, job_id: str, file: str) -> Response:
    """Return a file that a job published."""
    place, manifest = result_of(client, job_id)
    return _file(request, client, place, _entry(manifest.files, file))


@router.get("/models/{name}/{version}/files/{file:path}")
def model_file(request: Request, client: ClientHere, name: str, version: int, file: str) -> Response:
    """Return a file of a model: weights, or what its training drew."""
    summary = read_model(client, f"{name}:{version}")
    return _file(request, client, Location.parse(summary.uri), _entry(summary.manifest.files, file))


def result_of(client: Client, job_id: str) -> tuple[Location, ResultManifest]:
    """Return place and manifest of what a job published.

    Raises
    ------
    NotFoundError, PreconditionError
        There is no such job, or it has no result.
    """
    place = result_location(client.store, client.project, job_id)
    try:
        return place, ResultManifest.read(client.store, place / RESULT_MANIFEST)
    except NotFoundError:
        # Its job says why there is none.
        place = Location.parse(result_uri(client.get(job_id)))
        return place, ResultManifest.read(client.store, place / RESULT_MANIFEST)


def _entry(files: tuple[FileEntry, ...], name: str) -> FileEntry:
    for entry in files:
        if entry.public_name == name:
            return entry
    raise NotFoundError(f"There is no file {name} here.")


def _picture(
    request: Request, client: Client, place: Location, entry: FileEntry, side: int, *, labels: bool = False
) -> Response:
    side = min(_SIDES, key=lambda each: abs(each - side))
    tag = f'"{entry.sha256[:32]}-{side}-{labels:d}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={**_KEEP, "ETag": tag})
    name = Path(entry.public_name)
    if name.suffix.lower() not in IMAGE_SUFFIXES:
        raise NotFoundError(f"{name.name} is no image.")
    with tempfile.TemporaryDirectory(prefix="parfocal-") as scratch:
        path = Path(scratch) / name.name
        client.store.download(place / entry.name, path)
        data = picture_of(path, side, labels=labels)
    return Response(data, media_type="image/png", headers={**_KEEP, "ETag": tag})


def _file(request: Request, client: Client, place: Location, entry: FileEntry) -> Response:
    tag = f'"{entry.sha256[:32]}"'
    name = PurePosixPath(entry.public_name)
    headers = {**_KEEP, "ETag": tag}
    shown = _SHOWN.get(name.suffix.lower())
    if name.suffix.lower() == ".html":
        headers["Content-Security-Policy"] = REPORT_POLICY
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    with tempfile.NamedTemporaryFile(prefix="parfocal-", delete=False) as part:
        path = Path(part.name)
    try:
        client.store.download(place / entry.name, path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return FileResponse(
        path,
        media_type=shown or "application/octet-stream",
        filename=None if shown else name.name,
        headers=headers,
        background=BackgroundTask(run_in_threadpool, path.unlink, missing_ok=True),
    )
