"""Annotating: draw on bare images, correct predictions, and save what is complete as a version of a dataset."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from parfocal import v1
from parfocal.client import Client
from parfocal.client.datasets import list_datasets, read_dataset
from parfocal.client.published import read_manifest
from parfocal.portal.annotate.desk import tiff_bytes
from parfocal.portal.annotate.fields import KIND_TITLES, Field, Fields, kind_of_result, require_drawable
from parfocal.portal.annotate.saving import USES, Wanted, save_dataset, suggested_use
from parfocal.portal.follow import make_tiles
from parfocal.portal.layers import class_dataset, has_areas
from parfocal.portal.pages.annotate_image import NEVER, state_of
from parfocal.portal.pages.files import result_of
from parfocal.portal.portal import ClientHere, Portal, PortalHere, go, page
from parfocal.portal.words import address, title_in
from parfocal.runtime.errors import (
    InvalidInputError,
    ParfocalError,
    Violation,
    refusal,
)
from parfocal.runtime.images.files import IMAGE_SUFFIXES, image_stem
from parfocal.runtime.store.manifests import DatasetManifest, ResultManifest
from parfocal.runtime.store.names import check_request_id, is_name, new_request_id, versioned_name

router = APIRouter(prefix="/p/{project}")
_CHUNK: Final = 2**20


@router.get("/annotate")
def drafts(request: Request, client: ClientHere) -> Response:
    """List the drafts."""
    found = client.catalog.drafts()
    bases = {draft.base_uri: _base_name(client.project, draft.base_uri) for draft in found}
    return page(request, "annotate_list.html", drafts=found, bases=bases, kinds=KIND_TITLES)


@router.post("/annotate")
async def begin(request: Request, client: ClientHere, portal: PortalHere) -> Response:
    """Begin a draft of a dataset's images or of a prediction."""
    form = {name: str(value) for name, value in (await request.form()).items()}
    draft = await run_in_threadpool(_begin, client, portal, form)
    return go(request, f"/annotate/{draft.draft}")


@router.get("/annotate/{draft}")
def draft_page(request: Request, client: ClientHere, portal: PortalHere, draft: str) -> Response:
    """Show the images of a draft, with the tools to draw in them."""
    found, fields, states = _of(client, portal, draft)
    for uri in _tile_uris(client, found):
        make_tiles(portal.follower, client, uri)
    done = [field for field in fields.fields if _is_done(states, field)]
    return page(
        request,
        "annotate.html",
        draft=found,
        fields=fields,
        states=states,
        done=len(done),
        base_name=_base_name(client.project, found.base_uri),
        base_url=_base_url(client.project, found.base_uri),
        kind_title=KIND_TITLES[found.kind],
    )


@router.get("/annotate/{draft}/viewer.json")
def viewer(client: ClientHere, portal: PortalHere, draft: str) -> Response:
    """Tell the viewer of the images of a draft and of what can be drawn in them."""
    found, fields, states = _of(client, portal, draft)
    classes = _classes(client, found)
    # Of an area the number is its class; an object has one beside it.
    named = {"classes": {str(each["number"]): each["name"] for each in classes}}
    legend = named if found.kind == "classes" else {}
    images = []
    for field in fields.fields:
        layers: list[dict[str, Any]] = [{"name": "Image", "info": field.tiles or _tiles(found, field, "source")}]
        if found.kind != "boxes":
            labels = {"name": "Labels", "info": _tiles(found, field, "labels"), "overlay": True, **legend}
            layers.append(labels)
        images.append({"name": field.name, "note": field.doubt, "layers": layers})
    first = next((field.name for field in fields.fields if not _is_done(states, field)), "")
    return JSONResponse(
        {
            "images": images,
            "image": first,
            "keep": _base_name(client.project, found.base_uri),
            "draft": {
                "url": f"/p/{client.project}/annotate/{found.draft}",
                "kind": found.kind,
                "classes": classes,
            },
        },
        headers=NEVER,
    )


