"""Modules of services that the command line runs on this computer, in the service's own environment."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parfocal.client import Client


def service_of(client: Client, method: str) -> str:
    """Return the name of the service that offers `method`, which must be offered."""
    return next(info.name for info in client.services() if any(each.name == method for each in info.methods))


def package_of(service: str) -> str:
    """Return the Python package of a service."""
    return f"parfocal.{service.replace('-', '_')}"


def run_module(service: str, module: str, *arguments: str) -> subprocess.CompletedProcess[str] | None:
    """Run `python -m parfocal.SERVICE.MODULE ARGUMENTS` and return how it ended; None if there is no such module here.

    By the service's own interpreter: what the module needs is installed there and not here.
    """
    name = f"{package_of(service)}.{module}"
    done = run_python(service, name, *arguments)
    return None if done is not None and done.returncode and f"No module named {name}" in done.stderr else done


def run_python(service: str, module: str, *arguments: str) -> subprocess.CompletedProcess[str] | None:
    """Run `python -m MODULE ARGUMENTS` by a service's own interpreter; None where the service is not installed here."""
    from parfocal.stack.discover import discover_services

    unit = discover_services().get(service)
    if unit is None:
        return None
    command = [str(unit.python), "-m", module, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)
