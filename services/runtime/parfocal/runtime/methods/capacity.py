"""What trainings of a method need of a machine, by what was measured on one: kept in a file, and read again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from parfocal import v1
from parfocal.runtime.errors import DamagedError, NotFoundError
from parfocal.runtime.methods.service import Method

# Of what was measured and fitted, for what differs between images and steps.
_MARGIN: Final = 1.25


class Point(BaseModel):
    """What was measured with one batch size and patch size.

    Parameters
    ----------
    batch_size, patch_shape
        Patches per step, and their shape in pixels.
    seconds_per_step
        Median time of a step, in seconds.
    memory_gib, device_memory_gib
        Largest memory of the process, and of the GPU that it computed on (0 for processors), in GiB.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    batch_size: int
    patch_shape: tuple[int, ...]
    seconds_per_step: float
    memory_gib: float
    device_memory_gib: float = 0.0

    @property
    def pixels(self) -> int:
        """Pixels of a step."""
        return self.batch_size * math.prod(self.patch_shape)


class Need(BaseModel):
    """What a training probably needs: GiB of memory, of the GPU's memory, and seconds per step."""

    model_config = ConfigDict(frozen=True)

    memory_gib: float
    device_memory_gib: float
    seconds_per_step: float


class Capacity(BaseModel):
    """What was measured of a method on one device; the content of <method>.json in a folder of capacities."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    method: str
    device: str
    threads: int
    measured_at: datetime
    points: tuple[Point, ...]

    def need(self, batch_size: int, patch_shape: Sequence[int]) -> Need:
        """Return what a training with these sizes needs: by pixels of a step, on a straight line through the points.

        It is never less than what was measured with as many pixels or fewer.
        """
        pixels = batch_size * math.prod(patch_shape)

        def at(name: str) -> float:
            values = [float(getattr(point, name)) for point in self.points]
            known = [value for point, value in zip(self.points, values, strict=True) if point.pixels <= pixels]
            sizes = [point.pixels for point in self.points]
            slope, start = np.polyfit(sizes, values, 1) if len(set(sizes)) > 1 else (0.0, values[0])
            return max(float(start + max(slope, 0.0) * pixels), max(known, default=min(values)))

        return Need(
            memory_gib=at("memory_gib"),
            device_memory_gib=at("device_memory_gib"),
            seconds_per_step=at("seconds_per_step"),
        )

    def message(self) -> v1.Capacity:
        """Return it in the words of the contract."""
        points = [v1.CapacityPoint(**point.model_dump()) for point in self.points]
        message = v1.Capacity(device=self.device, threads=self.threads, points=points)
        message.measured_at.FromDatetime(self.measured_at)
        return message

    @classmethod
    def of(cls, method: v1.Method) -> Capacity | None:
        """Return what a service has published of one of its methods; None where nothing was measured."""
        if not method.HasField("capacity"):
            return None
        said = method.capacity
        return cls(
            method=method.name,
            device=said.device,
            threads=said.threads,
            measured_at=said.measured_at.ToDatetime(UTC),
            points=tuple(
                Point(
                    batch_size=point.batch_size,
                    patch_shape=tuple(point.patch_shape),
                    seconds_per_step=point.seconds_per_step,
                    memory_gib=point.memory_gib,
                    device_memory_gib=point.device_memory_gib,
                )
                for point in said.points
            ),
        )


def read_capacity(folder: Path, method: str) -> Capacity:
    """Return what was measured of a method.

    Raises
    ------
    NotFoundError
        Nothing was.
    DamagedError
        The file cannot be read.
    """
    path = folder / f"{method}.json"
    try:
        return Capacity.model_validate_json(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError(
            f"Nothing was measured of {method}: `parfocal methods {method} --capacity DATASET`."
        ) from error
    except (OSError, ValidationError, ValueError) as error:
        raise DamagedError(f"{path} is damaged: measure again, or remove it.") from error


def write_capacity(folder: Path, capacity: Capacity) -> Path:
    """Keep what was measured, instead of what was before, and return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{capacity.method}.json"
    path.write_text(capacity.model_dump_json(indent=1) + "\n", "utf-8")
    return path


def capacity_of(method: str, device: str, threads: int, points: Sequence[Point]) -> Capacity:
    """Return what was measured just now."""
    return Capacity(method=method, device=device, threads=threads, measured_at=datetime.now(UTC), points=tuple(points))


def needed_memory(folder: Path, method: Method, values: Mapping[str, Any]) -> float | None:
    """Return the GiB of memory to ask for, for a training with these parameters; None where nothing was measured.

    Raises
    ------
    DamagedError
        The file of the method cannot be read.
    """
    try:
        capacity = read_capacity(folder, method.name)
    except NotFoundError:
        return None
    parameters: Any = method.parse(v1.JOB_KIND_TRAINING, values)
    need = capacity.need(parameters.batch_size, parameters.patch_shape(method.axes))
    # Whole steps of half a GiB, so that workers of like trainings are alike.
    return math.ceil(2 * _MARGIN * need.memory_gib) / 2
