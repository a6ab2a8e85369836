"""Chooses the arithmetic of a network from what the processor can do."""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import Final, Literal

Framework = Literal["tensorflow", "torch", ""]
"""What a service computes with; "" is anything that has no choice of precision."""

# Measured in whole trainings of CARE and fnet. With AVX512-BF16 alone TensorFlow needs half of the processor time of
# float32. PyTorch's single steps do too, but its threads wait for each other by spinning: an fnet training took as long
# as in float32 on an idle machine, and longer on a busy one.
_FASTER_WITH: Final[dict[Framework, tuple[str, ...]]] = {
    "tensorflow": ("amx_bf16", "avx512_bf16"),
    "torch": ("amx_bf16",),
    "": (),
}
_NAMES: Final = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16"}
_VOLUME: Final = 3


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


def choose_precision(wanted: str, framework: Framework, dimensions: int) -> tuple[str, str]:
    """Return the precision for a run on the processor and, in words, why.

    bfloat16 pays only where the processor multiplies in it: see `_FASTER_WITH`. With AVX-512 alone it is slower than
    float32, and with AVX2 it fails. So "auto" looks at the processor, and a wish that cannot be met gives float32.

    Parameters
    ----------
    wanted
        "auto", "float32" or "bfloat16".
    framework
        What computes; "" computes in float32.
    dimensions
        Of the network. In bfloat16 oneDNN computes wrong gradients for volumes that are not longer than a kernel. The
        driver of PyTorch computes these alone in float32; in TensorFlow, where arithmetic is global, all volumes are.
    """
    if wanted == "float32":
        return "float32", "float32 as requested"
    name = platform.processor() or platform.machine()
    found = [_NAMES[flag] for flag in _FASTER_WITH[framework] if flag in cpu_flags()]
    if not _FASTER_WITH[framework]:
        why = "float32: this method knows nothing else"
    elif framework == "tensorflow" and dimensions == _VOLUME:
        why = "float32: TensorFlow does not train on volumes correctly in bfloat16"
    elif found:
        return "bfloat16", f"bfloat16: the processor ({name}) has {found[0]}"
    else:
        needed = " or ".join(_NAMES[flag] for flag in _FASTER_WITH[framework])
        why = f"float32: the processor ({name}) has no {needed}, without which bfloat16 is slower"
    return "float32", f"{why}, so the requested bfloat16 is not used" if wanted == "bfloat16" else why
