"""What happens to every RPC: a request id, one line in the log, and errors as rich statuses."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc

from parfocal.runtime.errors import ParfocalError
from parfocal.runtime.metrics import Counter
from parfocal.runtime.rpc_errors import STATUS_KEY, to_status

_log = logging.getLogger(__name__)
REQUEST_ID_KEY = "x-request-id"
_CALLS = Counter("parfocal_calls_total", "Answered calls by outcome: OK or the reason.", ["call", "outcome"])
# Health probes come every few seconds; their successes would drown the log.
_QUIET = "/grpc.health.v1.Health/"


class EdgeInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler; a ParfocalError becomes its status, anything else INTERNAL with a request id."""

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
        request_id = str(metadata.get(REQUEST_ID_KEY) or uuid.uuid4().hex)
        if handler.response_streaming:
            inner_stream = handler.unary_stream or handler.stream_stream

            async def stream(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
                async with _Edge(name, request_id, context):
                    async for response in inner_stream(request, context):
                        yield response

            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            return make(stream, handler.request_deserializer, handler.response_serializer)
        if handler.request_streaming:
            return handler
        inner = handler.unary_unary

        async def unary(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            async with _Edge(name, request_id, context):
                result = inner(request, context)
                return await result if asyncio.iscoroutine(result) else result

        return grpc.unary_unary_rpc_method_handler(unary, handler.request_deserializer, handler.response_serializer)


class _Edge:
    def __init__(self, name: str, request_id: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._name = name
        self._request_id = request_id
        self._context = context
        self._start = time.monotonic()

    async def __aenter__(self) -> None:
        await self._context.send_initial_metadata(((REQUEST_ID_KEY, self._request_id),))

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        if isinstance(error, ParfocalError):
            self._write(logging.INFO, error.reason, error.message)
            await self._abort(error)
        if isinstance(error, Exception) and not isinstance(error, grpc.aio.AbortError):
            _CALLS.add(self._name, ParfocalError.reason)
            _log.exception("defect", extra={"rpc": self._name, "request_id": self._request_id})
            await self._abort(
                ParfocalError(
                    "Parfocal failed in a way it should not. This is a defect, not your mistake; please report it "
                    f"with the request id {self._request_id}."
                )
            )
        if error is None and not self._name.startswith(_QUIET):
            self._write(logging.INFO, "OK", "")
        return False

    async def _abort(self, error: ParfocalError) -> NoReturn:
        status = to_status(error, self._request_id)
        code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
        await self._context.abort(code, status.message, ((STATUS_KEY, status.SerializeToString()),))
        raise AssertionError("abort raises")

    def _write(self, level: int, outcome: str, message: str) -> None:
        _CALLS.add(self._name, outcome)
        extra = {
            "rpc": self._name,
            "request_id": self._request_id,
            "outcome": outcome,
            "seconds": round(time.monotonic() - self._start, 4),
        }
        _log.log(level, message or "served", extra=extra)
