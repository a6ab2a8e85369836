"""What a method predicts from: one image at a time; and what it can predict: images, objects, boxes, places, tables.

A method sees a `Unit` and fills `Outputs`. It does not know where either comes from or goes to, how many units there
are, or what the files are called.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from parfocal.runtime.datasets.coordinates import Localisations
from parfocal.runtime.images.files import PixelSize
from parfocal.runtime.images.scratch import Scratch
from parfocal.runtime.methods.objects import Objects
from parfocal.runtime.methods.steps import Steps

Window = tuple[slice, ...]
"""A part of an image: one slice with start and stop, and without a step, along each of its axes."""

Values = Literal["intensity", "width", "none"]
"""Kind of the values of an image: intensities of a microscope, widths of intensities (an uncertainty), or neither.

Intensities come back to the scale of the images by an offset and a factor, widths by the factor alone; everything else
(labels, classes, probabilities) stays as it is.
"""


class Unit(Protocol):
    """One image with the axes of the method, as it was read: of a stack one plane or volume at a time."""

    @property
    def axes(self) -> str:
        """Axes of the unit, those of the method, e.g. "ZYX"."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths along `axes` in pixels."""

    @property
    def channels(self) -> int:
        """How many channels an image has; a single one has no axis."""

    @property
    def pixel_size(self) -> PixelSize | None:
        """Size of a pixel as the image says it; None where it does not."""

    @property
    def most_pixels(self) -> int:
        """The most pixels that a tile may have: as asked for, or as the memory of this machine allows."""

    @property
    def scratch(self) -> Scratch:
        """Where arrays lie that are as large as the image."""

    @property
    def steps(self) -> Steps | None:
        """What does the steps of which the prediction consists where several jobs share them; None: all are done here.

        A method that cannot be shared need not look at it.
        """

    def read(self, window: Window | None = None) -> NDArray[Any]:
        """Return the pixels in a window, or all, as they are in the file; several channels are the last axis.

        They are not in memory before they are used: of a large image no more than windows should be.
        """

    def report(self, done: int, total: int) -> None:
        """Say how many tiles, frames or steps of all are done; raises CancelledError where the work shall end."""


class ImageSink(Protocol):
    """Takes an image of one unit in parts or as a whole."""

    def write(self, pixels: NDArray[Any], window: Window | None = None) -> None:
        """Set the pixels in a window, or all of them; what is not written stays 0."""


class TableSink(Protocol):
    """Takes the rows of a table, which are on disk soon after."""

    def write(self, rows: Iterable[Sequence[Any]]) -> None:
        """Append rows: for each column a text or a number, formatted where its digits matter."""


@dataclass(frozen=True)
class Column:
    """A column of a table: its name as it stands in the first line, e.g. "y_px", and the unit of its values, if any."""

    name: str
    unit: str = ""


@dataclass(frozen=True)
class Detections:
    """The boxes found in one image, the most certain first.

    Attributes
    ----------
    corners
        float32 (N, 4): [y0, x0, y1, x1] in pixels from the upper left corner of the image, between pixels: a box
        around the whole image is [0, 0, Y, X].
    classes
        int64 (N,): index of the class among those that the model knows.
    confidence
        float32 (N,): how sure the network is, 0 to 1.
    """

    corners: NDArray[np.float32]
    classes: NDArray[np.int64]
    confidence: NDArray[np.float32]


class Outputs(Protocol):
    """Takes what a method makes of one unit. The first image or table is what the method is for."""

    def image(
        self,
        name: str,
        *,
        shape: Sequence[int] | None = None,
        axes: str | None = None,
        dtype: DTypeLike = np.float32,
        scale: float | Sequence[float] = 1,
        values: Values = "intensity",
    ) -> ImageSink:
        """Return where an image goes.

        Parameters
        ----------
        name
            Name of the output: "prediction" for the main one.
        shape, axes
            Shape in pixels and axes of the output image, by default those of the unit; "CYX" has channels, "YXS" red,
            green and blue. Axes that are left out have been reduced.
        dtype
            Type of the pixels.
        scale
            Pixels of the output in the length of one pixel of the input, for all spatial axes or for each of those in
            `axes`. The pixel size follows.
        values
            Kind of the values. Only intensities are converted to the data type of the input on request.
        """

    def table(self, name: str, columns: Sequence[Column]) -> TableSink:
        """Return where the rows of a table go; the number of the unit in its image is put before each of them."""

    def objects(self, objects: Objects, *, name: str = "prediction", class_role: str = "") -> None:
        """Take the objects found: label image, table, regions and, of time-lapses, spots for TrackMate.

        Parameters
        ----------
        name
            Name of the label image: "prediction" if it is the main output of the method.
        class_role
            Name of the image of the objects' classes; empty where classes are not told apart.
        """

    def detections(self, detections: Detections, names: Sequence[str]) -> None:
        """Take the boxes found: a table, and of a single image a PASCAL VOC annotation.

        Parameters
        ----------
        names
            The names of the classes by index.
        """

    def localisations(self, found: Localisations) -> None:
        """Take the emitters located, tables for ThunderSTORM and for Picasso; may be called for every frame.

        Frames count from 0 within the unit; a unit without T is a single frame.

        Raises
        ------
        InvalidInputError
            Neither the image nor the model says the size of a pixel, without which there are no nanometres.
        """
