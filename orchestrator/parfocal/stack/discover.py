"""Which method services are installed on this machine, each in its own virtual environment.

By convention the environment of service NAME is ``<environments>/<name>`` and holds the distribution
``parfocal-<name>``. Everything here reads file names only: importing a framework to ask would take seconds.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from email import message_from_string
from pathlib import Path

from parfocal.runtime.errors import NotFoundError
from parfocal.stack.config import CATALOG, ServiceUnit

_NOT_SERVICES = frozenset({"proto", "runtime"})


def environments_folder() -> Path | None:
    """Return the folder of the service environments: ``$PARFOCAL_ENVS``, else ``.venvs`` of the repository.

    None when neither exists, e.g. where the orchestrator was installed as a wheel.
    """
    configured = os.environ.get("PARFOCAL_ENVS")
    if configured:
        return Path(configured).expanduser().absolute()
    repository = Path(__file__).resolve().parents[3]
    return repository / ".venvs" if (repository / "services").is_dir() else None


def environment_python(environment: Path) -> Path:
    """Return the interpreter of a virtual environment."""
    # Not resolved: the link itself is what makes Python use the environment.
    return environment / "bin" / "python"


def installed_distributions(environment: Path) -> Mapping[str, str]:
    """Return name and version of all distributions installed in a virtual environment.

    Names are normalised: lower case, words joined by ``-``.
    """
    found = {}
    for path in environment.glob("lib/python3.*/site-packages/*.dist-info"):
        name, _, version = path.stem.partition("-")
        found[re.sub(r"[-_.]+", "-", name).lower()] = version
    return found


def required_distributions(environment: Path, distribution: str) -> tuple[str, ...]:
    """Return the normalised names of what a distribution asks for, with its extras, without Parfocal's own."""
    name = distribution.replace("-", "_")
    found: dict[str, None] = {}
    for path in environment.glob(f"lib/python3.*/site-packages/{name}-*.dist-info/METADATA"):
        for line in message_from_string(path.read_text("utf-8")).get_all("Requires-Dist", []):
            required = re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", line, maxsplit=1)[0]).lower()
            if not required.startswith("parfocal"):
                found[required] = None
    return tuple(found)


def discover_services(environments: Path | None = None) -> Mapping[str, ServiceUnit]:
    """Return the installed services by name, in alphabetical order.

    Parameters
    ----------
    environments
        Folder of the environments; `environments_folder` when None.
    """
    folder = environments or environments_folder()
    found: dict[str, ServiceUnit] = {}
    if folder is None or not folder.is_dir():
        return found
    for environment in sorted(folder.iterdir()):
        python = environment_python(environment)
        name = environment.name.replace("_", "-").lower()
        if name in _NOT_SERVICES or not os.access(python, os.X_OK):
            continue
        if f"parfocal-{name}" in installed_distributions(environment):
            module = f"parfocal.{name.replace('-', '_')}"
            found[name] = ServiceUnit(name=name, module=module, python=python)
    return found


def known_services() -> tuple[str, ...]:
    """Return the services that the repository has a folder for, installed or not; none outside a repository."""
    repository = Path(__file__).resolve().parents[3]
    folders = (path.parent.name for path in repository.glob("services/*/pyproject.toml"))
    return tuple(sorted(name.replace("_", "-") for name in folders if name not in _NOT_SERVICES))


def select_services(names: Sequence[str] | None = None, environments: Path | None = None) -> tuple[ServiceUnit, ...]:
    """Return the named services, or all that are installed when `names` is None; the catalogue where there is one.

    Raises
    ------
    NotFoundError
        A named service has no environment here.
    """
    found = discover_services(environments)
    if names is None:
        return tuple(found.values())
    wanted = list(dict.fromkeys(name.strip().replace("_", "-").lower() for name in names))
    missing = [name for name in wanted if name not in found]
    if missing:
        folder = environments or environments_folder()
        where = f"in {folder}" if folder else "because PARFOCAL_ENVS is not set"
        raise NotFoundError(
            f"No environment for the service {' and '.join(missing)} {where}. "
            f"Installed: {', '.join(found) or 'none'}. Add it with `make envs` in the Parfocal repository, "
            "or set PARFOCAL_ENVS to the folder that holds <name>/bin/python."
        )
    return tuple(found[name] for name in dict.fromkeys([*wanted, CATALOG]) if name in found)


def own_environment() -> Path:
    """Return the virtual environment this process runs in."""
    return Path(sys.prefix)
