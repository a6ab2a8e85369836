"""`parfocal projects`: which projects there are, and what each keeps."""

from __future__ import annotations

import click

from parfocal.cli._app import Command, current_app


@click.command(cls=Command, short_help="List the projects and the size of what they keep.")
def projects() -> None:
    """List the projects, with the number of their datasets, models and results and the size of all their files."""
    app = current_app()
    from parfocal import v1
    from parfocal.cli._render import megabytes, print_json, print_table, say

    with app.client() as client:
        names = client.catalog.projects()
        found = {}
        for name in names:
            found[name] = {usage.kind: usage for usage in client.catalog.of(name).usage()}
    kinds = (v1.ENTRY_KIND_DATASET, v1.ENTRY_KIND_MODEL, v1.ENTRY_KIND_RESULT)
    if app.json:
        print_json(
            [
                {
                    "project": name,
                    **{
                        f"{v1.EntryKind.Name(kind).removeprefix('ENTRY_KIND_').lower()}s": {
                            "entries": usages[kind].entries,
                            "deleted_entries": usages[kind].deleted_entries,
                            "bytes": usages[kind].bytes,
                        }
                        for kind in kinds
                    },
                }
                for name, usages in found.items()
            ]
        )
        return
    if not names:
        say("There are no projects. The first dataset makes one: `parfocal dataset create`.")
        return
    rows = [
        (
            name,
            *(str(usages[kind].entries) for kind in kinds),
            str(sum(usage.deleted_entries for usage in usages.values())),
            megabytes(sum(usage.bytes for usage in usages.values())),
        )
        for name, usages in found.items()
    ]
    columns = ("Project", "Datasets", "Models", "Results", "In the trash", "Size")
    print_table(columns, rows, numbers=columns[1:])
