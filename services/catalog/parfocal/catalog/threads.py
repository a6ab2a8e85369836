"""Work that waits for the store, beside the loop that answers calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import TypeVar

_T = TypeVar("_T")


async def in_thread(items: Iterator[_T]) -> AsyncIterator[_T]:
    """Yield what an iterator that waits for the store yields, without holding up other calls."""
    end = object()
    running: asyncio.Task[object] | None = None
    try:
        while True:
            running = asyncio.create_task(asyncio.to_thread(next, items, end))
            # Whoever asked may go away meanwhile; the thread goes on all the same.
            item = await asyncio.shield(running)
            if item is end:
                return
            yield item  # type: ignore[misc]
    finally:
        if running is not None:
            await asyncio.gather(running, return_exceptions=True)
        close = getattr(items, "close", None)
        if close is not None:
            await asyncio.to_thread(close)
