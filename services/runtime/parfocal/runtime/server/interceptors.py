"""What happens to every RPC: who calls, a request id, one line in the logs, and errors as rich statuses."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from parfocal.runtime import traces
from parfocal.runtime.access import calls
from parfocal.runtime.access.actions import ACTIONS, Action
from parfocal.runtime.access.audit import Audit
from parfocal.runtime.access.calls import Call
from parfocal.runtime.access.gate import ACTS_FOR_KEY, TOKEN_KEY, Gate
from parfocal.runtime.access.identity import Identity
from parfocal.runtime.errors import InvalidInputError, ParfocalError
from parfocal.runtime.metrics import Counter
from parfocal.runtime.rpc_errors import STATUS_KEY, code_name, to_status

_log = logging.getLogger(__name__)
REQUEST_ID_KEY = "x-request-id"
_CALLS = Counter("parfocal_calls_total", "Answered calls by outcome: OK or the reason.", ["call", "outcome"])
# Health probes come every few seconds; their successes would drown the log.
_QUIET = "/grpc.health.v1.Health/"
# The caller of a call that ends before anybody is known.
_NOBODY = Identity("unknown")
_LONGEST_ID = 128


class EdgeInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler; a ParfocalError becomes its status, anything else INTERNAL with a request id.

    The caller is identified before the handler is entered. What no servicer has authorised is not answered.

    Parameters
    ----------
    gate
        Says who calls.
    audit
        Where each call is noted.
    """

    def __init__(self, gate: Gate, audit: Audit) -> None:
        self._gate = gate
        self._audit = audit

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the wrapped handler of an RPC."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        name = handler_call_details.method
        metadata = dict(handler_call_details.invocation_metadata or ())
        inner = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        decode = partial(_decoded, handler.request_deserializer)

        def edge(context: grpc.aio.ServicerContext[Any, Any]) -> _Edge:
            return _Edge(name, metadata, context, self._gate, self._audit)

        async def stream(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            async with edge(context) as call:
                opened = _each_decoded(decode, request) if handler.request_streaming else decode(request)
                async for response in inner(opened, context):
                    _require_authorised(call)
                    yield response
                _require_authorised(call)

        async def single(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            async with edge(context) as call:
                opened = _each_decoded(decode, request) if handler.request_streaming else decode(request)
                result = inner(opened, context)
                result = await result if asyncio.iscoroutine(result) else result
                _require_authorised(call)
                return result

        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[handler.request_streaming, handler.response_streaming]
        wrapped = stream if handler.response_streaming else single
        # Requests are decoded inside, so that bytes which are no message are an error like others.
        return make(wrapped, None, handler.response_serializer)


def _decoded(decode: Callable[[bytes], Any] | None, data: bytes) -> Any:
    """Return the message in the bytes of a request; raise InvalidInputError if they are none."""
    try:
        return data if decode is None else decode(data)
    except DecodeError as error:
        raise InvalidInputError(
            f"The request cannot be read: {error}. The program that sent it does not follow the contract of Parfocal."
        ) from error


async def _each_decoded(decode: Callable[[bytes], Any], items: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for data in items:
        yield decode(data)


def _require_authorised(call: Call) -> None:
    if not call.authorised:
        raise AssertionError(f"{call.rpc} was answered without being authorised")


class _Edge:
    def __init__(
        self,
        name: str,
        metadata: dict[str, str | bytes],
        context: grpc.aio.ServicerContext[Any, Any],
        gate: Gate,
        audit: Audit,
    ) -> None:
        self._name = name
        self._metadata = metadata
        self._request_id = _text(metadata.get(REQUEST_ID_KEY)) or uuid.uuid4().hex
        forwarded = ((key, str(metadata[key])) for key in (TOKEN_KEY, ACTS_FOR_KEY) if key in metadata)
        self._call = Call(
            name,
            gate,
            _NOBODY,
            # Where nobody is known, nobody can act for somebody.
            "" if gate.is_open else str(metadata.get(ACTS_FOR_KEY, "")),
            context.peer() or "",
            (*forwarded, (REQUEST_ID_KEY, self._request_id)),
        )
        self._span = traces.Span()
        self._context = context
        self._gate = gate
        self._audit = audit
        self._start = time.monotonic()

    async def __aenter__(self) -> Call:
        try:
            await self._context.send_initial_metadata(((REQUEST_ID_KEY, self._request_id),))
        except Exception as error:
            # It fails only when the client has gone.
            raise asyncio.CancelledError from error
        calls.enter(self._call)
        self._span = traces.call(self._name, "server", parent=_text(self._metadata.get(traces.HEADER)))
        try:
            if not self._name.startswith(_QUIET):
                # Only the first call in an hour asks the issuer for its keys; the others take microseconds.
                self._call.identity = (
                    self._gate.identify(self._metadata)
                    if self._gate.is_open
                    else await asyncio.to_thread(self._gate.identify, self._metadata)
                )
            self._gate.admit(self._call)
        except Exception as error:
            await self.__aexit__(type(error), error, None)
            raise
        return self._call

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        if error is None:
            code = "OK"
        elif isinstance(error, ParfocalError):
            code = code_name(error)
        else:
            code = "INTERNAL" if isinstance(error, Exception) else "CANCELLED"
        self._span.answered(code)
        if isinstance(error, ParfocalError):
            self._write(logging.INFO, error.reason, error.message)
            await self._abort(error)
        if isinstance(error, Exception) and not isinstance(error, grpc.aio.AbortError):
            _CALLS.add(self._name, ParfocalError.reason)
            self._audit.write(self._call, ParfocalError.reason, self._request_id)
            _log.exception("defect", extra={"rpc": self._name, "request_id": self._request_id})
            await self._abort(
                ParfocalError(
                    "Parfocal failed in a way it should not. This is a defect, not your mistake; please report it "
                    f"with the request id {self._request_id}."
                )
            )
        if error is None and not self._name.startswith(_QUIET):
            # Clients ask again and again what there is: that they were answered says nothing about the service.
            reads = ACTIONS.get(self._name) in {Action.READ, Action.LOOK_AROUND}
            self._write(logging.DEBUG if reads else logging.INFO, "OK", "")
        if error is not None and not isinstance(error, Exception) and not self._name.startswith(_QUIET):
            # The client went away, or has seen enough of a stream.
            self._audit.write(self._call, "LEFT", self._request_id)
        return False

    async def _abort(self, error: ParfocalError) -> NoReturn:
        status = to_status(error, self._request_id)
        code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
        try:
            await self._context.abort(code, status.message, ((STATUS_KEY, status.SerializeToString()),))
        except grpc.aio.AbortError:
            raise
        except Exception as gone:
            # It fails only when the client has gone.
            raise asyncio.CancelledError from gone
        raise AssertionError("abort raises")

    def _write(self, level: int, outcome: str, message: str) -> None:
        _CALLS.add(self._name, outcome)
        self._audit.write(self._call, outcome, self._request_id)
        extra = {
            "rpc": self._name,
            "request_id": self._request_id,
            "outcome": outcome,
            "seconds": round(time.monotonic() - self._start, 4),
        }
        _log.log(level, message or "served", extra=extra)


def _text(value: str | bytes | None) -> str:
    """Return a value of metadata that may be written into logs and sent back."""
    return value[:_LONGEST_ID] if isinstance(value, str) and value.isprintable() and value.isascii() else ""
