"""One image of a draft: its tiles and labels as they are now, what is done to it, and who works on it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from parfocal import v1
from parfocal.client import Client
from parfocal.portal.annotate.boxes import BoxEditor
from parfocal.portal.annotate.desk import Opened, patches, tiff_bytes
from parfocal.portal.annotate.fields import Field
from parfocal.portal.annotate.rebasing import Seen, digest_of
from parfocal.portal.portal import ClientHere, Portal, PortalHere
from parfocal.runtime.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    ParfocalError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from parfocal.runtime.images.pyramid import encode_tile, tile_name
from parfocal.runtime.numbers import whole_number
from parfocal.runtime.store.names import check_request_id

router = APIRouter(prefix="/p/{project}")
NEVER: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""Headers of what may be another a moment later."""

_LARGEST: Final = 4 * 2**20
_STATUS: Final = (
    (ConflictError, 412),
    (PreconditionError, 409),
    (InvalidInputError, 422),
    (NotFoundError, 404),
    (UnauthenticatedError, 401),
    (PermissionDeniedError, 403),
)


@router.get("/annotate/{draft}/images/{image}")
def image_state(client: ClientHere, portal: PortalHere, draft: str, image: str) -> Response:
    """Say how far one image is, with its boxes or the classes of its objects."""
    try:
        found, field = _one(client, portal, draft, image)
        opened = portal.desk.opened(client, found, field)
        known = client.catalog.draft_image(draft, image)
        return JSONResponse({**state_of(known), **_drawn(opened)}, headers=NEVER)
    except ParfocalError as error:
        return _refused(error)


