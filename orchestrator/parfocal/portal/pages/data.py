"""Data: the datasets, uploads on their way to becoming one, and one dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from parfocal import v1
from parfocal.client import Client
from parfocal.client.convert import Part
from parfocal.client.dataset_checks import check_method, earlier_check, finding_rows, headline, purpose_sentences
from parfocal.client.datasets import check_folder, create_dataset, list_datasets, read_dataset
from parfocal.client.models import list_models
from parfocal.client.previews import preview_folder, preview_stored
from parfocal.client.quality import published_summary
from parfocal.client.requests import evaluation_request
from parfocal.client.results import result_uri
from parfocal.portal.annotate.fields import KIND_TITLES
from parfocal.portal.fetching import progress
from parfocal.portal.layers import dataset_config
from parfocal.portal.portal import ClientHere, Portal, PortalHere, RightsHere, go, page, prepare_tiles, together
from parfocal.portal.uploads import HELD_OUT, ROLES, UploadedFile, guess_roles
from parfocal.portal.words import named
from parfocal.runtime.datasets.kinds import KINDS, suits, title_of
from parfocal.runtime.datasets.report import FolderReport
from parfocal.runtime.errors import InvalidInputError, ParfocalError, PermissionDeniedError
from parfocal.runtime.images.files import image_stem
from parfocal.runtime.numbers import whole_number
from parfocal.runtime.store.manifests import DatasetManifest
from parfocal.runtime.store.names import check_request_id, is_name, new_request_id

router = APIRouter(prefix="/p/{project}")
_PAGE: Final = 24
_AXES: Final = {
    "": "Two dimensions (YX)",
    "ZYX": "Volumes (ZYX)",
    "TYX": "Movies (TYX)",
    "YXS": "Colour (YXS)",
    "CYX": "Channels (CYX)",
    "CZYX": "Volumes with channels (CZYX)",
}
_CHUNK: Final = 2**20


def require_own(upload: str, client: ClientHere, portal: PortalHere, rights: RightsHere) -> None:
    """Raise PermissionDeniedError where somebody else, who is no operator, would change an upload."""
    made_by = portal.uploads.maker(client.project, upload)
    if made_by and not rights.change(made_by):
        raise PermissionDeniedError(
            f"This upload was begun by {made_by}. Users of the project {client.project!r} may change only what they "
            "have made themselves; ask them, or an operator."
        )


@router.get("/data")
def data(request: Request, client: ClientHere, portal: PortalHere) -> Response:
    """List the datasets, and uploads that wait."""
    damaged: list[str] = []
    found = list_datasets(client, lambda error: damaged.append(error.message), shared=True)
    newest: dict[tuple[str, str], DatasetManifest] = {}
    for manifest in found:
        newest.setdefault((manifest.project, manifest.dataset), manifest)
    versions = Counter((manifest.project, manifest.dataset) for manifest in found)
    return page(
        request,
        "data.html",
        datasets=list(newest.values()),
        versions=versions,
        damaged=damaged,
        uploads=portal.uploads.open(client.project),
        inboxes=_inboxes(client),
        title_of=title_of,
    )


def _inboxes(client: Client) -> list[v1.Inbox]:
    """Return the inboxes of the project; none where the catalogue does not know them."""
    try:
        return list(client.catalog.inboxes())
    except ParfocalError:
        return []


@router.post("/uploads")
async def begin_upload(request: Request, client: ClientHere, portal: PortalHere, rights: RightsHere) -> Response:
    """Begin an upload; without JavaScript its files come with the form."""
    form = await request.form()
    upload = await run_in_threadpool(portal.uploads.create, client.project, rights.name)
    for name in ("files", "images", "targets"):
        for item in form.getlist(name):
            if isinstance(item, UploadFile) and item.filename:
                below = "" if name == "files" else f"{'target' if name == 'targets' else 'source'}/"
                with portal.uploads.receiving(client.project, upload, below + item.filename) as part:
                    while chunk := await item.read(_CHUNK):
                        await run_in_threadpool(part.write, chunk)
    if request.headers.get("accept", "").startswith("application/json"):
        return JSONResponse({"id": upload, "url": f"/p/{client.project}/uploads/{upload}"})
    return go(request, f"/uploads/{upload}")


@router.put("/uploads/{upload}/files/{name:path}", dependencies=[Depends(require_own)])
async def receive(request: Request, client: ClientHere, portal: PortalHere, upload: str, name: str) -> Response:
    """Take one file of an upload; what arrives only in part is not kept."""
    size, expected = 0, request.headers.get("x-file-size", "")
    with portal.uploads.receiving(client.project, upload, name) as part:
        waiting = bytearray()
        async for chunk in request.stream():
            waiting += chunk
            size += len(chunk)
            if len(waiting) >= _CHUNK:
                await run_in_threadpool(part.write, bytes(waiting))
                waiting.clear()
        await run_in_threadpool(part.write, bytes(waiting))
        if expected.isdecimal() and whole_number(expected) != size:
            raise InvalidInputError(f"{name} arrived in part only. Send it again.")
    return Response(status_code=204)


@router.get("/uploads/{upload}/files")
def received(client: ClientHere, portal: PortalHere, upload: str) -> Response:
    """Say which files have arrived, so that an interrupted upload goes on where it stopped."""
    return JSONResponse({file.path: file.size for file in portal.uploads.files(client.project, upload)})


@router.get("/uploads/{upload}")
def upload_page(request: Request, client: ClientHere, portal: PortalHere, upload: str) -> Response:
    """Show an upload and how it would be used as a dataset."""
    waiting = progress(portal.uploads, portal.follower, client.project, upload)
    values = _upload_values(client, portal, upload, request.query_params)
    return page(request, "upload.html", fetching=waiting, **values)


@router.get("/uploads/{upload}/checks")
def checks(request: Request, client: ClientHere, portal: PortalHere, upload: str) -> Response:
    """Check an upload as it would become a dataset."""
    values = _upload_values(client, portal, upload, request.query_params)
    report, error = _check(client, portal, upload, values)
    return page(
        request,
        "_checks.html",
        report=report,
        refused=error,
        faulty=_faulty(values, error) if error else [],
        rows=_image_rows(report) if report else [],
        suggestion=_suggestion(values),
        suitable=_suitable(client, portal, report) if report else [],
        query=urlencode(sorted(request.query_params.multi_items())),
        **values,
    )


@router.get("/uploads/{upload}/preview.png")
def upload_preview(request: Request, client: ClientHere, portal: PortalHere, upload: str) -> Response:
    """Return a sheet of the upload's training images."""
    values = _upload_values(client, portal, upload, request.query_params)
    with portal.uploads.arranged(client.project, upload, values["roles"], hold_out=values["hold_out"]) as folder:
        sheet = preview_folder(folder, {}, kind=values["kind"], axes=values["axes"], part=values["part"])
    return Response(sheet, media_type="image/png")


