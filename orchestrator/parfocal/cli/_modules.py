"""Modules of services that the command line runs on this computer, in the service's own environment."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parfocal.client import Client


def service_of(client: Client, method: str) -> str:
    """Return the name of the service that offers `method`, which must be offered."""
    return next(info.name for info in client.services() if any(each.name == method for each in info.methods))


def run_module(service: str, module: str, *arguments: str) -> subprocess.CompletedProcess[str] | None:
    """Run `python -m parfocal.SERVICE.MODULE ARGUMENTS` and return how it ended; None if there is no such module here.

    By the service's own interpreter: what the module needs is installed there and not here.
    """
    from parfocal.stack.discover import discover_services

    unit = discover_services().get(service)
    if unit is None:
        return None
    command = [str(unit.python), "-m", f"{unit.module}.{module}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode and f"No module named {unit.module}.{module}" in done.stderr else done
