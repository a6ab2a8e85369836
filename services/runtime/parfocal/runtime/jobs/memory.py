"""The largest memory that this process had."""

from __future__ import annotations

import resource
import sys
from typing import Any

from parfocal import v1
from parfocal.runtime.methods.device import Device

_GIB = 2**30


def peak_memory(device: Device) -> v1.PeakMemory:
    """Return the largest memory of this process, and of the GPU that it computes on, until now."""
    gpu = _peak_of_gpu() / _GIB if device.kind == "cuda" else 0.0
    return v1.PeakMemory(memory_gib=_peak_of_process() / _GIB, device_memory_gib=gpu)


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
