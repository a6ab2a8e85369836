"""`parfocal results …`: what predictions, evaluations and comparisons made."""

from __future__ import annotations

import click

from parfocal.cli._app import Group, current_app
from parfocal.cli._trash import add_trash_commands, entry_json, show_deleted


@click.group(cls=Group, short_help="List, delete and restore results.")
def results() -> None:
    """Results of predictions, evaluations and comparisons: list, delete, restore.

    `parfocal jobs download JOB` fetches the files.
    """


@results.command("list")
@click.option("--query", default="", metavar="WORDS", help="Only results with these words in job, method or kind.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(min=1), help="How many results to show.")
@click.option("--deleted", is_flag=True, help="List those in the trash instead.")
def list_(query: str, limit: int, deleted: bool) -> None:
    """List the results of the project, newest first."""
    app = current_app()
    from itertools import islice

    from parfocal.cli._render import local_time, megabytes, print_json, print_table, say, warn
    from parfocal.runtime.store.names import versioned_name

    if deleted:
        show_deleted("result")
        return
    with app.client() as client:
        # One more tells that there are more.
        found = list(islice(client.catalog.entries("result", query=query, on_damaged=warn), limit + 1))
    if app.json:
        print_json([entry_json(entry) for entry in found[:limit]])
        return
    if not found:
        say(f"There are no such results in project {client.project!r}. Make one with `parfocal predict`.")
        return
    rows = [
        (
            entry.name,
            entry.result.kind,
            versioned_name(entry.result.model_uri) if entry.result.model_uri else "",
            str(entry.result.images),
            megabytes(entry.bytes),
            local_time(entry.created_at.ToDatetime()),
        )
        for entry in found[:limit]
    ]
    print_table(("Job", "Kind", "Model", "Images", "Size", "Created"), rows, numbers=("Images", "Size"))
    if len(found) > limit:
        say("Older results are not shown; --limit shows more.")


add_trash_commands(results, "result", "JOB")
