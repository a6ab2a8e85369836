"""The largest memory that this process had."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

from parfocal import v1
from parfocal.runtime.methods.device import Device

_GIB = 2**30
_CGROUP = Path("/sys/fs/cgroup")


def peak_memory(device: Device) -> v1.PeakMemory:
    """Return the largest memory of this process, and of the GPU that it computes on, until now."""
    gpu = _peak_of_gpu() / _GIB if device.kind == "cuda" else 0.0
    return v1.PeakMemory(memory_gib=_peak_of_process() / _GIB, device_memory_gib=gpu)


def available_memory() -> int | None:
    """Return how much memory this process can still take, in bytes: of the machine and of its limit, if it has one.

    None where the system does not say it, as macOS.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    try:
        limit = int((_CGROUP / "memory.max").read_text(encoding="ascii"))
        stated = dict(line.split() for line in (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines())
        taken = int((_CGROUP / "memory.current").read_text(encoding="ascii")) - int(stated["inactive_file"])
    except (OSError, KeyError, ValueError):  # no limit, or another kind of system
        return free
    return max(0, min(free, limit - taken))


def _peak_of_process() -> int:
    """Return the largest memory of this process in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # In KiB on Linux, in bytes on macOS.
    return peak if sys.platform == "darwin" else 1024 * peak


def _peak_of_gpu() -> int:
    """Return the largest memory of the first GPU that this process had, in bytes, as the framework counts it."""
    modules: Any = sys.modules
    if "torch" in modules:
        return int(modules["torch"].cuda.max_memory_reserved())
    return int(modules["tensorflow"].config.experimental.get_memory_info("GPU:0")["peak"])
