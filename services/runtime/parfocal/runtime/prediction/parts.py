"""Parts of a prediction: a file with what one job has computed of an image, and the image put together from all files.

Each job goes through the image as one job would and does a range of its steps (`parfocal.runtime.methods.steps`). What
they give is kept in a ZIP file of .npy arrays, `<unit>/<step>/<name>.npy`, with a description `index.json`. Whoever
merges goes through the image once more and takes every step from the files. So the result of any number of parts is
that of one job: same tiles, same blocks, put together in the same order by the same code.
"""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from parfocal import v1
from parfocal.runtime.errors import DAMAGED_ARCHIVE, DamagedError, InvalidInputError
from parfocal.runtime.methods.steps import PartDoneError, StepArrays

_FORMAT: Final = 1
_INDEX: Final = "index.json"
# Beside the numbers themselves: what the arrays of a step say of their shapes and types.
_HEADERS: Final = 2**20
_LARGEST_INDEX: Final = 2**28


@dataclass(frozen=True)
class Share:
    """Which part of all steps a job does: its number from 0, and the number of parts."""

    index: int
    count: int

    @classmethod
    def of(cls, part: v1.PredictionPart) -> Share:
        """Return the share that a request asks for."""
        return cls(part.number - 1, part.count)

    def turned(self, by: int) -> Share:
        """Return the share that this part has of another image or plane: where there is one step, all take turns."""
        return Share((self.index + by) % self.count, self.count)

    def of_steps(self, count: int) -> range:
        """Return the numbers of the steps that are to be done out of so many: shares differ by one at most."""
        return range(self.index * count // self.count, (self.index + 1) * count // self.count)


class PartFile:
    """Collects what a job computes of one image.

    Parameters
    ----------
    path
        The file, which is complete when this is closed.
    share
        What is done of the first unit; that of others is turned.
    """

    def __init__(self, path: Path, share: Share) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._share = share
        self._units: dict[str, dict[str, Any]] = {}
        self._archive = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._archive:
            if error is None:
                self._archive.writestr(_INDEX, json.dumps({"format": _FORMAT, "units": self._units}))

    def steps(self, unit: int) -> PartSteps:
        """Return what does the steps of a unit."""
        return PartSteps(self, unit, self._share.turned(unit))

    @property
    def described(self) -> int:
        """How many units have steps that can be shared."""
        return len(self._units)

    def describe(self, unit: int, plan: str, count: int) -> None:
        """Note how a unit was divided."""
        self._units[str(unit)] = {"plan": plan, "steps": count}

    def add(self, unit: int, step: int, arrays: StepArrays) -> None:
        """Keep what a step gave. Integers, such as labels, are compressed; intensities hardly become smaller."""
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{unit}/{step}/{name}.npy")
            info.compress_type = zipfile.ZIP_DEFLATED if array.dtype.kind in "ui" else zipfile.ZIP_STORED
            with self._archive.open(info, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


class PartSteps:
    """Does the steps of one unit that are this job's, and keeps what they give."""

    def __init__(self, file: PartFile, unit: int, share: Share) -> None:
        self._file = file
        self._unit = unit
        self._share = share
        self._count = 0

    def run(self, plan: str, count: int, do: Callable[[int], StepArrays], *, most_bytes: int) -> Iterator[StepArrays]:
        """Do the steps and raise PartDoneError."""
        self._file.describe(self._unit, plan, count)
        self._count = count
        for number in self._share.of_steps(count):
            arrays = do(number)
            # It would not be read back.
            if (size := sum(array.nbytes for array in arrays.values())) > most_bytes:
                raise InvalidInputError(
                    f"The model finds more in this image than several jobs can hand over ({size} bytes in one of "
                    f"{count} steps, at most {most_bytes}). Predict the image in one job."
                )
            self._file.add(self._unit, number, arrays)
        raise PartDoneError

    def own(self, done: int, total: int) -> tuple[int, int]:
        """Return how much is done of this job's steps."""
        mine = self._share.of_steps(self._count)
        if not mine:
            return done, total
        return max(0, done * self._count - mine.start * total), len(mine) * total


class Parts:
    """What all jobs have computed of one image; gives the steps of its units.

    Parameters
    ----------
    paths
        The files of the parts, in the order of their numbers.
    image
        What messages call the image.
    turn
        By how much the shares of its first unit were turned.

    Raises
    ------
    DamagedError
        A file is no part of an image.
    """

    def __init__(self, paths: Sequence[Path], image: str, turn: int = 0) -> None:
        self._image = image
        self._turn = turn
        self._open = contextlib.ExitStack()
        try:
            self._archives = [self._open.enter_context(_Archive(path)) for path in paths]
        except (*DAMAGED_ARCHIVE, KeyError, TypeError) as error:
            self._open.close()
            raise self._damaged(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def read(self, unit: int, plan: str, count: int, most_bytes: int) -> Iterator[StepArrays]:
        """Yield what each step of a unit gave, in their order; one that has more bytes than that is damaged.

        Raises
        ------
        DamagedError
            Something is missing or cannot be read.
        InvalidInputError
            The unit was divided in another way.
        """
        if any(archive.units.get(str(unit)) != {"plan": plan, "steps": count} for archive in self._archives):
            raise InvalidInputError(
                f"The parts of {self._image} are those of another division than that of this service: another version "
                "of Parfocal has made them. Predict the image again."
            )
        share = Share(0, len(self._archives)).turned(self._turn + unit)
        shares = [(share.turned(number).of_steps(count), archive) for number, archive in enumerate(self._archives)]
        for steps, archive in sorted(shares, key=lambda each: each[0].start):
            for step in steps:
                try:
                    arrays = archive.read(unit, step, most_bytes)
                except DAMAGED_ARCHIVE as error:
                    raise self._damaged(error) from error
                yield arrays

    def _damaged(self, error: Exception) -> DamagedError:
        return DamagedError(f"A part of {self._image} is damaged ({error}). Predict the image again.")


class MergedSteps:
    """Takes the steps of one unit from the parts; computes nothing.

    Parameters
    ----------
    parts, unit
        What was computed, and of which unit.
    on_step
        Called with what is done of the steps and all of them; may raise to end the work.
    """

    def __init__(self, parts: Parts, unit: int, on_step: Callable[[int, int], None] | None = None) -> None:
        self._parts = parts
        self._unit = unit
        self._on_step = on_step
        self._used = False

    def run(
        self,
        plan: str,
        count: int,
        do: Callable[[int], StepArrays],  # noqa: ARG002
        *,
        most_bytes: int,
    ) -> Iterator[StepArrays]:
        """Yield what the jobs have computed."""
        if self._used:
            raise InvalidInputError(
                "What this model is asked for takes two passes over the image, which several jobs cannot share. "
                "Predict the image in one job."
            )
        self._used = True
        for number, arrays in enumerate(self._parts.read(self._unit, plan, count, most_bytes), 1):
            yield arrays
            if self._on_step is not None:
                self._on_step(number, count)

    def own(self, done: int, total: int) -> tuple[int, int]:
        """Return the arguments."""
        return done, total


class _Archive:
    """The file of one part, open for reading."""

    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path)
        try:
            if (size := self._zip.getinfo(_INDEX).file_size) > _LARGEST_INDEX:
                raise ValueError(f"{_INDEX} has {size} bytes")
            index = json.loads(self._zip.read(_INDEX))
            if index["format"] != _FORMAT:
                raise ValueError(f"format {index['format']}")
            self.units: dict[str, Any] = dict(index["units"])
            self._entries: dict[str, list[zipfile.ZipInfo]] = {}
            for info in self._zip.infolist():
                self._entries.setdefault(info.filename.rpartition("/")[0], []).append(info)
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def read(self, unit: int, step: int, most_bytes: int) -> StepArrays:
        arrays = {}
        entries = self._entries.get(f"{unit}/{step}", ())
        # Before anything is unpacked: a small file can hold any amount of zeros.
        if (size := sum(info.file_size for info in entries)) > most_bytes + _HEADERS:
            raise ValueError(f"step {step} of unit {unit} has {size} bytes, the image gives at most {most_bytes}")
        for info in entries:
            with self._zip.open(info) as file:
                name = info.filename.rpartition("/")[2].removesuffix(".npy")
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
        if not arrays:
            raise ValueError(f"step {step} of unit {unit} is missing")
        return arrays
