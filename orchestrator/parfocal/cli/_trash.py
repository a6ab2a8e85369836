"""Deleting and restoring, which datasets, models and results have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from parfocal.cli._app import Group, current_app

if TYPE_CHECKING:
    from parfocal import v1

_SHOWN = 5


def add_trash_commands(group: Group, kind: str, metavar: str) -> None:
    """Give a group of commands `delete` and `restore`; `kind` is "dataset", "model" or "result"."""
    what = "result of JOB" if kind == "result" else f"{kind} {metavar}"
    delete_help = (
        f"Move the {what} to the trash.\n\nIt is not listed or offered any more. Its files stay for the retention of "
        f"the installation, 30 days by default, and for as long as something was made from them. `restore` undoes it."
    )

    @group.command("delete", help=delete_help, short_help=f"Move a {kind} to the trash.")
    @click.argument("name", metavar=metavar)
    @click.option("--yes", is_flag=True, help="Do not ask.")
    def delete(name: str, yes: bool) -> None:
        _delete(kind, name, yes)

    @group.command("restore", help=f"Take the {what} out of the trash.", short_help=f"Undo the deletion of a {kind}.")
    @click.argument("name", metavar=metavar)
    def restore(name: str) -> None:
        _restore(kind, name)


def show_deleted(kind: str) -> None:
    """Show what is in the trash."""
    app = current_app()
    from parfocal.cli._render import local_time, megabytes, print_json, print_table, say

    with app.client() as client:
        found = list(client.catalog.entries(kind, deleted=True))
    if app.json:
        print_json([entry_json(entry) for entry in found])
        return
    if not found:
        say(f"There are no {kind}s in the trash of project {client.project!r}.")
        return
    rows = [
        (title(entry), megabytes(entry.bytes), local_time(entry.deleted_at.ToDatetime()), entry.deleted_by)
        for entry in found
    ]
    print_table((kind.capitalize(), "Size", "Deleted", "By"), rows, numbers=("Size",))


def title(entry: v1.Entry) -> str:
    """Return what people call an entry."""
    return f"{entry.name}:{entry.version}" if entry.version else entry.name


def entry_json(entry: v1.Entry) -> dict[str, object]:
    """Return an entry for programs."""
    from google.protobuf import json_format

    return dict(json_format.MessageToDict(entry, preserving_proto_field_name=True))


def _delete(kind: str, name: str, yes: bool) -> None:
    app = current_app()
    from parfocal.cli._render import local_time, megabytes, print_json, say

    with app.client() as client:
        # A name without version is refused before anything is asked.
        client.catalog.named(kind, name, exact=True)
        if not yes:
            entry = client.catalog.entry(kind, name)
            click.confirm(f"Delete the {kind} {title(entry)} ({megabytes(entry.bytes)})?", abort=True, err=True)
        answer = client.catalog.delete(kind, name)
    if app.json:
        print_json(
            {
                "deleted": title(answer.entry),
                "referrers": list(answer.referrers),
                "used_by_projects": list(answer.used_by_projects),
                "removed_after": answer.removed_after.ToJsonString() if answer.HasField("removed_after") else "",
            }
        )
        return
    say(f"The {kind} {title(answer.entry)} is in the trash. {_when(answer, local_time)}")


def _when(answer: v1.DeleteEntryResponse, local_time: Callable[..., str]) -> str:
    if answer.referrers:
        names = [_title_at(uri) for uri in answer.referrers[:_SHOWN]]
        more = f" and {len(answer.referrers) - _SHOWN} more" if len(answer.referrers) > _SHOWN else ""
        return f"Its files stay as long as {', '.join(names)}{more}, made from it, do."
    if answer.used_by_projects:
        return f"Its files stay as long as what the project {', '.join(answer.used_by_projects)} made from it does."
    if not answer.HasField("removed_after"):
        return "Its files stay."
    return f"Its files stay until {local_time(answer.removed_after.ToDatetime())}."


def _title_at(uri: str) -> str:
    """Return what people call the entry at an address: a result has no version."""
    _project, name, *version = uri.removeprefix("s3://").split("/")[1:]
    return ":".join([name, *version])


def _restore(kind: str, name: str) -> None:
    app = current_app()
    from parfocal.cli._render import print_json, say

    with app.client() as client:
        entry = client.catalog.restore(kind, name)
    if app.json:
        print_json(entry_json(entry))
    else:
        say(f"The {kind} {title(entry)} is back.")