@router.patch("/annotate/{draft}/images/{image}")
async def change(
    request: Request, client: ClientHere, portal: PortalHere, draft: str, image: str, if_match: str = Header("")
) -> Response:
    """Apply operations, undo or redo them, or mark an image as done; If-Match is the revision that was seen."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST:
            return _refused(InvalidInputError("This is too much for one change. Draw it in several strokes."))
    return await run_in_threadpool(_change, client, portal, draft, image, if_match.strip('" '), body)


@router.post("/annotate/{draft}/images/{image}/lease")
async def lease(request: Request, client: ClientHere, draft: str, image: str) -> Response:
    """Take, renew or end the lease of an image."""
    form = {name: str(value) for name, value in (await request.form()).items()}

    def take() -> Response:
        try:
            found = client.catalog.lease_draft_image(
                draft,
                image,
                check_request_id(form.get("session", "")),
                take_over=form.get("do", "") == "take-over",
                release=form.get("do", "") == "release",
            )
        except ParfocalError as error:
            return _refused(error)
        return JSONResponse(state_of(found), headers=NEVER)

    return await run_in_threadpool(take)


@router.get("/annotate/{draft}/images/{image}/labels.tif")
def labels_out(client: ClientHere, portal: PortalHere, draft: str, image: str) -> Response:
    """Return the label image as it is now, for Fiji or napari."""
    found, field = _one(client, portal, draft, image)
    opened = portal.desk.opened(client, found, field)
    with opened.lock:
        content = opened.image()
    name = quote(f"{field.stem}.tif")
    headers = {**NEVER, "Content-Disposition": f"attachment; filename*=UTF-8''{name}"}
    return Response(tiff_bytes(content), media_type="image/tiff", headers=headers)


@router.get("/tiles/draft/{draft}/{image}/{layer}/info")
def info(client: ClientHere, portal: PortalHere, draft: str, image: str, layer: str) -> Response:
    """Describe an image of a draft, or the labels drawn in it."""
    try:
        found, field = _one(client, portal, draft, image)
        opened = portal.desk.opened(client, found, field)
    except InvalidInputError as error:
        return JSONResponse({"state": "failed", "reason": error.message}, headers=NEVER)
    with opened.lock:
        content = opened.info() if layer == "labels" else opened.source_info
    return JSONResponse(content, headers=NEVER)


@router.get("/tiles/draft/{draft}/{image}/{layer}/{digest}/{level}/{t}/{c}/{z}/{row}/{column}")
def tile(
    client: ClientHere,
    portal: PortalHere,
    draft: str,
    image: str,
    layer: str,
    level: int,
    t: int,
    c: int,
    z: int,
    row: int,
    column: int,
) -> Response:
    """Return one tile of an image of a draft, or of the labels as they are now."""
    found, field = _one(client, portal, draft, image)
    opened = portal.desk.at_hand(client, found, field)
    headers = {**NEVER, "Content-Encoding": "gzip"}
    if layer != "labels":
        data = (opened.source or {}).get(tile_name(level, t, c, z, row, column))
    else:
        with opened.lock:
            pixels = opened.tile(level, t, z, row, column)
        data = None if pixels is None else encode_tile(pixels)
    if data is None:
        raise NotFoundError("There is no such tile.")
    return Response(data, media_type="application/octet-stream", headers=headers)


def _one(client: Client, portal: Portal, draft: str, image: str) -> tuple[v1.Draft, Field]:
    found = portal.fields.draft(client, draft)
    return found, portal.fields.fields(client, found).find(image)


def _change(client: Client, portal: Portal, draft: str, image: str, revision: str, body: bytes) -> Response:
    try:
        sent = json.loads(body)
        known = whole_number(revision)
        if not isinstance(sent, dict) or known is None:
            raise ValueError
    except (ValueError, RecursionError):
        return _refused(InvalidInputError("Send an object of JSON, and the revision in If-Match."))
    request = v1.ChangeDraftImageRequest(
        project=client.project,
        draft=draft,
        image=image,
        revision=known,
        change_id=str(sent.get("change_id", "")),
        session=str(sent.get("session", "")),
    )
    if isinstance(sent.get("applied"), int):
        request.applied = sent["applied"]
    if isinstance(sent.get("done"), bool):
        request.done = sent["done"]
    operations = sent.get("operations", [])
    if not isinstance(operations, list):
        return _refused(InvalidInputError("The operations must be a list."))
    try:
        found, field = _one(client, portal, draft, image)
        opened, saved, windows = portal.desk.change(client, found, field, request, operations, _seen(sent))
        answer = {**state_of(saved), **_drawn(opened)}
        answer["own"] = [digest_of([text]) for text in request.operations]
        answer["made"] = [json.loads(text).get("object", 0) for text in request.operations]
        if isinstance(opened.editor, BoxEditor):
            return JSONResponse(answer, headers=NEVER)
        with opened.lock:
            changed = patches(opened, windows)
        if changed is None:
            answer["reload"] = True
        else:
            for each in changed:
                each["values"] = base64.b64encode(each["values"]).decode()
            answer["patches"] = changed
        return JSONResponse(answer, headers=NEVER)
    except ParfocalError as error:
        return _refused(error)


def _seen(sent: Mapping[str, Any]) -> Seen | None:
    """Return what a window says that it had seen of an image; None where it does not say it."""
    digest, own = sent.get("seen"), sent.get("own", [])
    known = [each for each in own if isinstance(each, str)] if isinstance(own, list) else []
    return Seen(digest, frozenset(known)) if isinstance(digest, str) else None


def state_of(image: v1.DraftImage) -> dict[str, Any]:
    """Return how far an image is, and who works on it, as plain JSON types."""
    lease = {"session": image.lease.session, "holder": image.lease.holder} if image.HasField("lease") else None
    return {
        "revision": image.revision,
        "applied": image.applied,
        "steps": image.steps,
        "done": image.done,
        "seen": digest_of(list(image.operations)[: image.applied]),
        "lease": lease,
    }


def _drawn(opened: Opened) -> dict[str, Any]:
    with opened.lock:
        if isinstance(opened.editor, BoxEditor):
            boxes = [{"id": box.number, "corners": box.corners, "class": box.classed} for box in opened.editor.boxes]
            return {"boxes": boxes}
        return {"classes": {str(number): classed for number, classed in opened.editor.classes.items()}}


def _refused(error: ParfocalError) -> Response:
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 503)
    return JSONResponse({"detail": error.message}, status, headers=NEVER)
