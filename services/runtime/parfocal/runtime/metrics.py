"""Numbers about a running service for Prometheus, in its text format, written without a library.

Whoever counts makes a `Counter`, `Gauge` or `Histogram` at the top of a module; all of a process are in one list.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterator, Sequence
from typing import ClassVar, Final

SECONDS: Final = (0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 36_000.0)
"""Bounds of histograms of durations, from an answer of the store to a night in a queue."""


class Metric:
    """A number, or one for each combination of the values of its labels.

    Parameters
    ----------
    name, help
        Name with its unit, e.g. "parfocal_job_wait_seconds", and what it says in a sentence.
    labels
        Names of the labels.
    """

    kind: ClassVar[str]
    _all: ClassVar[list[Metric]] = []

    def __init__(self, name: str, help: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.help = help
        self._labels = tuple(labels)
        self._lock = threading.Lock()
        self._values: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}
        Metric._all.append(self)

    def lines(self) -> Iterator[str]:
        """Yield the lines of the text format."""
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {self.kind}"
        with self._lock:
            values = sorted(self._values.items())
        for labels, value in values:
            yield f"{self.name}{self._braces(labels)} {value:g}"

    def _braces(self, values: Sequence[str], **further: str) -> str:
        pairs = [*zip(self._labels, values, strict=True), *further.items()]
        return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs) + "}" if pairs else ""


class Counter(Metric):
    """A number that only grows."""

    kind = "counter"

    def add(self, *labels: str, amount: float = 1.0) -> None:
        """Add to the number of these labels."""
        with self._lock:
            self._values[labels] = self._values.get(labels, 0.0) + amount


class Gauge(Metric):
    """A number as it is now."""

    kind = "gauge"

    def set(self, value: float, *labels: str) -> None:
        """Set the number of these labels."""
        with self._lock:
            self._values[labels] = value


class Histogram(Metric):
    """How many durations were at most as long as each of `SECONDS`, how many there were, and their sum."""

    kind = "histogram"

    def __init__(self, name: str, help: str) -> None:
        super().__init__(name, help)
        self._counts = [0] * (len(SECONDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count a duration."""
        with self._lock:
            self._counts[bisect.bisect_left(SECONDS, seconds)] += 1
            self._sum += seconds

    def lines(self) -> Iterator[str]:
        """Yield the lines of the text format."""
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {self.kind}"
        with self._lock:
            counts, total = list(self._counts), self._sum
        below = 0
        for bound, count in zip((*SECONDS, float("inf")), counts, strict=True):
            below += count
            yield f"{self.name}_bucket{self._braces((), le='+Inf' if bound == float('inf') else f'{bound:g}')} {below}"
        yield f"{self.name}_sum {total:g}"
        yield f"{self.name}_count {below}"


def exposition() -> str:
    """Return all numbers of this process in the text format."""
    return "".join(f"{line}\n" for metric in Metric._all for line in metric.lines())


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
