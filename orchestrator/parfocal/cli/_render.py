"""Everything that is printed: tables and results on stdout, messages on stderr."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from parfocal.client.models import Verdict

_PIPE_WIDTH = 160  # nobody looks at a pipe, and programs do not like folded lines
_COLOURS = {
    "SUCCEEDED": "green",
    "passed": "green",
    "ready": "green",
    "FAILED": "red",
    "failed": "red",
    "CANCELLED": "yellow",
    "CANCELLING": "yellow",
    "unchecked": "yellow",
    "starting": "yellow",
    "RUNNING": "cyan",
}


@cache
def stdout() -> Console:
    """Return the console for results."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else shutil.get_terminal_size((_PIPE_WIDTH, 24)).columns
    return Console(highlight=False, markup=False, emoji=False, width=width)


@cache
def stderr() -> Console:
    """Return the console for messages and progress."""
    from rich.console import Console

    width = None if sys.stderr.isatty() else shutil.get_terminal_size((_PIPE_WIDTH, 24)).columns
    return Console(stderr=True, highlight=False, markup=False, emoji=False, width=width)


def say(text: str) -> None:
    """Write a message to stderr."""
    stderr().print(text, soft_wrap=not sys.stderr.isatty())


def warn(text: str) -> None:
    """Write a warning to stderr."""
    click.echo(f"{click.style('Warning:', fg='yellow', bold=True)} {text}", err=True)


def print_json(value: Any) -> None:
    """Write a value to stdout as JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_text(text: str) -> None:
    """Write a paragraph to stdout, wrapped to the terminal."""
    stdout().print(text, soft_wrap=not sys.stdout.isatty())


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", numbers: Sequence[str] = ()
) -> None:
    """Write a table to stdout; the columns named in `numbers` are aligned to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title or None, title_justify="left", title_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
    stdout().print(table)


def print_fields(fields: Mapping[str, str]) -> None:
    """Write names and values, one a line; empty values are left out."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields.items():
        if value:
            table.add_row(name, Text(value, style=_COLOURS.get(value, "")))
    stdout().print(table)


def print_verdict(verdict: Verdict) -> None:
    """Write a verdict with its reasons to stdout."""
    from rich.text import Text

    console = stdout()
    console.print(Text.assemble("Verdict: ", (verdict.state, f"bold {_COLOURS.get(verdict.state, '')}".strip())))
    for reason in verdict.reasons:
        console.print(Text(f"  - {reason}"), soft_wrap=not sys.stdout.isatty())


def duration(seconds: float) -> str:
    """Return a time span as people say it: 8 s, 2 min 5 s, 3 h 20 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 and whole % 60 else f"{round(seconds / 60)} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def local_time(moment: datetime) -> str:
    """Return a time in this computer's time zone, to the minute."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return f"{aware.astimezone():%Y-%m-%d %H:%M}"


def number(value: float) -> str:
    """Return a number with four digits that matter."""
    return f"{value:.4g}"


def megabytes(size: float) -> str:
    """Return a size in bytes as people say it."""
    return f"{size / 2**20:.1f} MB" if size < 2**30 else f"{size / 2**30:.1f} GB"
