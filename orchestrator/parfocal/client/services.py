"""The services of a deployment: their addresses, channels and calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import grpc

from parfocal import v1
from parfocal.client.channels import SettingsTokens, Tokens, open_channel
from parfocal.runtime.errors import InvalidInputError, UnavailableError
from parfocal.runtime.numbers import whole_number
from parfocal.runtime.rpc_errors import from_rpc_error
from parfocal.runtime.settings import Settings

_T = TypeVar("_T")
_CALL_SECONDS = 60.0
_LIST_SECONDS = 10.0

# Every RPC of the contract may be repeated: StartJob and BeginUpload by their request ids, the others by their nature.
_RETRY = {
    "methodConfig": [
        {
            "name": [{"service": f"parfocal.v1.{name}"} for name in ("JobService", "MethodService", "CatalogService")],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.2s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
_OPTIONS = (
    ("grpc.service_config", json.dumps(_RETRY)),
    ("grpc.enable_retries", 1),
    # A restarted service is found again within two seconds.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # A watched job can be silent for hours; servers allow a ping every five minutes.
    ("grpc.keepalive_time_ms", 330_000),
)


@dataclass(frozen=True)
class ServiceInfo:
    """One service as it answers now.

    Attributes
    ----------
    address
        host:port, or host:port/NAME behind a public address.
    name
        Name of the service, e.g. "care"; empty if it does not answer.
    methods
        What it offers.
    environment
        What it runs on; None if it does not answer.
    error
        Why it does not answer; empty if it does.
    devices
        How many devices its jobs can compute on at the same time; 0 where that is not known.
    """

    address: str
    name: str = ""
    methods: Sequence[v1.Method] = field(default_factory=tuple)
    environment: v1.Environment | None = None
    error: str = ""
    devices: int = 0


class Service:
    """One address, host:port or host:port/NAME, with its channel; settings and tokens of the environment when None."""

    def __init__(self, address: str, settings: Settings | None = None, tokens: Tokens | None = None) -> None:
        self.address = address
        settings = settings or Settings()
        self._channel = open_channel(address, settings, tokens or SettingsTokens(settings), _OPTIONS)
        self.jobs = v1.JobServiceStub(self._channel)
        self.methods = v1.MethodServiceStub(self._channel)
        self.catalog = v1.CatalogServiceStub(self._channel)

    def call(self, function: Callable[..., _T], request: object, seconds: float = _CALL_SECONDS) -> _T:
        """Return the answer to one unary call; raise the error that the service meant."""
        try:
            return function(request, timeout=seconds)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.address) from error

    def info(self) -> ServiceInfo:
        """Ask what the service offers."""
        try:
            answer = self.call(self.methods.ListMethods, v1.ListMethodsRequest(), _LIST_SECONDS)
        except UnavailableError as error:
            return ServiceInfo(self.address, error=error.message)
        methods = tuple(answer.methods)
        return ServiceInfo(self.address, answer.service, methods, answer.environment, devices=answer.devices)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


def parse_addresses(text: str) -> tuple[str, ...]:
    """Return the addresses in "host:port,…"; raise InvalidInputError naming a malformed one.

    Of several services behind one public address the names follow it: "host:port/care/qc" becomes "host:port/care" and
    "host:port/qc".
    """
    addresses: list[str] = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        target, *names = part.split("/")
        host, _, port = target.rpartition(":")
        named = all(name.replace("-", "").isalnum() and name.isascii() for name in names)
        if not host or not 0 < (whole_number(port) or 0) < 65536 or not named:
            raise InvalidInputError(
                f"{part!r} is not the address of a service: write host:port, or host:port/NAME/NAME for services "
                "behind one public address; several with commas between them (PARFOCAL_SERVICES or --services)."
            )
        addresses += [f"{target}/{name}" for name in names] or [target]
    return tuple(dict.fromkeys(addresses))