@router.get("/annotate/{draft}/state")
def state(client: ClientHere, draft: str) -> Response:
    """Say how far each image is, and who works on it."""
    answer = client.catalog.draft(draft)
    return JSONResponse({image.image: state_of(image) for image in answer.images}, headers=NEVER)


@router.get("/annotate/{draft}/labels.zip")
def all_out(client: ClientHere, portal: PortalHere, draft: str) -> Response:
    """Return the label images of all images as one archive; each has the name of its image."""
    found, fields, _ = _of(client, portal, draft)
    with tempfile.SpooledTemporaryFile(max_size=2**26) as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            names = _file_names(fields.fields)
            for field in fields.fields:
                opened = portal.desk.opened(client, found, field)
                with opened.lock:
                    content = opened.image()
                archive.writestr(f"{names[field.name]}.tif", tiff_bytes(content))
        file.seek(0)
        data = file.read()
    headers = {**NEVER, "Content-Disposition": f'attachment; filename="{found.draft}-labels.zip"'}
    return Response(data, media_type="application/zip", headers=headers)


@router.post("/annotate/{draft}/bring")
async def bring(request: Request, client: ClientHere, portal: PortalHere, draft: str) -> Response:
    """Take label images that were corrected in another program; their names say of which images they are."""
    form = await request.form()
    session = check_request_id(str(form.get("session", "")) or new_request_id("bring"))
    with tempfile.TemporaryDirectory(prefix="parfocal-") as scratch:
        paths = []
        for number, item in enumerate(form.getlist("files")):
            if isinstance(item, UploadFile) and item.filename:
                path = Path(scratch) / str(number) / Path(item.filename.replace("\\", "/")).name
                path.parent.mkdir()
                with path.open("wb") as file:
                    while chunk := await item.read(_CHUNK):
                        await run_in_threadpool(file.write, chunk)
                paths.append(path)
        await run_in_threadpool(_bring, client, portal, draft, session, paths)
    return go(request, f"/annotate/{draft}")


@router.get("/annotate/{draft}/finish")
def finish(request: Request, client: ClientHere, portal: PortalHere, draft: str) -> Response:
    """Show what is done, changed and left, and ask how the dataset shall be called."""
    return page(request, "annotate_finish.html", **_finish_values(client, portal, draft, {}))


@router.post("/annotate/{draft}/finish")
async def publish(request: Request, client: ClientHere, portal: PortalHere, draft: str) -> Response:
    """Save the complete images as a new version of a dataset."""
    form = {name: str(value) for name, value in (await request.form()).items()}
    return await run_in_threadpool(_publish, request, client, portal, draft, form)


@router.post("/annotate/{draft}/delete")
def delete(request: Request, client: ClientHere, draft: str) -> Response:
    """Delete a draft with everything that was drawn in it."""
    client.catalog.delete_draft(draft)
    return go(request, "/annotate")


def _begin(client: Client, portal: Portal, form: Mapping[str, str]) -> v1.Draft:
    """Create the draft of a form: of the result of a job, or of a dataset "name:version"."""
    request = v1.CreateDraftRequest(
        request_id=check_request_id(form.get("request_id", "") or new_request_id("draft")), project=client.project
    )
    if job := form.get("result", ""):
        place, result = result_of(client, job)
        areas = has_areas(portal.method(client, result.method), result)
        request.kind = "classes" if areas else kind_of_result(result)
        request.base_uri, request.model_uri = str(place), result.model_uri
        request.classes.extend(_result_classes(client, result, request.kind))
        request.title = (
            f"Corrections of {versioned_name(result.model_uri, client.project)}" if result.model_uri else "Corrections"
        )
    else:
        manifest = read_dataset(client, form.get("dataset", ""))
        name = title_in(client.project, manifest)
        request.kind = require_drawable(form.get("kind", "") or manifest.kind)
        request.base_uri = client.dataset_uri(name)
        given = [part.strip() for part in form.get("classes", "").split(",") if part.strip()]
        own = _class_list(manifest) if request.kind == manifest.kind else ()
        request.classes.extend(own or dict.fromkeys(given))
        request.title = f"Annotation of {name}"
    if request.kind == "boxes" and not request.classes:
        request.classes.append("object")
    if request.kind == "classes":
        # Of a class image the number is the class; background is what is erased.
        shown = [name for name in request.classes if name != "0"]
        del request.classes[:]
        request.classes.extend(shown or ["1"])
    return client.catalog.create_draft(request)