@router.post("/uploads/{upload}/save", dependencies=[Depends(require_own)])
async def save(request: Request, client: ClientHere, portal: PortalHere, upload: str) -> Response:
    """Publish an upload as a new version of a dataset."""
    form = {name: str(value) for name, value in (await request.form()).items()}
    return await run_in_threadpool(_save, request, client, portal, upload, form)


@router.post("/uploads/{upload}/remove", dependencies=[Depends(require_own)])
async def remove(request: Request, client: ClientHere, portal: PortalHere, upload: str) -> Response:
    """Leave files of an upload out."""
    form = await request.form()
    names = [str(name) for name in form.getlist("file")]
    files = portal.uploads.files(client.project, upload)
    for file in files:
        if file.path in names:
            portal.uploads.remove(client.project, upload, file.path)
    query = str(form.get("query", ""))
    return go(request, f"/uploads/{upload}" + (f"?{query}" if query else ""))


@router.post("/uploads/{upload}/discard", dependencies=[Depends(require_own)])
def discard(request: Request, client: ClientHere, portal: PortalHere, upload: str) -> Response:
    """Remove an upload."""
    portal.uploads.discard(client.project, upload)
    return go(request, "/data")


@router.get("/data/{name}/{version}")
def dataset(
    request: Request, client: ClientHere, portal: PortalHere, name: str, version: int, split: str = "", number: int = 1
) -> Response:
    """Show one dataset: what it is good for, what is wrong with it, its images."""
    name = named(name)
    manifest = read_dataset(client, f"{name}:{version}")
    uri = client.dataset_uri(f"{name}:{version}")
    tiles_note = prepare_tiles(request, client, [uri])
    sources = [image for image in manifest.images if image.role == "source" and split in {"", image.split}]
    sources.sort(key=lambda image: image.split != "train")
    partners = (
        {(image.split, image.stem): image for image in manifest.images if image.role == manifest.roles("target")[:1][0]}
        if manifest.roles("target")
        else {}
    )
    drawn = {(entry.split, entry.stem): entry for entry in manifest.annotations}
    asked = together(
        lambda: list_datasets(client, shared=manifest.project != client.project),
        lambda: list_models(client),
        lambda: _quality(client, manifest, uri),
        lambda: _suitable(client, portal, manifest),
    )
    known, models, quality, suitable = (each.result() for each in asked)
    return page(
        request,
        "dataset.html",
        manifest=manifest,
        tiles_note=tiles_note,
        kind_title=title_of(manifest),
        images=[
            (image, partners.get((image.split, image.stem)), drawn.get((image.split, image.stem)))
            for image in sources[(number - 1) * _PAGE : number * _PAGE]
        ],
        total=len(sources),
        split=split,
        number=number,
        pages=-(-len(sources) // _PAGE),
        facts=_facts(manifest),
        suitable=suitable,
        versions=sorted(
            (each.version for each in known if (each.project, each.dataset) == (manifest.project, manifest.dataset)),
            reverse=True,
        ),
        models=[model for model in models if model.manifest.dataset_uri == uri],
        drawable=KIND_TITLES,
        draft_id=new_request_id("draft"),
        **quality,
    )


@router.get("/data/{name}/{version}/viewer.json")
def viewer(client: ClientHere, name: str, version: int) -> Response:
    """Tell the viewer of the images of a dataset."""
    return JSONResponse(dataset_config(client.project, read_dataset(client, f"{named(name)}:{version}")))


@router.get("/data/{name}/{version}/preview.png")
def dataset_preview(client: ClientHere, name: str, version: int, augmented: bool = False) -> Response:
    """Return a sheet of a dataset's training images, as they are or as a training sees them."""
    sheet = preview_stored(client, f"{named(name)}:{version}", {}, augmented=augmented)
    return Response(sheet, media_type="image/png", headers={"Cache-Control": "private, max-age=86400"})


@router.post("/data/{name}/{version}/check")
async def check(request: Request, client: ClientHere, name: str, version: int) -> Response:
    """Have quality control look at a dataset."""
    form = await request.form()
    request_id = check_request_id(str(form.get("request_id", "")) or new_request_id("check-dataset"))

    def begin() -> v1.Job:
        method = check_method(client)
        uri = client.dataset_uri(f"{named(name)}:{version}")
        return client.start(evaluation_request(method.name, "", uri, split="", request_id=request_id))

    job = await run_in_threadpool(begin)
    return go(request, f"/jobs/{job.id}")


def _upload_values(client: Client, portal: Portal, upload: str, query: Mapping[str, str]) -> dict[str, Any]:
    """Return what the address says of an upload: what each folder is, and how the images are read."""
    files = portal.uploads.files(client.project, upload)
    roles = guess_roles(files)
    roles |= {folder: role for folder in roles if (role := query.get(f"role.{folder}", "?")) in ROLES}
    no_test = not any(role.startswith("test/") for role in roles.values())
    folders: dict[str, list[UploadedFile]] = {}
    for file in files:
        folders.setdefault(file.folder, []).append(file)
    channel = query.get("channel", "").strip()[:100]
    trained = sum(len(members) for folder, members in folders.items() if roles[folder] == "train/source")
    return {
        "upload": upload,
        "made_by": portal.uploads.maker(client.project, upload),
        "files": files,
        "folders": folders,
        "roles": roles,
        "role_titles": ROLES,
        "total": sum(file.size for file in files),
        "kind": query.get("kind", "") if query.get("kind", "") in KINDS else "",
        "kinds": KINDS,
        "axes": query.get("axes", "") if query.get("axes", "") in _AXES else "",
        "axes_choices": _AXES,
        "channel": channel,
        "part": Part(channels=(channel,) if channel else ()),
        "hold_out": no_test and trained >= HELD_OUT and (query.get("hold_out", "") == "yes" or "shown" not in query),
        "can_hold_out": no_test and trained >= HELD_OUT,
        "held_out": HELD_OUT,
        "trained": trained,
        "name": query.get("name", ""),
    }


def _check(
    client: Client, portal: Portal, upload: str, values: Mapping[str, Any]
) -> tuple[FolderReport | None, InvalidInputError | None]:
    with portal.uploads.arranged(client.project, upload, values["roles"], hold_out=values["hold_out"]) as folder:
        try:
            return check_folder(folder, values["axes"], kind=values["kind"], part=values["part"]), None
        except InvalidInputError as error:
            return None, _without_place(error, folder)


def _without_place(error: InvalidInputError, folder: Path) -> InvalidInputError:
    """Return an error without the place where the portal keeps the upload."""
    return InvalidInputError(error.message.replace(str(folder), "The upload"), error.violations)


def _faulty(values: Mapping[str, Any], error: InvalidInputError) -> list[str]:
    """Return the paths of the files that an error names, with their partners: half a pair is of no use."""
    named = set()
    for file in values["files"]:
        role = values["roles"][file.folder]
        split, stem = role.partition("/")[0], image_stem(Path(file.name))
        for violation in error.violations:
            place, _, name = violation.field.rpartition("/")
            # Images that are held out have become test images.
            moved = values["hold_out"] and place.rpartition("/")[2] == role.rpartition("/")[2]
            if name == file.name and (place in {"", role} or moved):
                named.add((split, stem))
    return [
        file.path
        for file in values["files"]
        if (values["roles"][file.folder].partition("/")[0], image_stem(Path(file.name))) in named
    ]


def _save(request: Request, client: Client, portal: Portal, upload: str, form: Mapping[str, str]) -> Response:
    values = _upload_values(client, portal, upload, form)
    name = form.get("name", "").strip()
    try:
        if not is_name(name):
            raise InvalidInputError(
                f"{name!r} cannot name a dataset: use 1 to 63 letters, digits, '.', '_' or '-', beginning with a "
                "letter or digit."
                if name
                else "Give the dataset a name: letters, digits, '.', '_' or '-'."
            )
        with portal.uploads.arranged(client.project, upload, values["roles"], hold_out=values["hold_out"]) as folder:
            try:
                manifest = create_dataset(
                    client,
                    name,
                    folder,
                    axes=values["axes"],
                    kind=values["kind"],
                    part=values["part"],
                    licence=form.get("licence", "").strip(),
                    description=form.get("description", "").strip(),
                    class_names=_class_names(form),
                )
            except InvalidInputError as error:
                raise _without_place(error, folder) from error
    except InvalidInputError as error:
        return page(request, "upload.html", 422, **{**values, "name": name, "error": error, "fetching": None})
    portal.uploads.discard(client.project, upload)
    return go(request, f"/data/{manifest.dataset}/{manifest.version}")


def _class_names(form: Mapping[str, str]) -> dict[int, str]:
    """Return the names of classes that a form gives, by grey value."""
    given = {name.removeprefix("class."): value.strip() for name, value in form.items() if name.startswith("class.")}
    values = {whole_number(value): name for value, name in given.items() if name}
    return {value: name for value, name in values.items() if value is not None}


def _image_rows(report: FolderReport) -> list[dict[str, Any]]:
    """Return one row for each kind of image in each place: how many, how large, of what type."""
    rows = []
    for (split, role), images in sorted(report.images.items(), reverse=True):
        alike = Counter((image.axes, image.shape, str(image.dtype)) for image in images)
        for (axes, lengths, dtype), number in alike.most_common():
            rows.append(
                {"split": split, "role": role, "number": number, "axes": axes, "shape": lengths, "dtype": dtype}
            )
    for (split, role), tables in sorted(report.tables.items(), reverse=True):
        rows.append(
            {"split": split, "role": role, "number": len(tables), "axes": "", "shape": (), "dtype": "annotations"}
        )
    return rows


def _suggestion(values: Mapping[str, Any]) -> str:
    """Return a name for the dataset: that of the folder that was uploaded."""
    tops = {file.path.split("/")[0] for file in values["files"] if "/" in file.path}
    top = next(iter(tops)) if len(tops) == 1 else ""
    if top.lower() in {"source", "target", "train", "test"} or not is_name(Path(top).name):
        return ""
    return top


def _suitable(client: Client, portal: Portal, dataset: FolderReport | DatasetManifest) -> list[v1.Method]:
    """Return the methods of the services that can be trained on a dataset."""
    images = dataset.train if isinstance(dataset, FolderReport) else dataset.select("train", "source")
    axes = {"".join(axis for axis in image.axes if axis in "ZYX") for image in images}
    frames = any("T" in image.axes for image in images)
    return [
        method
        for method in portal.methods(client)
        if suits(dataset.kind, method.data_requirements.target)
        and (
            method.data_requirements.axes in axes
            or (frames and method.data_requirements.axes.removeprefix("T") in axes)
        )
    ]


def _facts(manifest: DatasetManifest) -> list[dict[str, Any]]:
    """Return one row for each kind of image of a dataset."""
    alike = Counter(
        (image.split, image.role, image.axes, image.shape, image.dtype, image.pixel_size_um)
        for image in manifest.images
    )
    order = sorted(alike.items(), key=lambda item: (item[0][0] != "train", item[0][1], -item[1]))
    return [
        {"split": split, "role": role, "axes": axes, "shape": lengths, "dtype": dtype, "pixel": pixel, "number": number}
        for (split, role, axes, lengths, dtype, pixel), number in order
    ]


def _quality(client: Client, manifest: DatasetManifest, uri: str) -> dict[str, Any]:
    """Return what quality control said of a dataset; why nothing can be said where a service is away."""
    values: dict[str, Any] = {
        "checked": None,
        "findings": [],
        "headline": "",
        "purpose": [],
        "sheets": [],
        "quality_problem": "",
        "request_id": new_request_id("check-dataset"),
    }
    try:
        job = earlier_check(client, uri)
        if job is not None:
            summary = published_summary(client, result_uri(job))
            values |= {
                "checked": job,
                "findings": finding_rows(summary),
                "headline": headline(summary),
                "purpose": purpose_sentences(client, manifest, summary),
                "sheets": summary.get("sheets", []),
            }
    except ParfocalError as error:
        values["quality_problem"] = error.message
    return values
