"""Chooses the arithmetic of a network from what the processor can do."""

from __future__ import annotations

import functools
import platform
from pathlib import Path


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Return the features of the processor as Linux names them; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def choose_precision(wanted: str) -> tuple[str, str]:
    """Return the precision for a run on the processor and, in words, why.

    bfloat16 pays only where the processor multiplies matrices in it (AMX): with AVX-512 alone it is slower than
    float32, and with AVX2 it fails. So "auto" looks for `amx_bf16`, and a wish that cannot be met gives float32.
    """
    capable = "amx_bf16" in cpu_flags()
    if wanted == "float32":
        return "float32", "float32 as requested"
    if capable:
        return "bfloat16", "bfloat16: the processor has AMX"
    name = platform.processor() or platform.machine()
    why = f"float32: the processor ({name}) has no AMX, without which bfloat16 is slower"
    return "float32", f"{why}, so the requested bfloat16 is not used" if wanted == "bfloat16" else why
