"""The memory of processes over a run: whether it grows with what was done."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

import psutil

_SECONDS = 5.0
_MIB = 2**20
# A process that has just started has not taken yet what it needs.
_SETTLED_SECONDS = 30.0


class Growth:
    """Samples how much memory processes have, until it is left.

    Parameters
    ----------
    look
        Returns the processes that run now, by what they are; it may lack some, and is called in a thread.
    """

    def __init__(self, look: Callable[[], Mapping[str, psutil.Process]]) -> None:
        self._look = look
        self._samples: dict[str, list[float]] = defaultdict(list)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="growth", daemon=True)

    def __enter__(self) -> Growth:
        self._thread.start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self._end.set()
        self._thread.join()

    @property
    def mebibytes(self) -> dict[str, tuple[int, int, int]]:
        """By what they are: median in the first and in the last third of the samples, and the most, in MiB."""
        return {name: thirds(values) for name, values in sorted(self._samples.items()) if values}

    def _sample(self) -> None:
        while not self._end.wait(_SECONDS):
            # Processes are killed and replaced while this looks at them.
            with contextlib.suppress(psutil.Error, KeyError, RuntimeError):
                for name, process in self._look().items():
                    with contextlib.suppress(psutil.Error):
                        if time.time() - process.create_time() > _SETTLED_SECONDS:
                            self._samples[name].append(process.memory_info().rss / _MIB)


def thirds(values: Sequence[float]) -> tuple[int, int, int]:
    """Return the median of the first and of the last third of values, and the largest, rounded."""
    third = max(1, len(values) // 3)
    return round(statistics.median(values[:third])), round(statistics.median(values[-third:])), round(max(values))
