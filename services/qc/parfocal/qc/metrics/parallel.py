"""Work on all cores, in order, with memory that does not grow with the number of items."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_LARGE: Final = 2**25

HELD_PIXELS: Final = 2**24
"""How many pixels of a stack are gone through together, where its planes are small."""
HELD_PLANES: Final = 5
"""How many planes are, where they are large: two in threads, and as much as three is kept of those before."""


def default_workers() -> int:
    """Return the number of processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


def workers_for(shapes: Iterable[tuple[int, ...]]) -> int:
    """Return the number of threads for images of these shapes: one if any is so large that memory is what is scarce."""
    return 1 if max(map(math.prod, shapes), default=0) > _LARGE else default_workers()


def workers_for_planes(stack: tuple[int, ...]) -> int:
    """Return the number of threads for the planes of a stack (Z, Y, X): fewer for large ones, to bound the memory.

    As many pixels are gone through together as the two constants above say.
    """
    pixels = max(1, math.prod(stack[1:]))
    return min(default_workers(), max(2, HELD_PIXELS // pixels - (HELD_PLANES - 2)))


def map_bounded(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Iterator[Result]:
    """Apply a function to items in threads; yield the results in the order of the items.

    At most ``workers + 1`` items are under way or waiting to be taken, so the items may be a generator of any
    length. The first error is raised at its place in the order; what has not begun is then given up, as it is
    when the caller stops early.

    Parameters
    ----------
    function
        Called in a worker thread, once per item. numpy and scipy release the interpreter for large arrays.
    items
        Taken in the caller's thread, only as fast as results are used.
    workers
        Number of threads; by default one for each processor this process may use.
    """
    # Here, so that single images can be scored in environments without it, as benchmarks of methods do.
    from threadpoolctl import threadpool_limits

    count = default_workers() if workers is None else workers
    if count < 1:
        raise ValueError(f"workers must be at least 1, not {count}")
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(count, thread_name_prefix="parfocal-qc")
    # Items keep all cores busy; more threads inside each of them would only wait for each other.
    limits = threadpool_limits(1)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        limits.restore_original_limits()
