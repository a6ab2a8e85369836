"""Deleting datasets, models and results, what was deleted lately, and bringing it back."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from google.protobuf import json_format

from parfocal import v1
from parfocal.client import Client
from parfocal.client.catalog import KINDS
from parfocal.portal.guard import require_work
from parfocal.portal.portal import ClientHere, PortalHere, go, page
from parfocal.portal.words import moment
from parfocal.runtime.errors import NotFoundError, ParfocalError

router = APIRouter(prefix="/p/{project}")
_SHOWN: Final = 20
_LISTS: Final = {"dataset": "/data", "model": "/models", "result": "/results"}
_RECENT: Final = 500


@router.get("/deleted")
def deleted(request: Request, client: ClientHere, portal: PortalHere, done: str = "", back: str = "") -> Response:
    """Show what was deleted and can be restored."""
    days = portal.settings.trash_days
    found = [(kind, entry) for kind in KINDS for entry in client.catalog.entries(kind, deleted=True)]
    found.sort(key=lambda each: each[1].deleted_at.ToNanoseconds(), reverse=True)
    rows = [
        {"kind": kind, "entry": each, "name": title_of(each), "left": _days_left(each, days)} for kind, each in found
    ]
    return page(request, "deleted.html", rows=rows, days=days, done=done, back=back)


@router.get("/delete/{kind}/{name}", dependencies=[Depends(require_work)])
def ask(request: Request, client: ClientHere, portal: PortalHere, kind: str, name: str) -> Response:
    """Ask before something is deleted, and say what was made from it."""
    return page(request, "delete.html", **_about(client, kind, name), days=portal.settings.trash_days)


@router.post("/delete/{kind}/{name}")
def delete(request: Request, client: ClientHere, portal: PortalHere, kind: str, name: str) -> Response:
    """Move something to the trash."""
    _known(kind)
    try:
        answer = client.catalog.delete(kind, name)
    except ParfocalError as error:
        about = _about(client, kind, name)
        return page(request, "delete.html", 409, **{**about, "error": error}, days=portal.settings.trash_days)
    portal.forget_tiles(client.project)
    return go(request, f"/deleted?{urlencode({'done': f'{kind} {title_of(answer.entry)}'})}")


@router.post("/restore/{kind}/{name}")
def restore(request: Request, client: ClientHere, kind: str, name: str) -> Response:
    """Take something out of the trash."""
    _known(kind)
    entry = client.catalog.restore(kind, name)
    if kind == "result":
        return go(request, f"/results/{entry.name}")
    return go(request, f"{_LISTS[kind]}/{entry.name}/{entry.version}")


def title_of(entry: v1.Entry) -> str:
    """Return what people call an entry: "name:version", or the job of a result."""
    return f"{entry.name}:{entry.version}" if entry.version else entry.name


def _about(client: Client, kind: str, name: str) -> dict[str, Any]:
    """Return what is said of an entry before it is deleted: what was made from it, and which jobs use it now."""
    _known(kind)
    entry = client.catalog.entry(kind, name)
    lineage = client.catalog.lineage(kind, title_of(entry))
    made = {relation.uri for relation in lineage.relations if relation.from_uri == entry.uri}
    numbers = {number: word for word, number in KINDS.items()}
    referrers = [
        {"kind": numbers[each.kind], "entry": each, "name": title_of(each)}
        for each in lineage.entries
        if each.uri in made and each.uri != entry.uri
    ]
    return {
        "kind": kind,
        "entry": entry,
        "name": title_of(entry),
        "referrers": referrers[:_SHOWN],
        "more": max(0, len(referrers) - _SHOWN),
        "users": list(_users(client, entry.uri)),
        "list_url": _LISTS[kind],
    }


def _users(client: Client, uri: str) -> Iterable[v1.Job]:
    """Yield the jobs that have not ended and name an entry."""
    active = (v1.JOB_STATE_QUEUED, v1.JOB_STATE_RUNNING, v1.JOB_STATE_CANCELLING)
    for job in client.jobs(active, limit=_RECENT):
        if f'"{uri}"' in json_format.MessageToJson(job):
            yield job


def _known(kind: str) -> None:
    if kind not in KINDS:
        raise NotFoundError(f"There is nothing called a {kind!r} here.")


def _days_left(entry: v1.Entry, days: float) -> int | None:
    """Return for how many days, the last one included, an entry can be restored in any case; None: for ever."""
    if not days:
        return None
    gone = (datetime.now(UTC) - moment(entry.deleted_at)).total_seconds() / 86_400
    return max(0, math.ceil(days - gone))
