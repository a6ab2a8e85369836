"""The method chooser: a few questions lead to a method."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from parfocal import v1
from parfocal.client.datasets import list_datasets, read_dataset
from parfocal.portal.portal import ClientHere, PortalHere, page
from parfocal.portal.words import GLOBALS
from parfocal.runtime.datasets.kinds import KINDS, kinds_for, suits
from parfocal.runtime.store.manifests import DatasetManifest

router = APIRouter(prefix="/p/{project}")


@router.get("/methods")
def methods(
    request: Request, client: ClientHere, portal: PortalHere, dataset: str = "", task: str = "", have: str = ""
) -> Response:
    """Ask what should come out and what is there, and show the methods that fit."""
    manifest = read_dataset(client, dataset) if dataset else None
    offered = portal.methods(client)
    tasks = {v1.Task.Name(number): title for number, title in GLOBALS["tasks"].items()}
    used = {v1.Task.Name(method.task) for method in offered}
    rows = []
    for method in offered:
        if task and v1.Task.Name(method.task) != task:
            continue
        needs = method.data_requirements
        if have and not manifest and have not in kinds_for(needs.target):
            continue
        rows.append(_row(method, manifest))
    rows.sort(key=lambda row: (not row["fits"], row["method"].title.casefold()))
    return page(
        request,
        "methods.html",
        rows=rows,
        dataset=dataset,
        manifest=manifest,
        task=task,
        have=have,
        task_choices={name: title for name, title in tasks.items() if name in used},
        kinds=KINDS,
        datasets=list_datasets(client, shared=True),
        silent=[info for info in portal.services(client) if info.error],
    )


def _row(method: v1.Method, manifest: DatasetManifest | None) -> dict[str, Any]:
    """Return a method with what speaks for or against training it on a dataset."""
    needs = method.data_requirements
    fitting = kinds_for(needs.target)
    row: dict[str, Any] = {
        "method": method,
        "fits": True,
        "reason": "",
        "needs": KINDS[fitting[0]].title if fitting else "",
        "layout": KINDS[fitting[0]].layout if fitting else "",
        "few": "",
    }
    if manifest is None:
        return row
    sources = manifest.select("train", "source")
    axes = {"".join(axis for axis in image.axes if axis in "ZYX") for image in sources}
    if not suits(manifest.kind, needs.target):
        row |= {"fits": False, "reason": f"It needs {row['needs']}: {row['layout']}."}
    elif needs.axes.removeprefix("T") not in axes:
        row |= {"fits": False, "reason": f"It needs images with the axes {needs.axes}; these have {', '.join(axes)}."}
    elif len(sources) < needs.minimum_images:
        row |= {
            "fits": False,
            "reason": f"It needs {needs.minimum_images} training images or more; there are {len(sources)}.",
        }
    elif len(sources) < needs.recommended_images:
        row["few"] = f"{needs.recommended_images} training images or more are recommended; there are {len(sources)}."
    return row
