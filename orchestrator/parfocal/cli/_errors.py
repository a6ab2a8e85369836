"""Exit codes, and how errors are shown."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from parfocal.runtime.errors import (
    AlreadyExistsError,
    InvalidInputError,
    NotFoundError,
    ParfocalError,
    PermissionDeniedError,
    PreconditionError,
    QueueFullError,
    QuotaError,
    UnauthenticatedError,
    UnavailableError,
    Violation,
)

if TYPE_CHECKING:
    from parfocal import v1
    from parfocal.cli._app import App

OK, FAILED, INVALID, NOT_FOUND, UNAVAILABLE, NOT_PASSED, DENIED, DETACHED = 0, 1, 2, 3, 4, 5, 6, 130

EXIT_CODES: Final = {
    OK: "done",
    FAILED: "the job failed or was cancelled",
    INVALID: "the command, a parameter or the images cannot be used as they are",
    NOT_FOUND: "there is no such method, dataset, model, job or file",
    UNAVAILABLE: "Parfocal or its store does not answer",
    NOT_PASSED: "the model has not passed quality control (only with --require-pass)",
    DENIED: "you are not logged in, lack the role for this, or have used up a quota",
    DETACHED: "stopped with Ctrl-C; the job goes on",
}


def exit_code_of(error: ParfocalError) -> int:
    """Return the exit code that an error stands for."""
    if isinstance(error, NotFoundError):
        return NOT_FOUND
    if isinstance(error, UnauthenticatedError | PermissionDeniedError | QuotaError):
        return DENIED
    if isinstance(error, UnavailableError | QueueFullError):
        return UNAVAILABLE
    if isinstance(error, InvalidInputError | AlreadyExistsError | PreconditionError):
        return INVALID
    return FAILED


def report_error(app: App, error: ParfocalError) -> None:
    """Show one clear message on stderr; with --json the same as an object on stdout."""
    fail_text(error.message)
    for line in unsaid(error.message, error.violations):
        click.echo(line, err=True)
    if app.json:
        from parfocal.cli._render import print_json

        violations = [{"field": item.field, "description": item.description} for item in error.violations]
        print_json({"error": {"reason": error.reason, "message": error.message, "violations": violations}})


def unsaid(message: str, violations: Iterable[Violation | v1.FieldViolation]) -> list[str]:
    """Return a line for each violation, or none where the message lists them itself, if only the first ones."""
    known = [(item.field, item.description) for item in violations]
    if any(description in message for _, description in known):
        return []
    return [f"  - {field}: {description}" for field, description in dict.fromkeys(known)]


def fail_text(text: str) -> None:
    """Write a message that begins with a red "Error:" to stderr."""
    click.echo(f"{click.style('Error:', fg='red', bold=True)} {text}", err=True)


def report_defect(app: App, error: Exception) -> None:
    """Keep the traceback of an unexpected error in a file and say where."""
    path = _log_folder(app) / f"parfocal-{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}.log"
    lines = [
        f"command: {' '.join(sys.argv)}\n",
        f"python {platform.python_version()} on {platform.platform()}\n\n",
        *traceback.format_exception(error),
    ]
    path.write_text("".join(lines), encoding="utf-8")
    fail_text(
        f"Parfocal failed in a way it should not ({type(error).__name__}). This is a defect, not your mistake.\n"
        f"The details are in {path}; please send this file to whoever runs Parfocal for you, with what you did."
    )


def _log_folder(app: App) -> Path:
    folder = Path(app.home or os.environ.get("PARFOCAL_HOME") or "~/.parfocal").expanduser() / "logs"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.gettempdir())
    return folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())
