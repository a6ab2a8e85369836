"""The files people use boxes from: of each image a table, regions and an annotation, of a run one table and one COCO.

What was predicted can be corrected in any program for annotation that reads PASCAL VOC or COCO, and trained on.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from parfocal.runtime.datasets.annotations.box import Box
from parfocal.runtime.datasets.annotations.coco import coco_bytes
from parfocal.runtime.datasets.annotations.voc import voc_bytes
from parfocal.runtime.images.files import PixelSize
from parfocal.runtime.methods.outputs import Column, Detections
from parfocal.runtime.prediction.detections import EDGES
from parfocal.runtime.prediction.imagej_boxes import rectangle_bytes
from parfocal.runtime.prediction.tables import TableFile
from parfocal.runtime.prediction.unit import Stack

DETECTIONS = "detections"
"""Name of the table of an image and of that of a run, and in counts that of their number."""

_LENGTHS = ("x", "y", "width", "height")


@dataclass(frozen=True)
class FoundBox:
    """One box: the plane of a stack it lies in (from 0), its class, how certain it is (0 to 1), and its place."""

    plane: int
    box: Box
    confidence: float


@dataclass(frozen=True)
class FoundBoxes:
    """All boxes of one image.

    Attributes
    ----------
    names
        The classes that the model knows.
    shape
        (Y, X) of a plane in pixels.
    stacked
        Whether the image is a stack of planes.
    pixel_size
        Of the image, if it says it.
    boxes
        Plane by plane, the most certain first.
    """

    names: tuple[str, ...]
    shape: tuple[int, int]
    stacked: bool
    pixel_size: PixelSize | None
    boxes: tuple[FoundBox, ...]

    @property
    def marks(self) -> list[tuple[int, str, tuple[float, float, float, float]]]:
        """Number of the class, words and corners of each box, as they are drawn on a picture."""
        return [
            (self.names.index(each.box.name), f"{each.box.name} {each.confidence:.2f}", each.box.corners)
            for each in self.boxes
        ]


class BoxFiles:
    """Writes the boxes of one image, plane by plane.

    Parameters
    ----------
    folder, stem
        Where the files go and what the image is called.
    stack
        How the planes make up the image.
    pixel_size
        Of the image; the columns in micrometres are left out where it is unknown.
    shape
        (Y, X) of a plane in pixels.
    """

    def __init__(
        self, folder: Path, stem: str, stack: Stack, pixel_size: PixelSize | None, shape: tuple[int, int]
    ) -> None:
        self.names: dict[str, str] = {DETECTIONS: f"{DETECTIONS}/{stem}.csv"}
        self.counts: dict[str, int] = {DETECTIONS: 0}
        self._folder = folder
        self._stem = stem
        self._stack = stack
        self._pixel_size = pixel_size
        self._shape = shape
        self._classes: tuple[str, ...] = ()
        self._boxes: list[FoundBox] = []
        columns = [Column("plane"), Column("class"), Column("confidence")]
        columns += [Column(f"{edge}_px", "px") for edge in EDGES]
        if pixel_size is not None:
            columns += [Column(f"{edge}_um", "um") for edge in EDGES]
        self._table = TableFile(folder / self.names[DETECTIONS], columns)

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns of the table."""
        return self._table.columns

    def add(self, number: int, detections: Detections, names: Sequence[str]) -> None:
        """Append the boxes of one plane, which counts from 0; `names` are those of the classes."""
        self._classes = tuple(names)
        for name in names:  # those without a box are counted too
            self.counts.setdefault(f"class_{name}", 0)
        for corners, kind, confidence in zip(
            detections.corners.tolist(), detections.classes.tolist(), detections.confidence.tolist(), strict=True
        ):
            y0, x0, y1, x1 = corners
            found = FoundBox(number, Box(names[kind], (x0, y0, x1, y1)), confidence)
            self._boxes.append(found)
            self.counts[DETECTIONS] += 1
            self.counts[f"class_{names[kind]}"] += 1
            self._table.write([self._row(found)])

    def finish(self) -> FoundBoxes:
        """Complete the files and return the boxes."""
        self.close()
        self.names["rois"] = f"rois/{self._stem}.zip"
        place = self._path("rois")
        with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
            for number, each in enumerate(self._boxes, start=1):
                name = f"{each.plane + 1:04d}-{number:05d}"
                group = self._classes.index(each.box.name) + 1
                position = each.plane + 1 if len(self._stack) > 1 else 0
                content = rectangle_bytes(name, each.box.corners, group=group, position=position)
                archive.writestr(f"{name}.roi", content)
        if not self._stack.axes:
            # An annotation knows single images only.
            self.names["voc"] = f"voc/{self._stem}.xml"
            boxes = tuple(each.box for each in self._boxes)
            self._path("voc").write_bytes(voc_bytes(f"{self._stem}.tif", self._shape, boxes))
        return FoundBoxes(self._classes, self._shape, bool(self._stack.axes), self._pixel_size, tuple(self._boxes))

    def close(self) -> None:
        """Complete the table."""
        self._table.close()

    def _path(self, kind: str) -> Path:
        path = self._folder / self.names[kind]
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _row(self, found: FoundBox) -> list[str | int]:
        edges = found.box.corners
        row: list[str | int] = [found.plane, found.box.name, f"{found.confidence:.4f}"]
        row += [f"{edge:.2f}" for edge in edges]
        size = self._pixel_size
        if size is not None:
            row += [f"{edge * length:.4f}" for edge, length in zip(edges, (size.x, size.y) * 2, strict=True)]
        return row


class RunBoxes:
    """Collects the boxes of all images of a run: ``detections.csv``, and ``coco.json`` of those that are no stacks.

    Both are made only where a method finds boxes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._table: TableFile | None = None
        self._classes: tuple[str, ...] = ()
        self._annotated: dict[str, tuple[tuple[int, int], list[tuple[Box, float]]]] = {}

    def add(self, image: str, found: FoundBoxes) -> None:
        """Append the boxes of an image; `image` is its file's name."""
        if self._table is None:
            columns = [Column("image"), Column("plane"), Column("class"), Column("confidence")]
            columns += [Column(f"{name}_{unit}", unit) for unit in ("px", "um") for name in _LENGTHS]
            self._table = TableFile(self._folder / f"{DETECTIONS}.csv", columns)
        self._classes = found.names
        size = found.pixel_size
        for each in found.boxes:
            x0, y0, x1, y1 = each.box.corners
            lengths = (x0, y0, x1 - x0, y1 - y0)
            row: list[str | int] = [image, each.plane, each.box.name, f"{each.confidence:.4f}"]
            row += [f"{length:.2f}" for length in lengths]
            scale = None if size is None else (size.x, size.y) * 2
            row += [""] * 4 if scale is None else [f"{a * b:.4f}" for a, b in zip(lengths, scale, strict=True)]
            self._table.write([row])
        if not found.stacked:
            self._annotated[image] = (found.shape, [(each.box, each.confidence) for each in found.boxes])

    def finish(self) -> list[Path]:
        """Complete the files and return them; none where no method found boxes."""
        if self._table is None:
            return []
        self._table.close()
        paths = [self._table.path]
        if self._annotated:
            paths.append(self._folder / "coco.json")
            paths[-1].write_bytes(coco_bytes(self._annotated, self._classes))
        return paths

    def close(self) -> None:
        """Let go of the table, complete or not."""
        if self._table is not None:
            self._table.close()
