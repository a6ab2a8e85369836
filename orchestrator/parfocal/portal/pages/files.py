"""Files of datasets, models and results: pictures, figures, reports and downloads."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response
from starlette.background import BackgroundTask

from parfocal.client import Client
from parfocal.client.datasets import read_dataset
from parfocal.client.models import read_model
from parfocal.client.published import read_manifest
from parfocal.client.results import result_uri
from parfocal.client.transfer import download_files
from parfocal.portal.guard import REPORT_POLICY
from parfocal.portal.pictures import picture_of
from parfocal.portal.portal import ClientHere
from parfocal.portal.words import named
from parfocal.runtime.errors import NotFoundError
from parfocal.runtime.images.files import IMAGE_SUFFIXES
from parfocal.runtime.images.pyramid import THUMBNAIL, tiles_digest
from parfocal.runtime.store.manifests import FileEntry, ResultManifest
from parfocal.runtime.store.store import Location

router = APIRouter(prefix="/p/{project}")
_SIDES: Final = (96, 240, 512, 1024)
_SHOWN: Final = {".png": "image/png", ".html": "text/html; charset=utf-8"}
# Bytes of a file beyond which its picture is that of the tiles.
_LARGE: Final = 2**26
_KEEP: Final = {"Cache-Control": "private, max-age=86400"}


@router.get("/data/{name}/{version}/pictures/{file:path}")
def dataset_picture(
    request: Request, client: ClientHere, name: str, version: int, file: str, side: int = 240
) -> Response:
    """Return an image of a dataset as PNG."""
    name = named(name)
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
    summary = read_model(client, f"{named(name)}:{version}")
    return _file(request, client, Location.parse(summary.uri), _entry(summary.manifest.files, file))


def result_of(client: Client, job_id: str) -> tuple[Location, ResultManifest]:
    """Return place and manifest of what a job published.

    Raises
    ------
    NotFoundError, PreconditionError
        There is no such job, or it has no result.
    """
    try:
        uri = client.catalog.entry("result", job_id).uri
    except NotFoundError:
        # Its job says why there is none.
        uri = result_uri(client.get(job_id))
    return Location.parse(uri), read_manifest(client, uri, ResultManifest)


def picture_url(base: str, file: str) -> str:
    """Return where the picture of a file is, below the page `base` of its dataset or result."""
    return f"{base}/pictures/{quote(file)}"


def fetched(client: Client, place: Location, entry: FileEntry, folder: Path) -> Path:
    """Return the path of a published file that was brought to `folder`."""
    (path,) = download_files(client, str(place), [entry], folder, overwrite=True)
    return path


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
    if entry.size > _LARGE:
        # Not fetched and decoded for a small picture: the job that makes tiles has drawn one.
        data = client.catalog.derived(tiles_digest(entry.sha256, labels=labels), THUMBNAIL)
        return Response(data, media_type="image/png", headers={**_KEEP, "ETag": tag})
    with tempfile.TemporaryDirectory(prefix="parfocal-") as scratch:
        data = picture_of(fetched(client, place, entry, Path(scratch)), side, labels=labels)
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
    scratch = Path(tempfile.mkdtemp(prefix="parfocal-"))
    try:
        path = fetched(client, place, entry, scratch)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return FileResponse(
        path,
        media_type=shown or "application/octet-stream",
        filename=None if shown else name.name,
        headers=headers,
        background=BackgroundTask(lambda: shutil.rmtree(scratch, ignore_errors=True)),
    )
