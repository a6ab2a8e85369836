"""Channels to services: TLS, and the token of whoever calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import grpc

from parfocal.runtime import traces
from parfocal.runtime.access.gate import ACTS_FOR_KEY, TOKEN_KEY
from parfocal.runtime.access.transport import UNPROTECTED, channel_credentials, is_loopback
from parfocal.runtime.errors import PreconditionError
from parfocal.runtime.settings import Settings

#: By this header of a call a public address, which serves all services, knows which one the call is for.
SERVICE_KEY: Final = "parfocal-service"


class Tokens(Protocol):
    """Where the token comes from that a client shows."""

    def token(self) -> str:
        """Return a token that is valid now, renewed if need be; empty: there is none.

        Raises
        ------
        UnauthenticatedError
            It has expired and cannot be renewed.
        """


class SettingsTokens:
    """The token of the settings: as it stands there, or in a file that may be replaced at any time."""

    def __init__(self, settings: Settings) -> None:
        self._token = settings.token.get_secret_value()
        self._file = settings.token_file

    def token(self) -> str:
        """Return the token; raise PreconditionError if its file cannot be read."""
        if self._token or self._file is None:
            return self._token
        try:
            return self._file.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise PreconditionError(f"{self._file} (PARFOCAL_TOKEN_FILE) cannot be read: {error}.") from error


def open_channel(
    address: str, settings: Settings, tokens: Tokens, options: Sequence[tuple[str, Any]] = ()
) -> grpc.Channel:
    """Return a channel to host:port, or host:port/NAME, on which every call carries the token, and the name.

    The token is added by an interceptor and not as gRPC's call credentials: those need TLS even on loopback, and an
    error in renewing it would reach the caller as "the service does not answer".

    Raises
    ------
    PreconditionError
        The certificates cannot be used.
    """
    traces.begin("client")
    credentials = channel_credentials(settings)
    target, _, name = address.partition("/")
    channel = (
        grpc.secure_channel(target, credentials, options=options)
        if credentials is not None
        else grpc.insecure_channel(target, options=options)
    )
    private = credentials is not None or is_loopback(target) or settings.unprotected == UNPROTECTED
    return grpc.intercept_channel(channel, _Caller(address, name, tokens, settings.acts_for, private=private))


class _Details(grpc.ClientCallDetails):
    """What gRPC wants to know of a call: as it was, with other metadata."""

    def __init__(self, details: grpc.ClientCallDetails, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        self.method = details.method
        self.timeout = details.timeout
        self.metadata: tuple[tuple[str, str | bytes], ...] = tuple(metadata)
        self.credentials = details.credentials
        self.wait_for_ready = getattr(details, "wait_for_ready", None)
        self.compression = getattr(details, "compression", None)


class _Caller(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Says in every call who makes it, and behind a public address which service it is for."""

    def __init__(self, address: str, name: str, tokens: Tokens, acts_for: str, *, private: bool) -> None:
        self._address = address
        self._name = name
        self._tokens = tokens
        self._acts_for = acts_for
        self._private = private

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Add who calls whom."""
        return self._made(continuation, client_call_details, request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Add who calls whom."""
        return self._made(continuation, client_call_details, request)

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """Add who calls whom."""
        return self._made(continuation, client_call_details, request_iterator)

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """Add who calls whom."""
        return self._made(continuation, client_call_details, request_iterator)

    def _made(self, continuation: Any, details: Any, request: Any) -> Any:
        """Make the call, as a span of the caller's trace where there are traces."""
        said = self._said(details)
        span = traces.call(said.method, "client")
        if not span.traceparent:
            return continuation(said, request)
        said.metadata += ((traces.HEADER, span.traceparent),)
        made = continuation(said, request)
        made.add_done_callback(lambda call: span.answered(call.code().name))
        return made

    def _said(self, details: Any) -> _Details:
        metadata = list(details.metadata or ())
        if self._name:
            metadata.append((SERVICE_KEY, self._name))
        token = self._tokens.token()
        if token and not self._private:
            raise PreconditionError(
                f"Without TLS your token could be read on its way to {self._address}, so it is not sent. Set "
                "PARFOCAL_TLS_CA to the certificate authority of the services, or to `system`."
            )
        if token:
            metadata.append((TOKEN_KEY, f"Bearer {token}"))
        if self._acts_for:
            metadata.append((ACTS_FOR_KEY, self._acts_for))
        return _Details(details, metadata)
