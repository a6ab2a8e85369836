"""`parfocal usage`: what projects have used."""

from __future__ import annotations

import csv
import sys
from typing import Any

import click

from parfocal.cli._app import Command, current_app

_COLUMNS = ("project", "month", "user", "service", "jobs", "device_hours")


@click.command(cls=Command, short_help="Say what projects have used, as CSV.")
@click.option("--month", metavar="YYYY-MM", default="", help="Only this month.  [default: all]")
@click.option("--all-projects", is_flag=True, help="All projects that you may see, not only one.")
def usage(month: str, all_projects: bool) -> None:
    """Write a CSV of the hours on devices by project, month, user and service; `parfocal storage` is about space.

    Hours count from the first worker of a training or prediction to its end, in the month of its end (UTC). Deleted
    jobs count as well.
    """
    app = current_app()
    import re

    from parfocal.cli._render import print_json
    from parfocal.runtime.errors import InvalidInputError

    if month and not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", month):
        raise InvalidInputError(f"--month {month!r} is no month: write it as 2026-11.")
    rows: list[dict[str, Any]] = []
    with app.client() as client:
        for project in client.catalog.projects() if all_projects else [client.project]:
            for use in client.usage(project, month).usage:
                hours = round(use.device_seconds / 3600, 4)
                values = (project, use.month, use.user, use.service, use.jobs, hours)
                rows.append(dict(zip(_COLUMNS, values, strict=True)))
    if app.json:
        print_json(rows)
        return
    table = csv.DictWriter(sys.stdout, _COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
