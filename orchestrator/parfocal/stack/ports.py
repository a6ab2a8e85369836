"""Ports on loopback: which are free, who holds the others, and which ones a stack gets."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import psutil

from parfocal.runtime.errors import UnavailableError
from parfocal.stack.claims import PortClaims
from parfocal.stack.config import StackConfig

LOOPBACK = "127.0.0.1"

#: Where the search begins. All lie below 32768, so that outgoing connections do not take them.
S3_PORT, STORE_PORT, PREFECT_PORT, PORTAL_PORT, SERVICE_PORT = 8333, 18330, 4200, 8600, 15051

#: How many consecutive ports the parts of the S3 server use among themselves; `store_block` adds one.
STORE_PORTS = 8

_SEARCH = 2000


def is_free(port: int) -> bool:
    """Return whether a server could listen on `port` of the loopback interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a port in TIME_WAIT is free, one that somebody listens on is not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def listens(pid: int, port: int) -> bool:
    """Return whether process `pid` or one below it listens on `port`."""
    try:
        process = psutil.Process(pid)
        members = [process, *process.children(recursive=True)]
    except psutil.Error:
        return False
    for member in members:
        with contextlib.suppress(psutil.Error):
            for connection in member.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return True
    return False


def holder(port: int) -> str:
    """Return who listens on `port`, e.g. ``python (process 4711)``, or "another program" if that is hidden."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr[1] == port and connection.status == psutil.CONN_LISTEN:
                if connection.pid is not None:
                    return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
                break
    except psutil.Error:
        pass
    return "another program"


def stack_ports(config: StackConfig) -> set[int]:
    """Return all ports of a stack whose ports are decided."""
    ports = [config.s3_port, *(service.port for service in config.services)]
    if config.prefect:
        ports.append(config.prefect_port)
    if config.portal:
        ports.append(config.portal_port)
    if config.store_port:
        ports += store_block(config.store_port)
    return {port for port in ports if port is not None}


def assign_ports(
    config: StackConfig, saved: StackConfig | None, claims: PortClaims, reserved: Collection[int] = ()
) -> StackConfig:
    """Return `config` with every port decided, for a stack that does not run.

    A port given in `config` is taken as it is. Otherwise the port of the last time (`saved`) is kept while it
    is free, so that addresses last; else the next free one is chosen. `reserved` ports are never chosen.
    All decided ports are claimed with `claims`.

    Raises
    ------
    UnavailableError
        A port given in `config` is taken, or none is free.
    """
    taken = set(reserved)
    named = ("s3_port", "prefect_port", "portal_port")
    wanted = [(field, getattr(config, field)) for field in named]
    wanted += [(f"the port of service {service.name}", service.port) for service in config.services]
    for field, port in wanted:
        if port is not None:
            _require_free(port, field, taken, claims)
    store_port = config.store_port
    if store_port is not None:
        for port in store_block(store_port):
            _require_free(port, "store_port and those that follow from it", taken, claims)

    def decide(given: int | None, before: int | None, first: int) -> int:
        if given is not None:
            return given
        candidates = [] if before is None else [before]
        return _choose([*candidates, *range(first, first + _SEARCH)], taken, lambda port: (port,), claims)

    ports_before = {} if saved is None else {service.name: service.port for service in saved.services}
    s3_port = decide(config.s3_port, saved.s3_port if saved else None, S3_PORT)
    prefect_port = decide(config.prefect_port, saved.prefect_port if saved else None, PREFECT_PORT)
    portal_port = decide(config.portal_port, saved.portal_port if saved else None, PORTAL_PORT)
    if store_port is None:
        before = [] if saved is None or saved.store_port is None else [saved.store_port]
        candidates = [*before, *range(STORE_PORT, STORE_PORT + _SEARCH, STORE_PORTS + 2)]
        store_port = _choose(candidates, taken, store_block, claims)
    services = tuple(
        service.model_copy(
            update={"port": decide(service.port, ports_before.get(service.name), SERVICE_PORT)},
        )
        for service in config.services
    )
    return config.model_copy(
        update={
            "s3_port": s3_port,
            "prefect_port": prefect_port,
            "portal_port": portal_port,
            "store_port": store_port,
            "services": services,
        }
    )


def store_block(first: int) -> Sequence[int]:
    """Return the ports that the parts of the S3 server use when `first` is the first of them."""
    admin = first + 3
    return [*range(first, first + STORE_PORTS), admin + 10000]


def _choose(
    candidates: Sequence[int], taken: set[int], block: Callable[[int], Sequence[int]], claims: PortClaims
) -> int:
    for first in candidates:
        ports = block(first)
        free = all(port not in taken and is_free(port) and _sockets_are_ours(port) for port in ports)
        if free and all(claims.take(port) for port in ports):
            taken.update(ports)
            return first
    raise UnavailableError(
        f"No free port between {candidates[0]} and {candidates[-1]} on {LOOPBACK}. End programs that listen "
        "there, or name other ports."
    )


def _require_free(port: int, field: str, taken: set[int], claims: PortClaims) -> None:
    if port in taken:
        raise UnavailableError(f"Port {port} is given twice ({field}). Name another one.")
    if not is_free(port):
        raise UnavailableError(
            f"Port {port} ({field}) is in use by {holder(port)}. End that program, name another port, "
            "or leave the port out to have a free one chosen."
        )
    if not claims.take(port):
        raise UnavailableError(
            f"Port {port} ({field}) belongs to another Parfocal stack of yours. Name another port, or leave the "
            "port out to have a free one chosen."
        )
    taken.add(port)


def _sockets_are_ours(port: int) -> bool:
    # SeaweedFS puts sockets named by port into /tmp and fails on those that another user left there.
    return all(path.lstat().st_uid == os.getuid() for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"))
