"""An image as a method sees it: unit by unit, normalised, and no more of it at a time than is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.images.files import Image, PixelSize
from parfocal.runtime.images.scratch import IN_MEMORY, Scratch, release
from parfocal.runtime.methods.device import Device
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.methods.outputs import Unit, Window
from parfocal.runtime.methods.parameters import PredictionParameters
from parfocal.runtime.methods.service import Method
from parfocal.runtime.methods.steps import Steps

OnTile = Callable[[int, int], None]
SharedSteps = Callable[[int, OnTile | None], Steps]
"""Returns what does the steps of a unit, by its number and the function that is to be told how far it is."""

# A U-Net with 32 first filters keeps about eight full-size float32 layers of them while it predicts.
_BYTES_PER_PIXEL = 32 * 4 * 8
_SMALLEST_TILE, _TILE_OF_LARGE, _LARGEST_TILE = 256**2, 1024**2, 2048**2


@dataclass(frozen=True)
class Stack:
    """How the units predicted one by one make up an image.

    Attributes
    ----------
    axes, lengths
        The axes beyond those of the method and their lengths, the last one changing fastest: "T", "TZ" where frames
        are stacks of single planes, or "" where the image is a single unit.
    """

    axes: str = ""
    lengths: tuple[int, ...] = ()

    def __len__(self) -> int:
        return math.prod(self.lengths)

    def place(self, number: int) -> dict[str, int]:
        """Return the position of a unit along each of the axes."""
        return {axis: int(at) for axis, at in zip(self.axes, np.unravel_index(number, self.lengths), strict=True)}


@dataclass(frozen=True)
class ArrayUnit:
    """A unit whose pixels are an array, in memory or mapped from a file, several channels last."""

    pixels: NDArray[Any]
    axes: str
    most_pixels: int
    on_tile: OnTile | None = None
    pixel_size: PixelSize | None = None
    scratch: Scratch = IN_MEMORY
    steps: Steps | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths along `axes` in pixels."""
        return self.pixels.shape[: len(self.axes)]

    @property
    def channels(self) -> int:
        """How many channels an image has; a single one has no axis."""
        return self.pixels.shape[-1] if self.pixels.ndim > len(self.axes) else 1

    def read(self, window: Window | None = None) -> NDArray[Any]:
        """Return the pixels in a window, or all."""
        return self.pixels if window is None else self.pixels[window]

    def report(self, done: int, total: int) -> None:
        """Say how much is done."""
        release(self.pixels)
        if self.on_tile is not None:
            self.on_tile(*((done, total) if self.steps is None else self.steps.own(done, total)))


class Normalised:
    """A unit brought to a network's scale, window by window, with the constants of the whole.

    Attributes
    ----------
    constants
        What the unit is normalised with.
    shape
        Lengths along the axes of the unit, and the number of channels.
    """

    def __init__(self, unit: Unit, normaliser: Normaliser) -> None:
        self._unit = unit
        self._normaliser = normaliser
        several = unit.channels > 1
        self.constants = normaliser.fit(unit.read(), unit.axes + "C" * several)
        self.shape = (*unit.shape, unit.channels)

    def __getitem__(self, window: Window) -> NDArray[np.float32]:
        """Return the pixels in a window as float32, channels last."""
        return self._with_channels(self._normaliser.apply(self._unit.read(window), self.constants))

    def whole(self) -> NDArray[np.float32]:
        """Return all pixels as float32, channels last."""
        return self._with_channels(self._normaliser.apply(self._unit.read(), self.constants))

    def _with_channels(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        return pixels[..., np.newaxis] if self._unit.channels == 1 else pixels


def split_units(
    method: Method,
    channels: int,
    image: Image,
    parameters: PredictionParameters,
    device: Device,
    on_tile: OnTile | None = None,
    scratch: Scratch = IN_MEMORY,
    steps: SharedSteps | None = None,
) -> tuple[Stack, Iterator[ArrayUnit]]:
    """Return how an image is made of units of a method, and the units.

    Parameters
    ----------
    method
        Its axes are those of a unit.
    channels
        How many channels the model takes.
    image
        One unit, or a stack of them along T, Z or both.
    parameters
        Those of the prediction: the size of tiles.
    device
        What predicts: its memory limits tiles whose size is not given.
    on_tile
        Called with what is done of the image and all of it; may raise to end the prediction.
    scratch
        Where arrays lie that are as large as the image.
    steps
        Returns what does the steps of a unit where several jobs share them.

    Raises
    ------
    InvalidInputError
        The image has other axes than the method can take.
    """
    method.needs.check(image.axes, image.pixels.shape, channels)
    pixels, axes = image.pixels, method.needs.taken(image.axes)
    letter = method.needs.channel_axis(axes, channels)
    if letter:
        pixels, axes = np.moveaxis(pixels, axes.index(letter), -1), axes.replace(letter, "")
        pixels = pixels[..., 0] if channels == 1 else pixels
    stacked = len(axes) - len(method.axes)
    stack = Stack(axes[:stacked], pixels.shape[:stacked])

    def each() -> Iterator[ArrayUnit]:
        for number in range(len(stack)):
            report = None
            if on_tile is not None:

                def report(done: int, total: int, number: int = number) -> None:
                    on_tile(number * total + done, len(stack) * total)

            # By position: a mapped image whose axes were exchanged would be copied when it is reshaped.
            unit = pixels[tuple(stack.place(number).values())]
            shared = None if steps is None else steps(number, report)
            lengths = unit.shape[: len(method.axes)]
            most = _most_pixels(lengths, parameters.tile_size, None if shared is not None else device)
            yield ArrayUnit(unit, method.axes, most, report, image.pixel_size, scratch, shared)

    return stack, each()


def _most_pixels(shape: Sequence[int], tile_size: int, device: Device | None) -> int:
    """Return the pixels of a tile that were asked for or that the device's memory allows; half of it stays free.

    Without a device they are those of a processor with enough memory: jobs that share an image have the same tiles.
    """
    if tile_size:
        return int(tile_size ** len(shape))
    # Planes that are cut anyway: on a processor smaller tiles are as fast, and the network takes a quarter of memory.
    tiled = len(shape) == 2 and math.prod(shape) > _LARGEST_TILE and (device is None or device.kind == "cpu")
    largest = _TILE_OF_LARGE if tiled else _LARGEST_TILE
    if device is None:
        return largest
    return max(_SMALLEST_TILE, min(largest, device.free_memory // 2 // _BYTES_PER_PIXEL))
