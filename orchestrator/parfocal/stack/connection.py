"""How a client reaches the stack of this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from parfocal.runtime.errors import PreconditionError
from parfocal.stack.config import Buckets, load_config, resolve_folder
from parfocal.stack.credentials import load_credentials
from parfocal.stack.state import supervisor_runs
from parfocal.stack.units import (
    client_settings,
    portal_url,
    prefect_api_url,
    service_address,
    store_endpoint,
)


class StackConnection(BaseModel):
    """How a client reaches a stack.

    Parameters
    ----------
    services
        ``host:port`` of each service by name.
    s3_endpoint, s3_access_key, s3_secret_key
        The store. The keys are not shown when the object is printed.
    buckets
        Names of the buckets.
    prefect_api_url, prefect_url
        Prefect's API and its pages for the browser; None where the stack runs without Prefect.
    portal_url
        The portal; None where the stack runs without it.
    prefect_auth
        User and password of Prefect's API and pages, as "user:password". Not shown either.
    environment
        What clients need as settings: ``PARFOCAL_SERVICES``, ``PARFOCAL_CATALOG``, ``PREFECT_API_URL`` and
        ``PREFECT_API_AUTH_STRING``; no key of the store.
    """

    model_config = ConfigDict(frozen=True)

    services: Mapping[str, str]
    s3_endpoint: str
    s3_access_key: str = Field(repr=False)
    s3_secret_key: str = Field(repr=False)
    buckets: Buckets
    prefect_api_url: str | None
    prefect_url: str | None
    prefect_auth: str = Field(repr=False)
    portal_url: str | None
    environment: Mapping[str, str] = Field(repr=False)


def connection(folder: Path | None = None) -> StackConnection:
    """Return how to reach the stack in `folder` (the default one when None).

    Raises
    ------
    PreconditionError
        The stack does not run.
    NotFoundError
        Its keys are gone.
    """
    folder = resolve_folder(folder)
    saved = load_config(folder)
    if saved is None or not supervisor_runs(folder):
        raise PreconditionError(f"The stack in {folder} does not run. Start it with `parfocal up`.")
    config, credentials = saved.config, load_credentials(folder)
    api_url = prefect_api_url(config) if config.prefect else None
    environment = {"PARFOCAL_HOME": str(config.folder)} | client_settings(config)
    if api_url:
        environment |= {"PREFECT_API_URL": api_url, "PREFECT_API_AUTH_STRING": credentials.prefect_auth}
    return StackConnection(
        services={service.name: service_address(service) for service in config.services},
        s3_endpoint=store_endpoint(config),
        s3_access_key=credentials.access_key,
        s3_secret_key=credentials.secret_key,
        buckets=config.buckets,
        prefect_api_url=api_url,
        prefect_url=api_url.removesuffix("/api") if api_url else None,
        portal_url=portal_url(config) if config.portal and config.portal_port else None,
        prefect_auth=credentials.prefect_auth,
        environment=environment,
    )
