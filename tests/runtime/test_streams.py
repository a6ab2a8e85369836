"""Clients that pause in a stream of requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.server.streams import next_message


def test_a_client_that_stops_in_the_middle_of_a_stream_is_not_waited_for() -> None:
    async def slow() -> AsyncIterator[str]:
        yield "header"
        await asyncio.sleep(60)
        yield "too late"

    async def scene() -> None:
        requests = slow()
        assert await next_message(requests, "Go on", seconds=0.5) == "header"
        with pytest.raises(InvalidInputError, match=r"Nothing came for 0 s\. Go on, then end the stream"):
            await next_message(requests, "Go on", seconds=0.2)

    asyncio.run(scene())


def test_the_end_of_a_stream_is_no_message() -> None:
    async def empty() -> AsyncIterator[str]:
        for text in ():
            yield text

    assert asyncio.run(next_message(empty(), "Go on")) is None
