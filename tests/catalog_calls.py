"""Calls of the catalogue's RPCs, as any client makes them."""

from __future__ import annotations

from typing import Any

import grpc

from parfocal import v1
from parfocal.runtime.rpc_errors import from_rpc_error


class Caller:
    """Calls an RPC of the catalogue by name and raises the error that it meant; streams are read to their end."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._stub = v1.CatalogServiceStub(self._channel)

    def __call__(self, rpc: str, **fields: Any) -> Any:
        request = getattr(v1, f"{rpc}Request")(**fields)
        try:
            answer = getattr(self._stub, rpc)(request, timeout=60)
            return answer if hasattr(answer, "DESCRIPTOR") else list(answer)
        except grpc.RpcError as error:
            raise from_rpc_error(error, "catalog") from error

    def stream(self, rpc: str, requests: list[Any]) -> Any:
        """Call an RPC that takes a stream."""
        try:
            return getattr(self._stub, rpc)(iter(requests), timeout=60)
        except grpc.RpcError as error:
            raise from_rpc_error(error, "catalog") from error

    def close(self) -> None:
        self._channel.close()


def named(kind: str, name: str, version: int = 0, project: str = "default") -> v1.EntryName:
    """Return the name of an entry."""
    number = v1.EntryKind.Value(f"ENTRY_KIND_{kind.upper()}")
    return v1.EntryName(kind=number, project=project, name=name, version=version)
