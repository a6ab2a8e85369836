"""Sharing with other projects, which datasets and models have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from parfocal.cli._app import Group, current_app

if TYPE_CHECKING:
    from parfocal import v1


def add_share_commands(group: Group, kind: str) -> None:
    """Give a group of commands `share`, `unshare` and `shares`; `kind` is "dataset" or "model"."""

    @group.command(
        "share",
        help=f"Let another project read the {kind} NAME, in all its versions, also later ones.\n\nPeople of that "
        f"project then call it PROJECT/NAME, with the name of this project, and use it like a {kind} of their own; "
        "they cannot change it. Only operators share.",
        short_help=f"Let another project read a {kind}.",
    )
    @click.argument("name")
    @click.option("--with", "reader", metavar="PROJECT", required=True, help="The project that may read it.")
    def share(name: str, reader: str) -> None:
        _share(kind, name, reader)

    @group.command(
        "unshare",
        help=f"Let another project read the {kind} NAME no longer.\n\nJobs that have begun go on, and what was made "
        "from it stays.",
        short_help=f"Let another project read a {kind} no longer.",
    )
    @click.argument("name")
    @click.option("--with", "reader", metavar="PROJECT", required=True, help="The project that may read it.")
    def unshare(name: str, reader: str) -> None:
        _unshare(kind, name, reader)

    @group.command(
        "shares",
        help=f"List the {kind}s that the project shares with others, and those that others share with it.",
        short_help=f"List the {kind}s that are shared.",
    )
    def shares() -> None:
        _shares(kind)


def _share(kind: str, name: str, project: str) -> None:
    app = current_app()
    from parfocal.cli._render import print_json, say

    with app.client() as client:
        grant = client.catalog.share(kind, name, project)
    if app.json:
        print_json(_json(grant))
        return
    say(f"The project {project} can read the {kind} {name} now, and calls it {grant.project}/{name}.")


def _unshare(kind: str, name: str, project: str) -> None:
    app = current_app()
    from parfocal.cli._render import print_json, say

    with app.client() as client:
        client.catalog.withdraw_share(kind, name, project)
    if app.json:
        print_json({"kind": kind, "name": name, "with_project": project})
        return
    say(f"The project {project} can read the {kind} {name} no longer.")


def _shares(kind: str) -> None:
    app = current_app()
    from parfocal.cli._render import local_time, print_json, print_table, say

    with app.client() as client:
        own = client.project
        found = [*client.catalog.shares(kind, received=False), *client.catalog.shares(kind, received=True)]
    if app.json:
        print_json([_json(each) for each in found])
        return
    if not found:
        say(f"No {kind}s are shared by or with the project {own!r}.")
        return
    rows = [
        (
            each.name if each.project == own else f"{each.project}/{each.name}",
            f"with {each.with_project}" if each.project == own else f"by {each.project}",
            local_time(each.granted_at.ToDatetime()) if each.HasField("granted_at") else "",
            each.granted_by,
        )
        for each in found
    ]
    print_table((kind.capitalize(), "Shared", "Since", "By"), rows)


def _json(share: v1.Share) -> dict[str, object]:
    from google.protobuf import json_format

    return dict(json_format.MessageToDict(share, preserving_proto_field_name=True))
