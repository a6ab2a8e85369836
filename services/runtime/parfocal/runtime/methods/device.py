"""Device and precision of networks. No framework is imported here: their drivers look for GPUs."""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import psutil

Framework = Literal["tensorflow", "torch", ""]
"""Framework of a service; "" for one without a driver, which computes on the processor."""
Fast = Literal["", "bfloat16", "float16"]

DRIVERS: Final[Mapping[Framework, str]] = {
    "tensorflow": "parfocal.runtime.frameworks.keras:describe_device",
    "torch": "parfocal.runtime.frameworks.torch:describe_device",
}
"""Function that describes the device for each framework, as "module:function"; called by workers only."""

_NAMES: Final = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16"}
# Below it bfloat16 is emulated; float16 is fast since the first GPUs with tensor cores.
_BFLOAT16_CAPABILITY, _FLOAT16_CAPABILITY = (8, 0), (7, 0)
_ALL_DIMENSIONS: Final = (1, 2, 3)


@dataclass(frozen=True)
class Device:
    """Device and precision of a worker's networks.

    A driver describes it once (`describe_device`), `choose` sets the precision, and learners obey it: they place their
    networks on a device of this kind. So what is recorded is what was used. The default is a processor that computes in
    float32.

    Attributes
    ----------
    kind
        "cpu", or "cuda" for a GPU.
    name
        Name of the processor or GPU, for example "NVIDIA L4".
    memory
        Size in bytes of the GPU's memory, or of the machine's; 0 where it is not known.
    capability
        Compute capability of a GPU, for example (8, 9); empty for processors.
    cuda
        Version of CUDA that the framework uses; empty for processors.
    fast
        The precision of 16 bits in which networks are applied faster than in float32; empty where there is none.
    trains
        Numbers of spatial dimensions of the networks that are trained in `fast` too.
    why
        Reason for `fast`, as the end of a sentence.
    precision
        Precision in which networks are computed. In another one than float32 they are applied with a tail in float32.
    training
        Whether the networks are trained; else they are only applied.
    """

    kind: Literal["cpu", "cuda"] = "cpu"
    name: str = ""
    memory: int = 0
    capability: tuple[int, ...] = ()
    cuda: str = ""
    fast: Fast = ""
    trains: tuple[int, ...] = ()
    why: str = "the method supports float32 only"
    precision: str = "float32"
    training: bool = False

    @property
    def label(self) -> str:
        """Name in records: "CPU", or the name of the GPU."""
        return "CPU" if self.kind == "cpu" else self.name

    @property
    def free_memory(self) -> int:
        """Memory in bytes that a network may take now; all that a GPU has, for nobody else should use it."""
        return self.memory if self.kind == "cuda" else int(psutil.virtual_memory().available)

    def choose(self, wanted: str, dimensions: int, *, training: bool) -> tuple[Device, str]:
        """Return the device with the precision for a job and, in words, why it is that.

        A precision of 16 bits pays only where the device multiplies in it. So "auto" goes by the device, and a wish
        that cannot be met gives float32.

        Parameters
        ----------
        wanted
            "auto", "float32" or "bfloat16".
        dimensions
            Spatial dimensions of the network.
        training
            Whether networks are trained. In float16 they are not: small gradients would become 0.
        """
        chosen = replace(self, training=training)
        if wanted == "float32":
            return chosen, "float32 as requested"
        usable = not training or dimensions in self.trains
        if self.fast and usable and wanted in ("auto", self.fast):
            return replace(chosen, precision=self.fast), f"{self.fast}: {self.why}"
        why = f"float32: {self.why}"
        if self.fast and not usable:
            why += f"; networks with {dimensions} spatial dimensions are not trained in {self.fast} there"
        return chosen, why if wanted == "auto" else f"{why}, so that the requested {wanted} is not used"


def describe_processor(faster_with: tuple[str, ...], trains: tuple[int, ...] = _ALL_DIMENSIONS) -> Device:
    """Return the processor as a device.

    With AVX-512 alone bfloat16 is slower than float32, and with AVX2 it fails.

    Parameters
    ----------
    faster_with
        Features of the processor, as Linux names them, with each of which a framework is faster in bfloat16; none
        where nothing is computed in it.
    trains
        Numbers of dimensions of the networks that the framework trains in bfloat16.
    """
    name = cpu_name()
    plain = Device(name=name, memory=int(psutil.virtual_memory().total))
    if not faster_with:
        return plain
    found = [_NAMES[flag] for flag in faster_with if flag in cpu_flags()]
    if found:
        return replace(plain, fast="bfloat16", trains=trains, why=f"the processor ({name}) has {found[0]}")
    missing = " or ".join(_NAMES[flag] for flag in faster_with)
    return replace(plain, why=f"the processor ({name}) has no {missing}, without which bfloat16 is slower")


def describe_gpu(name: str, memory: int, capability: tuple[int, ...], cuda: str) -> Device:
    """Return a GPU as a device; memory in bytes.

    Networks are applied in float16 where bfloat16 is not fast, and trained in float32 there.
    """
    fast: Fast = ""
    if capability >= _BFLOAT16_CAPABILITY:
        fast = "bfloat16"
    elif capability >= _FLOAT16_CAPABILITY:
        fast = "float16"
    version = ".".join(map(str, capability))
    return Device(
        kind="cuda",
        name=name,
        memory=memory,
        capability=capability,
        cuda=cuda,
        fast=fast,
        trains=_ALL_DIMENSIONS if fast == "bfloat16" else (),
        why=f"the GPU ({name}) has compute capability {version}",
    )


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Return the features of the processor as Linux names them; empty elsewhere."""
    return frozenset(_cpu_line("flags", "Features").split())


@functools.cache
def cpu_name() -> str:
    """Return the processor's name, or its architecture."""
    return _cpu_line("model name") or platform.processor() or platform.machine()


def _cpu_line(*keys: str) -> str:
    """Return what Linux says of the first processor under one of these keys; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in keys:
            return value.strip()
    return ""
