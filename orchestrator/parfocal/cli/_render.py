"""Everything that is printed: tables and results on stdout, messages on stderr."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from parfocal.runtime.store.verdicts import Verdict

_PIPE_WIDTH = 160  # nobody looks at a pipe, and programs do not like folded lines
_COLOURS = {
    "SUCCEEDED": "green",
    "passed": "green",
    "ready": "green",
    "FAILED": "red",
    "failed": "red",
    "error": "red",
    "warning": "yellow",
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


def say_points(texts: Iterable[str]) -> None:
    """Write the points of a list to stderr, each wrapped to the terminal."""
    for text in texts:
        click.echo("  - " + _wrapped(text, "    ", first=4, err=True), err=True)


def warn(text: str) -> None:
    """Write a warning to stderr, wrapped to the terminal."""
    head = "Warning:"
    lines = text.split("\n")
    first = _wrapped(lines[0], "  ", first=len(head) + 1, err=True)
    # Further lines are those of a list.
    rest = [_wrapped(line, f"{' ' * (len(line) - len(line.lstrip()))}  ", err=True) for line in lines[1:]]
    click.echo("\n".join([f"{click.style(head, fg='yellow', bold=True)} {first}", *rest]), err=True)


def print_json(value: Any) -> None:
    """Write a value to stdout as JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_text(text: str) -> None:
    """Write paragraphs to stdout, wrapped to the terminal."""
    for paragraph in text.split("\n"):
        click.echo(_wrapped(paragraph, ""))


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", numbers: Sequence[str] = ()
) -> None:
    """Write a table to stdout; the columns named in `numbers` are aligned to the right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for index, name in enumerate(columns):
        # The first column names things, and a name that is broken cannot be copied.
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold", no_wrap=index == 0)
    for row in rows:
        table.add_row(*(Text(cell, style=_COLOURS.get(cell.partition(" ")[0], "")) for cell in row))
    console = stdout()
    with console.capture() as capture:
        console.print(table)
    if title:
        click.secho(f"\n{title}", bold=True)
    for line in capture.get().splitlines():
        if line.strip():
            click.echo(line.rstrip())


def print_fields(fields: Mapping[str, str]) -> None:
    """Write names and values, one a line; empty values are left out. Addresses are never broken."""
    shown = {name: value for name, value in fields.items() if value}
    width = max((len(name) for name in shown), default=0) + 2
    for name, value in shown.items():
        text = _wrapped(value, " " * width, first=width)
        colour = _COLOURS.get(value)
        click.echo(click.style(f"{name:<{width}}", bold=True) + (click.style(text, fg=colour) if colour else text))


def print_verdict(verdict: Verdict) -> None:
    """Write a verdict with its reasons, and with what to try if it is a failure, to stdout."""
    click.echo("Verdict: " + click.style(verdict.state, fg=_COLOURS.get(verdict.state), bold=True))
    for reason in verdict.reasons:
        click.echo("  - " + _wrapped(reason, "    ", first=4))
    if verdict.next_steps:
        click.echo("What to try next:")
    for step in verdict.next_steps:
        click.echo("  - " + _wrapped(step, "    ", first=4))


def _wrapped(text: str, indent: str, first: int = 0, *, err: bool = False) -> str:
    """Wrap text to the terminal, `first` columns of the first line being taken; whole words, and not in pipes."""
    if not (sys.stderr if err else sys.stdout).isatty():
        return text
    lines = textwrap.wrap(
        " " * first + text,
        width=max((stderr() if err else stdout()).width, 40),
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines)[first:]


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
