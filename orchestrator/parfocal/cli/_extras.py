"""What the client's wheel leaves to the extra `parfocal[stack]`: packages for running Parfocal on a computer."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from parfocal.runtime.errors import PreconditionError

STACK: Final = ("fastapi", "jinja2", "minio", "prefect", "uvicorn")
"""Modules that workflows, portal and stack import."""


def require_stack() -> None:
    """Raise PreconditionError if packages are missing with which Parfocal is run on this computer."""
    if missing := [name for name in STACK if find_spec(name) is None]:
        raise stack_is_missing(missing[0])


def stack_is_missing(module: str) -> PreconditionError:
    """Return the error that says how to install what a module belongs to."""
    return PreconditionError(
        f"This needs packages that are not installed here ({module} and others): this is Parfocal's client alone, "
        "which works with a Parfocal that runs elsewhere. To run Parfocal on this computer, install them: "
        "pip install 'parfocal[stack]', from the folder with Parfocal's wheels (--find-links)."
    )
