"""Sharing: which other projects may read a dataset or model, for operators of the project that owns it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from parfocal.client import Client
from parfocal.portal.pages.operator import require_operator
from parfocal.portal.portal import ClientHere, go, page
from parfocal.runtime.errors import InvalidInputError, NotFoundError, ParfocalError, Violation
from parfocal.runtime.store.names import is_name

router = APIRouter(prefix="/p/{project}/share", dependencies=[Depends(require_operator)])
_LISTS: Final = {"dataset": "/data", "model": "/models"}


@router.get("/{kind}/{name}")
def share(request: Request, client: ClientHere, kind: str, name: str) -> Response:
    """Show with whom a dataset or model is shared."""
    return page(request, "share.html", **_about(client, kind, name))


@router.post("/{kind}/{name}")
async def change(request: Request, client: ClientHere, kind: str, name: str) -> Response:
    """Share something with one more project, or no longer with one."""
    form = {key: str(value).strip() for key, value in (await request.form()).items()}
    return await run_in_threadpool(_change, request, client, kind, name, form)


def _change(request: Request, client: Client, kind: str, name: str, form: Mapping[str, str]) -> Response:
    about, other = _about(client, kind, name), form.get("with", "")
    try:
        if not is_name(other):
            text = "Write the name of the other project: letters, digits, '.', '_' or '-'."
            raise InvalidInputError(text, [Violation("with", text)])
        if form.get("act") == "withdraw":
            client.catalog.withdraw_share(kind, name, other)
        else:
            client.catalog.share(kind, name, other)
    except ParfocalError as error:
        return page(request, "share.html", 422, **{**about, "error": error, "sent": other})
    return go(request, f"/share/{kind}/{name}")


def _about(client: Client, kind: str, name: str) -> dict[str, Any]:
    if kind not in _LISTS:
        raise NotFoundError("There is no such page.")
    entry = client.catalog.entry(kind, name)
    shares = [each for each in client.catalog.shares(kind, received=False) if each.name == name]
    newest = f"{_LISTS[kind]}/{entry.name}/{entry.version}"
    return {"kind": kind, "name": name, "shares": shares, "list_url": _LISTS[kind], "newest": newest, "sent": ""}
