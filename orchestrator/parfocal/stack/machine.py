"""What this machine has: processor features, memory, disk and graphics cards, read without importing a framework."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Graphics:
    """One graphics card: `name`, `driver` version and `memory_gb` (GiB) as nvidia-smi reports them."""

    name: str
    driver: str
    memory_gb: float


def cpu_flags() -> frozenset[str]:
    """Return the features the processor reports, by their Linux names; empty where they cannot be read."""
    if sys.platform != "linux":
        return frozenset()
    for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def cpu_name() -> str:
    """Return the processor's name, or its architecture."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> float:
    """Return how many cores this process may use, heeding affinity and a container's limit."""
    cores = float(len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1)
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        return cores if quota == "max" else min(cores, int(quota) / int(period))
    except (OSError, ValueError):
        return cores


def memory_gb() -> tuple[float, float]:
    """Return total and free memory in GiB, heeding a container's limit."""
    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        total, free = min(total, limit), min(free, max(0, limit - used))
    except (OSError, ValueError):
        pass
    return total / 2**30, free / 2**30


def free_disk_gb(folder: Path) -> float:
    """Return the free space where `folder` is, or will be, in GiB."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free / 2**30


def files_gb(folder: Path) -> float:
    """Return what the files below `folder` take of the disk, in GiB; 0 where there is none."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # files come and go
            total += path.lstat().st_size if path.is_file() else 0
    return total / 2**30


def graphics_cards() -> tuple[Graphics, ...] | str:
    """Return the NVIDIA cards, or why there are none to be seen."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "no NVIDIA driver (nvidia-smi is not installed)"
    query = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "nvidia-smi does not answer"
    if answer.returncode:
        return f"nvidia-smi reports: {(answer.stdout + answer.stderr).strip()[:200]}"
    cards = []
    for line in answer.stdout.splitlines():
        name, driver, memory = (part.strip() for part in line.rsplit(",", 2))
        cards.append(Graphics(name, driver, float(memory) / 1024))
    return tuple(cards) or "nvidia-smi finds no card"
