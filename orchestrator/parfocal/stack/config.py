"""What a stack consists of: its folder, services, ports and limits."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from parfocal.runtime.errors import PreconditionError


class ServiceUnit(BaseModel):
    """One method service of the stack.

    Parameters
    ----------
    name
        Short name, e.g. ``care``; also the name of its log and of its unit in `status`.
    module
        Python package of the service, e.g. ``parfocal.care``.
    python
        Interpreter of the service's own virtual environment.
    port
        Port on loopback; chosen and remembered when None.
    command
        Replaces ``PYTHON -m parfocal.runtime.server MODULE`` where a service is started differently.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")
    module: str
    python: Path
    port: int | None = Field(default=None, ge=1, le=65535)
    command: tuple[str, ...] = ()

    @property
    def argv(self) -> tuple[str, ...]:
        """The command line that starts the service."""
        return self.command or (str(self.python), "-P", "-m", "parfocal.runtime.server", self.module)


class Buckets(BaseModel):
    """Names of the five buckets of the store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    datasets: str = "parfocal-datasets"
    models: str = "parfocal-models"
    results: str = "parfocal-results"
    jobs: str = "parfocal-jobs"
    derived: str = "parfocal-derived"

    @property
    def environment(self) -> Mapping[str, str]:
        """The settings that tell a service or client these names."""
        return {f"PARFOCAL_BUCKET_{field.upper()}": getattr(self, field) for field in type(self).model_fields}


def default_folder() -> Path:
    """Return the stack's folder when none is named: ``$PARFOCAL_HOME``, else ``~/.parfocal``."""
    return Path(os.environ.get("PARFOCAL_HOME") or "~/.parfocal")


def resolve_folder(folder: Path | None) -> Path:
    """Return `folder`, or the default one when None, as an absolute path."""
    return (folder or default_folder()).expanduser().resolve()


class StackConfig(BaseModel):
    """What `parfocal.stack.up` starts.

    Parameters
    ----------
    folder
        Everything the stack keeps: data, settings, logs, state. Made on demand, for its owner only.
    services
        The method services; see `parfocal.stack.select_services`.
    prefect
        Whether to run a Prefect server (and with it the flow runner).
    portal
        Whether to run the portal, the pages for the browser.
    runner_module
        Module started with ``python -m`` as the flow runner; left out when it is None or not installed, and
        while there are no services.
    s3_port, prefect_port, portal_port
        Ports on loopback; chosen and remembered when None.
    store_port
        First of eight consecutive ports that the parts of the S3 server use among themselves; one more
        lies 10003 above it.
    buckets
        Bucket names, created when the store is ready.
    start_timeout
        Seconds one unit may take to become ready.
    max_restarts
        How often in a row a unit that dies is started again.
    log_megabytes
        Size at which a unit's log is moved aside; one older log is kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path = Field(default_factory=lambda: resolve_folder(None))
    services: tuple[ServiceUnit, ...] = ()
    prefect: bool = True
    portal: bool = True
    runner_module: str | None = "parfocal.flows.serve"
    s3_port: int | None = Field(default=None, ge=1, le=65535)
    store_port: int | None = Field(default=None, ge=1, le=55000)
    prefect_port: int | None = Field(default=None, ge=1, le=65535)
    portal_port: int | None = Field(default=None, ge=1, le=65535)
    buckets: Buckets = Buckets()
    start_timeout: float = Field(default=300.0, gt=0)
    max_restarts: int = Field(default=5, ge=0)
    log_megabytes: float = Field(default=10.0, gt=0)

    @field_validator("folder")
    @classmethod
    def _absolute(cls, folder: Path) -> Path:
        return resolve_folder(folder)

    @model_validator(mode="after")
    def _names_once(self) -> StackConfig:
        names = [service.name for service in self.services]
        wrong = sorted({name for name in names if names.count(name) > 1 or name in RESERVED_NAMES})
        if wrong:
            raise ValueError(f"services: {', '.join(wrong)} named twice or the name of another unit")
        return self

    @property
    def method_services(self) -> tuple[ServiceUnit, ...]:
        """The services that offer methods."""
        return tuple(service for service in self.services if service.name != CATALOG)

    @property
    def catalog(self) -> ServiceUnit | None:
        """The catalogue; None where it is not started."""
        return next((service for service in self.services if service.name == CATALOG), None)


#: Names of units that no service may take.
RESERVED_NAMES = frozenset({"s3", "prefect", "runner", "portal", "supervisor"})


#: Name of the service that offers no methods: the catalogue.
CATALOG = "catalog"


class SavedConfig(BaseModel):
    """The configuration of a stack as it stands in its folder, with every port decided.

    `revision` grows with every change; the supervisor reports which one it has applied.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    revision: int
    config: StackConfig


def load_config(folder: Path) -> SavedConfig | None:
    """Return the saved configuration of `folder`, or None where there is none.

    Raises
    ------
    PreconditionError
        The file was edited and no longer makes sense.
    """
    path = folder / "config.json"
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return None
    try:
        return SavedConfig.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"]) or "the file"
        raise PreconditionError(
            f"{path} cannot be used: {field}: {problem['msg']}. Correct it, or delete it to have it made anew."
        ) from error


def save_config(saved: SavedConfig) -> None:
    """Write `saved` to its stack's folder."""
    write_atomically(saved.config.folder / "config.json", saved.model_dump_json(indent=2) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Replace the file `path` by `text` in one step, readable by its owner only."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