def _result_classes(client: Client, result: ResultManifest, kind: str) -> Sequence[str]:
    """Return the names of the classes that the model of a prediction was trained on."""
    try:
        model = client.catalog.entry_at(result.model_uri)
        dataset = read_manifest(client, model.model.dataset_uri, DatasetManifest)
    except ParfocalError:
        return ()
    classed = kind != "labels" or any("target_class" in image.outputs for image in result.images)
    return _class_list(dataset) if classed else ()


def _class_list(dataset: DatasetManifest) -> Sequence[str]:
    """Return what a draft calls the classes of a dataset: those of class images by their numbers."""
    return [str(value) for value in dataset.class_values] or dataset.classes


def _of(client: Client, portal: Portal, draft: str) -> tuple[v1.Draft, Fields, dict[str, v1.DraftImage]]:
    """Return a draft, its images, and the states of those that were changed, by name."""
    answer = client.catalog.draft(draft)
    return answer.draft, portal.fields.fields(client, answer.draft), {state.image: state for state in answer.images}


def _bring(client: Client, portal: Portal, draft: str, session: str, paths: Sequence[Path]) -> None:
    """Replace the labels of the images that files are called like; all or none of them are used."""
    found, fields, states = _of(client, portal, draft)
    if found.kind == "boxes":
        raise InvalidInputError("Boxes are drawn in this draft: label images cannot be used.")
    if not paths:
        raise InvalidInputError("Choose the label images that you have corrected.")
    names = _file_names(fields.fields)
    by_name = {names[field.name]: field for field in fields.fields}
    problems, pairs = [], []
    for path in paths:
        stem = image_stem(path) if path.name.lower().endswith(IMAGE_SUFFIXES) else ""
        field = by_name.get(stem)
        if field is None:
            problems.append(Violation(path.name, "no image of this draft has this name"))
            continue
        if (state := states.get(field.name)) is not None and state.lease.session not in {"", session}:
            text = f"{state.lease.holder} is editing this image in another window"
            problems.append(Violation(path.name, text))
        try:
            portal.desk.check(path, portal.desk.opened(client, found, field))
        except InvalidInputError as error:
            text = error.violations[0].description if error.violations else error.message
            problems.append(Violation(path.name, text))
        pairs.append((path, field))
    if problems:
        raise refusal("These files cannot be used; nothing was changed:", problems)
    for path, field in pairs:
        digest = client.catalog.write_draft_file(draft, path)
        state = client.catalog.draft_image(draft, field.name)
        request = v1.ChangeDraftImageRequest(
            project=client.project,
            draft=draft,
            image=field.name,
            revision=state.revision,
            change_id=new_request_id("bring"),
            session=session,
        )
        try:
            portal.desk.change(client, found, field, request, [{"do": "replace", "file": digest}])
        except InvalidInputError as error:
            if "the same" not in error.message:
                raise


def _publish(request: Request, client: Client, portal: Portal, draft: str, form: Mapping[str, str]) -> Response:
    values = _finish_values(client, portal, draft, form)
    try:
        if not is_name(values["name"]):
            raise InvalidInputError("Give the dataset a name: letters, digits, '.', '_' or '-'.")
        done = [(field, values["states"][field.name]) for field in values["done"]]
        wanted = Wanted(values["name"], values["use"], form.get("description", "").strip())
        manifest = save_dataset(client, portal.desk, values["draft"], done, wanted, _names(client, values["draft"]))
    except InvalidInputError as error:
        return page(request, "annotate_finish.html", 422, **{**values, "error": error})
    return go(request, f"/data/{manifest.dataset}/{manifest.version}")


