"""`parfocal storage`: what takes space in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from parfocal.cli._app import Command, current_app

if TYPE_CHECKING:
    from parfocal import v1


@click.command(cls=Command, short_help="Say what takes space in the store.")
@click.option("--all-projects", is_flag=True, help="All projects that you may see, not only one.")
def storage(all_projects: bool) -> None:
    """Say how much space datasets, models and results take, largest first, by project.

    What is in the trash counts until its retention is over, and so do the parts of large files whose upload was
    interrupted.
    """
    app = current_app()
    from parfocal.cli._render import megabytes, print_json, print_table, say

    with app.client() as client:
        names = client.catalog.projects() if all_projects else [client.project]
        found = [(name, usage) for name in names for usage in client.catalog.of(name).usage()]
    found.sort(key=lambda item: -item[1].bytes)
    if app.json:
        print_json([_json(name, usage) for name, usage in found])
        return
    if not any(usage.objects for _, usage in found):
        say("Nothing is stored yet. The first dataset is made with `parfocal dataset create`.")
        return
    rows = [
        (
            name,
            f"{_kind(usage)}s",
            str(usage.entries),
            megabytes(usage.bytes),
            megabytes(usage.deleted_bytes),
            megabytes(usage.unfinished_bytes),
        )
        for name, usage in found
    ]
    columns = ("Project", "Kind", "Published", "Size", "In the trash", "Unfinished")
    print_table(columns, rows, numbers=columns[2:])
    say(f"In all {megabytes(sum(usage.bytes for _, usage in found))}.")


def _kind(usage: v1.Usage) -> str:
    from parfocal import v1

    return v1.EntryKind.Name(usage.kind).removeprefix("ENTRY_KIND_").lower()


def _json(project: str, usage: v1.Usage) -> dict[str, object]:
    return {
        "project": project,
        "kind": _kind(usage),
        "entries": usage.entries,
        "deleted_entries": usage.deleted_entries,
        "bytes": usage.bytes,
        "deleted_bytes": usage.deleted_bytes,
        "unfinished_bytes": usage.unfinished_bytes,
    }
