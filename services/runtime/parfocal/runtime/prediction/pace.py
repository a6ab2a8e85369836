"""How fast a prediction job was, and which of its stages was the slowest."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from parfocal.runtime.jobs.measures import MEGAPIXELS, MEGAPIXELS_PER_SECOND

#: The stages that run beside each other: download and opening; everything between image and outputs; files and upload.
STAGES = ("reading", "predicting", "writing")
_NETWORK = "network"
_SHARE = "_share"

_CURRENT: ContextVar[Pace | None] = ContextVar("pace", default=None)


class Pace:
    """Takes the time of the stages of one job; the time begins when it is made."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._seconds = dict.fromkeys((*STAGES, _NETWORK), 0.0)
        self._pixels = 0
        self._lock = threading.Lock()
        _CURRENT.set(self)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the wall time of the block to a stage, from any thread."""
        begin = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._seconds[name] += time.monotonic() - begin

    def add_pixels(self, count: int) -> None:
        """Count the pixels of an input image that was predicted."""
        self._pixels += count

    def metrics(self) -> dict[str, float]:
        """Return the megapixels of input, how many a second, and each stage's share of the wall time from 0 to 1."""
        passed = max(time.monotonic() - self._begin, 1e-9)
        shares = {f"{name}{_SHARE}": seconds / passed for name, seconds in self._seconds.items() if seconds}
        megapixels = self._pixels / 1e6
        return {MEGAPIXELS: megapixels, MEGAPIXELS_PER_SECOND: megapixels / passed, **shares}


@contextmanager
def in_network() -> Iterator[None]:
    """Add the wall time of the block to the network's, where a job takes the time."""
    pace = _CURRENT.get()
    if pace is None:
        yield
        return
    with pace.stage(_NETWORK):
        yield


def sentence(metrics: Mapping[str, float]) -> str:
    """Return the speed and the slowest stage in words, from what `Pace.metrics` gave; empty where it gave nothing."""
    shares = {name: metrics[f"{name}{_SHARE}"] for name in STAGES if f"{name}{_SHARE}" in metrics}
    if MEGAPIXELS_PER_SECOND not in metrics or not shares:
        return ""
    slowest = max(shares, key=shares.__getitem__)
    network = metrics.get(f"{_NETWORK}{_SHARE}")
    inside = f", {network:.0%} in the network itself" if network and slowest == "predicting" else ""
    others = " and ".join(f"{name} {share:.0%}" for name, share in shares.items() if name != slowest)
    beside = f"; beside it {others}" if others else ""
    return (
        f"{metrics[MEGAPIXELS_PER_SECOND]:.3g} megapixels per second; the slowest stage was {slowest} "
        f"({shares[slowest]:.0%} of the time{inside}){beside}"
    )
