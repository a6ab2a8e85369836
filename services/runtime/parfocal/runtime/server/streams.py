"""Streams of requests: a client that stops in the middle of one keeps nothing of the server for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final, TypeVar

from parfocal.runtime.errors import InvalidInputError

_T = TypeVar("_T")
STALL_SECONDS: Final = 60.0
"""After so long without a message the call ends."""


async def next_message(requests: AsyncIterator[_T], advice: str, *, seconds: float = STALL_SECONDS) -> _T | None:
    """Return the next message of a client, None at the end of its stream.

    Parameters
    ----------
    advice
        What the client should do instead of pausing, as the begin of a sentence.
    seconds
        How long it may pause.

    Raises
    ------
    InvalidInputError
        Nothing came for so long.
    """
    try:
        async with asyncio.timeout(seconds):
            return await anext(requests, None)
    except TimeoutError as error:
        raise InvalidInputError(
            f"Nothing came for {seconds:.0f} s. {advice}, then end the stream of requests."
        ) from error
