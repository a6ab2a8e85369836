"""Inboxes: what lies in them, and taking it as the images of a dataset."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from parfocal.client.inboxes import InboxFolder, list_files, name_in
from parfocal.portal.fetching import begin, go_on, look_into, progress
from parfocal.portal.guard import require_work
from parfocal.portal.pages.data import require_own
from parfocal.portal.portal import ClientHere, PortalHere, RightsHere, go, page
from parfocal.runtime.errors import NotFoundError

router = APIRouter(prefix="/p/{project}")
_SHOWN: Final = 12


@router.get("/inboxes")
def look(request: Request, client: ClientHere, inbox: str = "", folder: str = "") -> Response:
    """Show what lies in a folder of an inbox."""
    place = InboxFolder(inbox, folder.strip("/"))
    try:
        files = list_files(client, place)
    except NotFoundError:
        # An inbox that is empty is one all the same.
        if inbox not in [each.name for each in client.catalog.inboxes()]:
            raise
        files = []
    return page(
        request,
        "inbox.html",
        place=place,
        above=place.folder.rpartition("/")[0],
        number=len(files),
        size=sum(file.size for file in files),
        folders=look_into(place, files),
        names=[name for file in files if "/" not in (name := name_in(place, file))][:_SHOWN],
        loose=sum("/" not in name_in(place, file) for file in files),
    )


@router.post("/inboxes", dependencies=[Depends(require_work)])
async def take(request: Request, client: ClientHere, portal: PortalHere, rights: RightsHere) -> Response:
    """Fetch a folder of an inbox, and go to the upload that it becomes."""
    form = await request.form()
    place = InboxFolder(str(form.get("inbox", "")), str(form.get("folder", "")).strip("/"))
    upload = await run_in_threadpool(begin, portal.uploads, portal.follower, client, place, rights.name)
    return go(request, f"/uploads/{upload}")


@router.get("/uploads/{upload}/fetching")
def fetching(request: Request, client: ClientHere, portal: PortalHere, upload: str) -> Response:
    """Say how far the fetching of an upload is; when all has arrived its page is shown anew."""
    found = progress(portal.uploads, portal.follower, client.project, upload)
    if found is None:
        return Response(status_code=204, headers={"HX-Refresh": "true"})
    made_by = portal.uploads.maker(client.project, upload)
    # By this number the page asks no more.
    code = 200 if found.running else 286
    return page(request, "_fetching.html", code, fetching=found, upload=upload, made_by=made_by)


@router.post("/uploads/{upload}/fetch", dependencies=[Depends(require_own)])
def fetch_again(request: Request, client: ClientHere, portal: PortalHere, upload: str) -> Response:
    """Go on fetching what has not arrived."""
    go_on(portal.uploads, portal.follower, client, upload)
    return go(request, f"/uploads/{upload}")
