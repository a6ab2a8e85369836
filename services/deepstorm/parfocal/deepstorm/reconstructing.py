"""Reconstruction of a stack, frame by frame: image, localisations, counts and density, with optional drift correction.

Memory does not grow with the number of frames. With drift correction there is one image for each segment of the
stack, and localisations wait in a file until the drift is known.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from parfocal.deepstorm.drift import drift_of_frames, measure_drift
from parfocal.runtime.datasets.coordinates import Localisations
from parfocal.runtime.images.files import PixelSize
from parfocal.runtime.methods.outputs import Column, Outputs

_ROW: Final = np.dtype([("frame", "<i8"), ("y", "<f8"), ("x", "<f8"), ("confidence", "<f8")])
_ROWS_AT_ONCE: Final = 100_000
_LARGEST_PART: Final = 1024
"""Pixels along each side of the reconstructions by which drift is measured."""


class Reconstruction:
    """Collects what the frames of one stack show.

    Parameters
    ----------
    outputs
        Outputs of the prediction, to which all files are written.
    shape
        Shape of the stack (T, Y, X) in camera pixels.
    upsampling
        Pixels of the image along the side of a pixel of the camera.
    pixel_size
        Size of a camera pixel in the sample; None where it is unknown: densities are then given per pixel.
    sd
        Standard deviation of places along each axis in pixels of the camera; None where it is unknown.
    segments
        Parts of the stack for drift correction; 0 for none.
    """

    def __init__(
        self,
        outputs: Outputs,
        shape: tuple[int, int, int],
        *,
        upsampling: int,
        pixel_size: PixelSize | None,
        sd: float | None,
        segments: int,
    ) -> None:
        self._outputs = outputs
        self._frames, self._plane = shape[0], shape[1:]
        self._upsampling = upsampling
        self._pixel_size = pixel_size
        self._sd = sd
        fine = (shape[1] * upsampling, shape[2] * upsampling)
        self._image = outputs.image("prediction", shape=fine, axes="YX", scale=upsampling, values="none")
        self._widefield = outputs.image("widefield", shape=self._plane, axes="YX", values="none")
        self._density = outputs.image("density", shape=self._plane, axes="YX", values="none")
        self._by_frame = outputs.table("frames", (Column("frame"), Column("localisations")))
        self._ends = np.linspace(0, self._frames, max(1, segments) + 1).round().astype(int)[1:]
        self._drifting = segments > 0
        self._sums = [np.zeros(fine, np.float32) for _ in self._ends]
        self._mean = np.zeros(self._plane, np.float64)
        self._places = np.zeros(self._plane, np.int64)
        coarse = max(1.0, max(fine) / _LARGEST_PART)
        self._per_pixel = upsampling / coarse
        self._parts = [
            np.zeros(tuple(int(np.ceil(length * self._per_pixel)) for length in self._plane), np.float32)
            for _ in self._ends
        ]
        self._resources = ExitStack()
        self._waiting: Any = None

    def __enter__(self) -> Self:
        if self._drifting:
            self._waiting = self._resources.enter_context(tempfile.TemporaryFile())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()

    def add(
        self,
        number: int,
        frame: NDArray[Any],
        output: NDArray[np.float32],
        y: NDArray[np.float64],
        x: NDArray[np.float64],
        confidence: NDArray[np.float64],
    ) -> None:
        """Take what frame `number` (from 0) shows.

        Parameters
        ----------
        frame
            (Y, X) as the camera recorded it.
        output
            (Y * upsampling, X * upsampling): emitters in each fine pixel.
        y, x, confidence
            (N,): the localisations in pixels of the camera.
        """
        segment = int(np.searchsorted(self._ends, number, side="right"))
        self._sums[segment] += output
        self._mean += frame
        self._by_frame.write([(number + 1, len(y))])
        if not self._drifting:
            self._hand_over(np.full(len(y), number, np.int64), y, x, confidence)
            return
        _count(self._parts[segment], y * self._per_pixel, x * self._per_pixel)
        rows = np.zeros(len(y), _ROW)
        for name, values in (("frame", number), ("y", y), ("x", x), ("confidence", confidence)):
            rows[name] = values
        self._waiting.write(rows.tobytes())

    def finish(self) -> None:
        """Correct for drift if asked for, and hand over what is complete."""
        if self._drifting:
            # Points that do not meet exactly correlate once they are as wide as they are uncertain.
            parts = [ndimage.gaussian_filter(part, 1.0) for part in self._parts]
            lengths = np.diff([0, *self._ends]).tolist()
            drift = drift_of_frames(measure_drift(parts) / self._per_pixel, lengths)
            self._write_drift(drift)
            # There is a table even where nothing was located.
            for rows in itertools.chain([np.zeros(0, _ROW)], self._waited()):
                moved = drift[rows["frame"]]
                y, x = rows["y"] - moved[:, 0], rows["x"] - moved[:, 1]
                inside = (y >= 0) & (y < self._plane[0]) & (x >= 0) & (x < self._plane[1])
                self._hand_over(rows["frame"][inside], y[inside], x[inside], rows["confidence"][inside])
            starts = [0, *self._ends[:-1]]
            for image, first, last in zip(self._sums, starts, self._ends, strict=True):
                middle = drift[first:last].mean(axis=0) * self._upsampling
                image[...] = np.maximum(ndimage.shift(image, -middle, order=1, mode="constant"), 0)
        image = self._sums[0]
        for other in self._sums[1:]:
            image += other
        self._image.write(image)
        self._widefield.write((self._mean / self._frames).astype(np.float32))
        size = self._pixel_size
        area = 1.0 if size is None else size.x * size.y
        self._density.write((self._places / area).astype(np.float32))

    def _waited(self) -> Iterator[NDArray[Any]]:
        self._waiting.seek(0)
        while content := self._waiting.read(_ROWS_AT_ONCE * _ROW.itemsize):
            yield np.frombuffer(content, _ROW)

    def _hand_over(
        self,
        frame: NDArray[np.int64],
        y: NDArray[np.float64],
        x: NDArray[np.float64],
        confidence: NDArray[np.float64],
    ) -> None:
        _count(self._places, y, x)
        unknown = np.full(len(y), np.nan)
        sd = None if self._sd is None else np.full(len(y), self._sd)
        self._outputs.localisations(Localisations(frame, y, x, unknown, sd, confidence))

    def _write_drift(self, drift: NDArray[np.float64]) -> None:
        size = self._pixel_size
        unit = "px" if size is None else "nm"
        lengths = (1.0, 1.0) if size is None else (1e3 * size.y, 1e3 * size.x)
        table = self._outputs.table(
            "drift", (Column("frame"), Column(f"x [{unit}]", unit), Column(f"y [{unit}]", unit))
        )
        table.write(
            (number, f"{x:.2f}", f"{y:.2f}") for number, (y, x) in enumerate((drift * lengths).tolist(), start=1)
        )


def _count(image: NDArray[Any], y: NDArray[np.float64], x: NDArray[np.float64]) -> None:
    """Add 1 to the pixels of an image in which places lie; those beyond it are left out."""
    rows, columns = (np.floor(each).astype(np.int64) for each in (y, x))
    inside = (rows >= 0) & (rows < image.shape[0]) & (columns >= 0) & (columns < image.shape[1])
    np.add.at(image, (rows[inside], columns[inside]), 1)