def _finish_values(client: Client, portal: Portal, draft: str, form: Mapping[str, str]) -> dict[str, Any]:
    found, fields, states = _of(client, portal, draft)
    done = [field for field in fields.fields if _is_done(states, field)]
    base = _base_name(client.project, found.base_uri)
    use = form.get("use", "")
    splits = sorted({field.split for field in done if field.split})
    saved = [each for each in list_datasets(client) if each.draft == found.draft]
    return {
        "draft": found,
        "states": states,
        "done": done,
        "changed": [field for field in fields.fields if field not in done and states.get(field.name, _NONE).applied],
        "left": [field for field in fields.fields if field not in done and not states.get(field.name, _NONE).applied],
        "name": form.get("name", "").strip() or _suggested_name(client, found, fields),
        "uses": USES,
        "use": use if use in USES else suggested_use(done),
        "description": form.get("description", ""),
        "base_name": base,
        "from_test": "test" in splits,
        "saved": saved,
    }


_NONE: Final = v1.DraftImage()


def _suggested_name(client: Client, draft: v1.Draft, fields: Fields) -> str:
    """Return a name for the dataset: that of the one whose images were corrected."""
    source = next((field.source.uri for field in fields.fields if field.tiles), "")
    if not source:
        return f"{versioned_name(draft.model_uri).partition(':')[0]}-corrected"[:63] if draft.model_uri else "corrected"
    dataset = read_dataset(client, versioned_name(source, client.project))
    name, same = dataset.dataset, dataset.kind == draft.kind
    return name if same else f"{name[:53]}-corrected"


def _is_done(states: Mapping[str, v1.DraftImage], field: Field) -> bool:
    return field.name in states and states[field.name].done


def _classes(client: Client, draft: v1.Draft) -> list[dict[str, Any]]:
    """Return the number and name of each class; classes of class images are called by their numbers in a draft."""
    if draft.kind == "boxes" or not all(name.isdecimal() for name in draft.classes):
        return [{"number": number, "name": name} for number, name in enumerate(draft.classes, start=1)]
    dataset = class_dataset(client, draft.model_uri or draft.base_uri)
    known = dataset.class_names if dataset is not None else {}
    return [{"number": int(name), "name": known.get(int(name), name)} for name in draft.classes]


def _names(client: Client, draft: v1.Draft) -> dict[int, str]:
    """Return the names of the classes of objects or areas by number, without those that are called by it."""
    if draft.kind == "boxes":
        return {}
    return {each["number"]: each["name"] for each in _classes(client, draft) if each["name"] != str(each["number"])}


def _file_names(fields: Sequence[Field]) -> dict[str, str]:
    """Return the name without suffix that the label image of each image has in other programs."""
    stems = [field.stem for field in fields]
    return {
        field.name: field.stem if stems.count(field.stem) == 1 else f"{field.split}-{field.stem}" for field in fields
    }


def _tiles(draft: v1.Draft, field: Field, layer: str) -> str:
    return f"/p/{draft.project}/tiles/draft/{draft.draft}/{quote(field.name, safe=':')}/{layer}/info"


def _base_name(project: str, uri: str) -> str:
    """Return what people of a project call a dataset or result: "name:version", or the id of the job."""
    name = versioned_name(uri)
    return versioned_name(uri, project) if name.rpartition(":")[2].isdecimal() else name.partition(":")[2]


def _base_url(project: str, uri: str) -> str:
    name = _base_name(project, uri)
    return f"/p/{project}/data/{address(name)}" if ":" in name else f"/p/{project}/results/{name}"


def _tile_uris(client: Client, draft: v1.Draft) -> list[str]:
    """Return the addresses whose tiles the viewer of a draft shows."""
    entry = client.catalog.entry_at(draft.base_uri)
    if entry.kind == v1.ENTRY_KIND_DATASET:
        return [draft.base_uri]
    return [entry.result.input_uri] if entry.result.split else []
