"""`GET /metrics` over plain HTTP, on a port of its own that only the cluster's Prometheus needs to reach."""

from __future__ import annotations

import asyncio
import contextlib

from parfocal.runtime.metrics import exposition

_LONGEST_SECONDS = 5.0


async def serve_metrics(address: str) -> asyncio.Server:
    """Serve the numbers of this process at host:port; raise OSError if that is taken or not of this machine."""
    host, _, port = address.rpartition(":")
    return await asyncio.start_server(_answer, host.strip("[]"), int(port), limit=8192)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(TimeoutError, ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        async with asyncio.timeout(_LONGEST_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
            found = head.startswith(b"GET /metrics ")
            body = exposition().encode() if found else b"There is only /metrics.\n"
            status = "200 OK" if found else "404 Not Found"
            kind = "text/plain; version=0.0.4; charset=utf-8"
            lines = (f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", "Connection: close")
            writer.write("".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body)
            await writer.drain()
    writer.close()
