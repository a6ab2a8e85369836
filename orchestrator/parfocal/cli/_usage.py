"""`parfocal usage`: what projects have used."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from parfocal.cli._app import Command, current_app

if TYPE_CHECKING:
    from parfocal.client import Client

_HOURS = ("project", "month", "user", "service", "jobs", "device_hours")
_STORAGE = ("project", "month", "kind", "mean_gb", "largest_gb", "days")


@click.command(cls=Command, short_help="Say what projects have used, as CSV.")
@click.option("--month", metavar="YYYY-MM", default="", help="Only this month.  [default: all]")
@click.option("--all-projects", is_flag=True, help="All projects that you may see, not only one.")
@click.option("--storage", is_flag=True, help="Space in the store by project, month and kind instead of hours.")
def usage(month: str, all_projects: bool, storage: bool) -> None:
    """Write a CSV of the hours on devices by project, month, user and service.

    Hours count from the first worker of a training or prediction to its end, in the month of its end (UTC). Deleted
    jobs count as well. Space is what was stored on the days of a month on which the catalogue looked, on average and
    at most, with the trash (GB of 1,000,000,000 bytes); `parfocal storage` says what takes it now.
    """
    app = current_app()
    import re

    from parfocal.cli._render import print_json
    from parfocal.runtime.errors import InvalidInputError

    if month and not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", month):
        raise InvalidInputError(f"--month {month!r} is no month: write it as 2026-11.")
    columns, rows_of = (_STORAGE, _space) if storage else (_HOURS, _hours)
    rows: list[dict[str, Any]] = []
    with app.client() as client:
        for project in client.catalog.projects() if all_projects else [client.project]:
            rows += [dict(zip(columns, (project, *row), strict=True)) for row in rows_of(client, project, month)]
    if app.json:
        print_json(rows)
        return
    table = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)


def _hours(client: Client, project: str, month: str) -> Iterator[tuple[Any, ...]]:
    for use in client.usage(project, month).usage:
        yield use.month, use.user, use.service, use.jobs, round(use.device_seconds / 3600, 4)


def _space(client: Client, project: str, month: str) -> Iterator[tuple[Any, ...]]:
    from parfocal import v1

    for each in client.catalog.of(project).months_of_storage():
        if month in ("", each.month):
            kind = v1.EntryKind.Name(each.kind).removeprefix("ENTRY_KIND_").lower()
            yield each.month, kind, round(each.mean_bytes / 1e9, 6), round(each.largest_bytes / 1e9, 6), each.days
