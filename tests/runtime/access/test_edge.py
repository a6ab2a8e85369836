"""What the edge of a server lets through: nothing that nobody has authorised, in calls of all four forms."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from parfocal.runtime.access.actions import ACTIONS, Action
from parfocal.runtime.access.audit import Audit
from parfocal.runtime.access.gate import Gate, authorise
from parfocal.runtime.server.interceptors import EdgeInterceptor
from parfocal.runtime.settings import Settings

FORMS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class Handler(grpc.GenericRpcHandler):
    """Calls named /parfocal.test/FORM, and /parfocal.test/FORM-unasked of servicers that forget to ask."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        form, _, unasked = details.method.rpartition("/")[2].partition("-")
        asks = not unasked

        async def single(_request: Any, _context: Any) -> bytes:
            if asks:
                await authorise("beads")
            return b"answer"

        async def stream(_request: Any, _context: Any) -> AsyncIterator[bytes]:
            if asks:
                await authorise("beads")
            yield b"answer"

        make = getattr(grpc, f"{form}_rpc_method_handler")
        return make(stream if form.endswith("stream") else single)


async def ask(name: str) -> str:
    """Return the answer of a call, or the name of the code that it is refused with."""
    server = grpc.aio.server(interceptors=[EdgeInterceptor(Gate(Settings()), Audit(None, "test", also_logged=False))])
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    form = name.partition("-")[0]
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = getattr(channel, form)(f"/parfocal.test/{name}")
            answer = call(iter([b""]) if form.startswith("stream") else b"", timeout=5)
            try:
                received = [part async for part in answer] if form.endswith("stream") else [await answer]
            except grpc.aio.AioRpcError as error:
                return error.code().name
            return b"".join(received).decode()
    finally:
        await server.stop(None)


@pytest.mark.parametrize("form", FORMS)
def test_what_nobody_has_authorised_is_not_answered(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (form, f"{form}-unasked"):
        monkeypatch.setitem(ACTIONS, f"/parfocal.test/{name}", Action.READ)  # type: ignore[arg-type]
    assert asyncio.run(ask(form)) == "answer"
    assert asyncio.run(ask(f"{form}-unasked")) == "INTERNAL"


def test_a_call_without_a_row_is_refused() -> None:
    assert asyncio.run(ask("unary_unary")) == "PERMISSION_DENIED"
