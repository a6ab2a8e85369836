"""`parfocal projects`: which projects there are."""

from __future__ import annotations

import click

from parfocal.cli._app import Command, current_app


@click.command(cls=Command, short_help="List the projects.")
def projects() -> None:
    """List the projects that you may see.

    `parfocal storage` says what each keeps, `parfocal usage` what it has used.
    """
    app = current_app()
    from parfocal.cli._render import print_json, print_table, say

    with app.client() as client:
        names = client.catalog.projects()
    if app.json:
        print_json([{"project": name} for name in names])
        return
    if not names:
        say("There are no projects. The first dataset makes one: `parfocal dataset create`.")
        return
    print_table(("Project",), [(name,) for name in names])
