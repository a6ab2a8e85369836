"""Work that waits for the store, beside the loop that answers calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import TypeVar

_T = TypeVar("_T")


async def in_thread(items: Iterator[_T]) -> AsyncIterator[_T]:
    """Yield what an iterator that waits for the store yields, without holding up other calls."""
    end = object()
    try:
        while (item := await asyncio.to_thread(next, items, end)) is not end:
            yield item  # type: ignore[misc]
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            await asyncio.to_thread(close)
