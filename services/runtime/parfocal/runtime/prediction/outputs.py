"""What a prediction has made of one image: images in memory, tables and regions in files that grow unit by unit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from parfocal.runtime.datasets.coordinates import Localisations
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import Image, PixelSize, convert_dtype
from parfocal.runtime.images.scratch import IN_MEMORY, Scratch, blocks, release
from parfocal.runtime.methods.objects import Objects
from parfocal.runtime.methods.outputs import Column, Detections, Values, Window
from parfocal.runtime.prediction.box_files import DETECTIONS, BoxFiles, FoundBoxes
from parfocal.runtime.prediction.object_files import ObjectFiles, class_image
from parfocal.runtime.prediction.picasso import PicassoFile
from parfocal.runtime.prediction.tables import TableFile
from parfocal.runtime.prediction.unit import Stack
from parfocal.runtime.store.manifests import OBJECTS

PREDICTION = "prediction"
"""Name of the image that a method is for; its file has the name of the input."""

_LABEL_TYPES = (np.uint16, np.uint32)
_PLANE = Column("plane")
# Units whose objects wait to be written: each has a label image.
_MOST_WAITING = 2


@dataclass(frozen=True)
class Table:
    """A table on disk: its file, relative to the folder of the outputs, and its columns."""

    file: str
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Predicted:
    """What was made of one image.

    Attributes
    ----------
    images
        By name, of the whole input.
    labels
        Names of those images whose values must not be averaged.
    tables
        By name.
    files
        All files that lie in the folder of the outputs, those of the tables among them, by kind.
    counts
        How many objects, detections or localisations there are, and how many of each class.
    clipped
        Largest fraction of the pixels of an image (0 to 1) that did not fit the type of the input.
    boxes
        Those that were found, where the method finds boxes.
    """

    images: dict[str, Image] = field(default_factory=dict)
    labels: frozenset[str] = frozenset()
    tables: dict[str, Table] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    clipped: float = 0.0
    boxes: FoundBoxes | None = None


@dataclass
class _Collected:
    """An image that is being filled, and how many of its pixels were clipped."""

    pixels: NDArray[Any]
    axes: str
    pixel_size: PixelSize | None
    values: Values
    clipped: int = 0


class ResultOutputs:
    """Collects the outputs of the units of one image.

    Objects are measured and written in a thread of their own, while the next unit is predicted.

    Parameters
    ----------
    folder
        Where files go.
    stem
        What the image is called.
    axes
        Axes of a unit.
    stack
        How units make up the image.
    pixel_size
        Of the image, if it says it.
    usual_pixel_size
        Of the images that the model was trained on, for places in nanometres where the image does not say its own.
    like
        Type to which intensities are converted; None leaves them as they are.
    scratch
        Where images lie until they are written.
    """

    def __init__(
        self,
        folder: Path,
        stem: str,
        axes: str,
        stack: Stack,
        pixel_size: PixelSize | None,
        *,
        usual_pixel_size: PixelSize | None = None,
        like: np.dtype[Any] | None = None,
        scratch: Scratch = IN_MEMORY,
    ) -> None:
        self.scratch = scratch
        self.axes = axes
        self.stack = stack
        self.pixel_size = pixel_size
        self.usual_pixel_size = usual_pixel_size
        self.counts: Counter[str] = Counter()
        self._folder = folder
        self.stem = stem
        self._like = like
        self._images: dict[str, _Collected] = {}
        self._tables: dict[str, TableFile] = {}
        self._files: dict[str, str] = {}
        self._objects: ObjectFiles | None = None
        self._boxes: BoxFiles | None = None
        self._picasso: PicassoFile | None = None
        self._writer: ThreadPoolExecutor | None = None
        self._waiting: list[Future[None]] = []

    def unit(self, number: int, shape: Sequence[int], pixels: NDArray[Any] | None = None) -> UnitOutputs:
        """Return the outputs of one unit, which counts from 0 and has this shape in pixels.

        Intensities of objects are measured in its `pixels`, several channels last, where they are given.
        """
        return UnitOutputs(self, number, tuple(shape), pixels)

    def finish(self) -> Predicted:
        """Complete all files and return what there is; raises what went wrong in writing."""
        try:
            for task in self._waiting:
                task.result()
            if self._writer is not None:
                self._writer.shutdown()
            picasso = {} if self._picasso is None else self._picasso.finish()
        finally:
            self.close()
        tables = {name: Table(self._files[name], table.columns) for name, table in self._tables.items()}
        files = self._files | picasso
        if self._objects is not None:
            self.counts.update(self._objects.counts)
            files |= self._objects.names
            tables[OBJECTS] = Table(self._objects.names[OBJECTS], self._objects.columns)
        boxes = None
        if self._boxes is not None:
            boxes = self._boxes.finish()
            self.counts.update(self._boxes.counts)
            if twice := self._boxes.names.keys() & files.keys():
                raise ValueError(f"boxes and another output have the same name: {', '.join(sorted(twice))}")
            files |= self._boxes.names
            tables[DETECTIONS] = Table(self._boxes.names[DETECTIONS], self._boxes.columns)
        images = sorted(self._images.items(), key=lambda item: item[0] != PREDICTION)
        if twice := self._images.keys() & files.keys():
            raise ValueError(f"an image and a table or file have the same name: {', '.join(sorted(twice))}")
        return Predicted(
            images={name: Image(each.pixels, each.axes, each.pixel_size) for name, each in images},
            labels=frozenset(name for name, each in images if each.values == "none" and each.pixels.dtype.kind in "ui"),
            tables=tables,
            files=files,
            counts=dict(self.counts),
            clipped=max((each.clipped / max(1, each.pixels.size) for each in self._images.values()), default=0.0),
            boxes=boxes,
        )

    def close(self) -> None:
        """Let go of the files, complete or not."""
        if self._writer is not None:
            self._writer.shutdown(cancel_futures=True)
        for table in self._tables.values():
            table.close()
        if self._objects is not None:
            self._objects.close()
        if self._boxes is not None:
            self._boxes.close()
        if self._picasso is not None:
            self._picasso.close()

    def collect(
        self, name: str, shape: Sequence[int], axes: str, dtype: DTypeLike, scale: Sequence[float], values: Values
    ) -> _Collected:
        """Return the image of this name for all units, made when the first one asks for it."""
        if len(axes) != len(shape) or len(set(axes)) != len(axes) or axes.removesuffix("S")[-2:] != "YX":
            raise ValueError(f"axes {axes!r} do not describe an image of shape {tuple(shape)} that ends in YX or YXS")
        stacked = list(zip(self.stack.axes, self.stack.lengths, strict=True))
        if clash := [axis for axis, length in stacked if axis in axes and length > 1]:
            raise InvalidInputError(
                f"The image is a stack along {clash[0]}, and so is what this model makes of each part of it. Predict "
                "its parts one by one."
            )
        leading = [(axis, length) for axis, length in stacked if axis not in axes]
        whole = (*(length for _, length in leading), *shape)
        stored = np.dtype(dtype) if self._like is None or values != "intensity" else self._like
        known = self._images.get(name)
        if known is None:
            pixel_size = _scaled(self.pixel_size, axes, scale)
            named = "".join(axis for axis, _ in leading) + axes
            known = _Collected(self.scratch.zeros(whole, stored), named, pixel_size, values)
            self._images[name] = known
        elif known.pixels.shape != whole or not known.axes.endswith(axes):
            raise ValueError(f"the output {name!r} had another shape or other axes in an earlier unit")
        return known

    def widened(self, pixels: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
        """Return an image in a larger type."""
        wide = self.scratch.zeros(pixels.shape, dtype)
        for window in blocks(pixels.shape):
            wide[window] = pixels[window]
            release(wide)
            release(pixels)
        return wide

    def table(self, name: str, columns: Sequence[Column]) -> TableFile:
        """Return the table of this name for all units, made when the first one asks for it."""
        if name not in self._tables:
            self._files[name] = f"{name}/{self.stem}.csv"
            self._tables[name] = TableFile(self._folder / self._files[name], columns)
        elif self._tables[name].columns != tuple(columns):
            raise ValueError(f"the table {name!r} had other columns before")
        return self._tables[name]

    def write_objects(self, number: int, objects: Objects, pixels: NDArray[Any] | None) -> None:
        """Have the files of the objects of a unit written."""
        if self._objects is None:
            self._objects = ObjectFiles(self._folder, self.stem, self.stack, self.pixel_size)
        self._later(self._objects.add, number, objects, pixels)

    def write_boxes(self, number: int, shape: tuple[int, int], detections: Detections, names: Sequence[str]) -> None:
        """Write the boxes of a unit whose planes have a shape (Y, X) in pixels."""
        if self._boxes is None:
            self._boxes = BoxFiles(self._folder, self.stem, self.stack, self.pixel_size, shape)
        self._boxes.add(number, detections, names)

    def write_picasso(self, frames: int, plane: tuple[int, int], size: PixelSize, found: Localisations) -> None:
        """Write localisations, whose frames count from 0 in the whole image, for Picasso.

        `frames` are those of a unit, `plane` is (Y, X) in pixels.
        """
        if self._picasso is None:
            whole = frames * max(1, len(self.stack))
            self._picasso = PicassoFile(self._folder, self.stem, whole, plane, size)
        self._picasso.write(found)

    def _later(self, task: Callable[..., None], *arguments: Any) -> None:
        if self._writer is None:
            self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tables")
        self._waiting.append(self._writer.submit(task, *arguments))
        while len(self._waiting) > _MOST_WAITING:
            self._waiting.pop(0).result()


class UnitOutputs:
    """The outputs of one unit, as `methods.outputs.Outputs` describes them."""

    def __init__(
        self, result: ResultOutputs, number: int, shape: tuple[int, ...], pixels: NDArray[Any] | None = None
    ) -> None:
        self._result = result
        self._number = number
        self._shape = shape
        self._pixels = pixels

    def image(
        self,
        name: str,
        *,
        shape: Sequence[int] | None = None,
        axes: str | None = None,
        dtype: DTypeLike = np.float32,
        scale: float | Sequence[float] = 1,
        values: Values = "intensity",
    ) -> _Sink:
        """Return where an image goes."""
        axes = axes or self._result.axes
        lengths = tuple(shape) if shape is not None else self._shape
        spatial = sum(axis in "ZYX" for axis in axes)
        scales = (float(scale),) * spatial if isinstance(scale, int | float) else tuple(scale)
        image = self._result.collect(name, lengths, axes, dtype, scales, values)
        # Of a stack, the part of this unit.
        part = image.pixels.reshape(-1, *lengths)[self._number]
        return _Sink(image, part)

    def table(self, name: str, columns: Sequence[Column]) -> _Rows:
        """Return where the rows of a table go."""
        return _Rows(self._result.table(name, (_PLANE, *columns)), self._number)

    def objects(self, objects: Objects, *, name: str = PREDICTION, class_role: str = "") -> None:
        """Take the objects found."""
        most = len(objects.probability)
        dtype = next(dtype for dtype in _LABEL_TYPES if most <= np.iinfo(dtype).max)
        image = self._result.collect(
            name, objects.labels.shape, self._result.axes, np.uint16, (1.0,) * objects.labels.ndim, "none"
        )
        if np.iinfo(image.pixels.dtype).max < most:
            image.pixels = self._result.widened(image.pixels, dtype)
        part = image.pixels.reshape(-1, *objects.labels.shape)[self._number]
        classes = self.image(class_role, dtype=np.uint8, values="none") if class_role else None
        for window in blocks(part.shape):
            part[window] = objects.labels[window]
            if classes is not None:
                classes.write(class_image(objects, window), window)
            release(part)
            release(objects.labels)
        self._result.write_objects(self._number, objects, self._pixels)

    def detections(self, detections: Detections, names: Sequence[str]) -> None:
        """Take the boxes found."""
        lengths = dict(zip(self._result.axes, self._shape, strict=True))
        self._result.write_boxes(self._number, (lengths["Y"], lengths["X"]), detections, names)

    def localisations(self, found: Localisations) -> None:
        """Take the emitters located."""
        size = self._result.pixel_size or self._result.usual_pixel_size
        if size is None:
            raise InvalidInputError(
                "The pixel size is unknown, so that places cannot be given in nanometres. Save it in the image "
                "(in Fiji: Image > Properties)."
            )
        columns = [Column("frame"), *(Column(f"{name} [{unit}]", unit) for name, unit in _LOCALISED)]
        frames = self._shape[self._result.axes.index("T")] if "T" in self._result.axes else 1
        lengths = 1e3 * size.x, 1e3 * size.y
        found = replace(found, frame=self._number * frames + found.frame)
        values = [found.frame + 1, found.x * lengths[0], found.y * lengths[1], found.intensity]
        if found.uncertainty is not None:
            columns.append(Column("uncertainty [nm]", "nm"))
            values.append(found.uncertainty * (lengths[0] * lengths[1]) ** 0.5)
        if found.confidence is not None:
            columns.append(Column("confidence"))
            values.append(found.confidence)
        self._result.counts[LOCALISATIONS] += len(found.frame)
        rows = zip(*(column.tolist() for column in values), strict=True)
        self._result.table(LOCALISATIONS, columns).write([frame, *map(_decimal, numbers)] for frame, *numbers in rows)
        plane = (self._shape[self._result.axes.index("Y")], self._shape[self._result.axes.index("X")])
        self._result.write_picasso(frames, plane, size, found)


LOCALISATIONS = "localisations"
_LOCALISED = (("x", "nm"), ("y", "nm"), ("intensity", "photon"))


@dataclass(frozen=True)
class _Sink:
    image: _Collected
    part: NDArray[Any]

    def write(self, pixels: NDArray[Any], window: Window | None = None) -> None:
        """Set the pixels in a window, or all of them."""
        if self.part.dtype != pixels.dtype:
            pixels, lost = convert_dtype(pixels, self.part.dtype)
            self.image.clipped += round(lost * pixels.size)
        self.part[... if window is None else window] = pixels
        release(self.part)


@dataclass(frozen=True)
class _Rows:
    table: TableFile
    plane: int

    def write(self, rows: Iterable[Sequence[Any]]) -> None:
        """Append rows of this unit."""
        self.table.write([self.plane, *row] for row in rows)


def _decimal(value: float) -> str:
    """Return a number in the way ThunderSTORM reads it, which knows no "nan"."""
    return "NaN" if value != value else f"{value:.2f}"


def _scaled(size: PixelSize | None, axes: str, scale: Sequence[float]) -> PixelSize | None:
    """Return the pixel size of an output whose pixels are so much smaller along its spatial axes."""
    if size is None:
        return None
    along = dict(zip((axis for axis in axes if axis in "ZYX"), scale, strict=True))
    changed = replace(size, x=size.x / along["X"], y=size.y / along["Y"])
    return changed if size.z is None else replace(changed, z=size.z / along.get("Z", 1.0))
