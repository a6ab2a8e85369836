"""`parfocal storage`: what takes space in the store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from parfocal.cli._app import Command, current_app

if TYPE_CHECKING:
    from parfocal import v1


@click.command(cls=Command, short_help="Say what takes space in the store.")
@click.option("--all-projects", is_flag=True, help="All projects that you may see, not only one.")
def storage(all_projects: bool) -> None:
    """Say how much space datasets, models, results, jobs and previews take, largest first, by project.

    What is in the trash counts until its retention is over, and so do the parts of large files whose upload was
    interrupted. Jobs are their records and checkpoints; previews are what the portal shows of images. Neither counts
    for the limit of a project. The preview of an image that several projects have is listed for each of them.
    """
    app = current_app()
    from parfocal.cli._render import megabytes, print_json, print_table, say

    with app.client() as client:
        names = client.catalog.projects() if all_projects else [client.project]
        found = [row for name in names for row in _rows(name, client.catalog.of(name).all_usage())]
    found.sort(key=lambda row: -row["bytes"])
    if app.json:
        print_json(found)
        return
    if not any(row["objects"] for row in found):
        say("Nothing is stored yet. The first dataset is made with `parfocal dataset create`.")
        return
    columns = ("Project", "Kind", "Published", "Size", "In the trash", "Unfinished")
    rows = [
        (
            row["project"],
            f"{row['kind']}s",
            str(row.get("entries", "")),
            *(megabytes(row[key]) if key in row else "" for key in ("bytes", "deleted_bytes", "unfinished_bytes")),
        )
        for row in found
    ]
    print_table(columns, rows, numbers=columns[2:])
    say(f"In all {megabytes(sum(row['bytes'] for row in found))}.")


def _rows(project: str, answer: v1.GetUsageResponse) -> Iterator[dict[str, Any]]:
    from parfocal import v1

    for usage in answer.usages:
        yield {
            "project": project,
            "kind": v1.EntryKind.Name(usage.kind).removeprefix("ENTRY_KIND_").lower(),
            "entries": usage.entries,
            "deleted_entries": usage.deleted_entries,
            "objects": usage.objects,
            "bytes": usage.bytes,
            "deleted_bytes": usage.deleted_bytes,
            "unfinished_bytes": usage.unfinished_bytes,
        }
    words = {v1.OTHER_USAGE_KIND_JOBS: "job", v1.OTHER_USAGE_KIND_DERIVED: "preview"}
    for other in answer.others:
        if other.kind in words:
            yield {"project": project, "kind": words[other.kind], "objects": other.objects, "bytes": other.bytes}
