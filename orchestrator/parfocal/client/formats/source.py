"""An image of a foreign format that is open, and its way into an OME-TIFF, window by window."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.datasets.findings import some
from parfocal.runtime.errors import InvalidInputError, Violation
from parfocal.runtime.images.axes import ORDER, name_axes, override_axes
from parfocal.runtime.images.files import DEFAULT_LIMITS, PixelSize
from parfocal.runtime.images.notes import Note
from parfocal.runtime.images.scratch import BLOCK_PIXELS, Scratch, release
from parfocal.runtime.numbers import whole_number

_NARROW: Final = {"i": np.dtype(np.int32), "u": np.dtype(np.uint32)}


@dataclass(frozen=True)
class Source:
    """One image of a file, before anything is taken of it.

    Attributes
    ----------
    name
        What messages call it.
    axes, shape, dtype
        Of the array in the file. Axes are a letter for each dimension, "?" where the file has a name for it that means
        nothing here, and "Q" where it says nothing.
    read
        Returns the pixels of a window, one slice for each dimension.
    steps
        Shape of the blocks in which the file holds the pixels.
    scene
        Name of the image where the file has several; else "".
    channels
        Names of the channels, as far as the file has them.
    pixel_size
        In µm; None where it is unknown.
    seconds, date
        Time between frames, and when the image was taken; see `Acquired`.
    notes
        What was left out or guessed.
    faults
        Returns what was found in the pixels that were read so far.
    rgb
        Whether an axis S has red, green and blue.
    unnamed
        The names of the axes "?".
    """

    name: str
    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[tuple[slice, ...]], NDArray[Any]]
    steps: tuple[int, ...]
    scene: str = ""
    channels: tuple[str, ...] = ()
    pixel_size: PixelSize | None = None
    seconds: float | None = None
    date: str = ""
    notes: tuple[Note, ...] = ()
    faults: Callable[[], tuple[Note, ...]] = lambda: ()
    rgb: bool = False
    unnamed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chosen:
    """What is taken of an image: along each dimension of the file the numbers from 0, None for all.

    `letters` are those of the dimensions, "_" for those of length one that are dropped; `axes` and `shape` are those of
    what is taken, and `notes` say what was chosen or replaced.
    """

    letters: str
    numbers: tuple[Sequence[int] | None, ...]
    axes: str
    shape: tuple[int, ...]
    notes: tuple[Note, ...]


def refusal(name: str, text: str) -> InvalidInputError:
    """Return the error of a file that cannot be used, and why."""
    return InvalidInputError(f"{name} cannot be used: {text}", [Violation(name, text)])


def number_of_scene(name: str, scenes: Sequence[str], wanted: str) -> int:
    """Return the number, from 0, of the image of a file that is taken.

    Parameters
    ----------
    name
        What messages call the file.
    scenes
        Names of its images.
    wanted
        Name of an image, or its number from 1; "": the only one.

    Raises
    ------
    InvalidInputError
        There is no such image, or there are several and none is chosen.
    """
    if wanted in scenes:
        return scenes.index(wanted)
    if 1 <= (whole_number(wanted) or 0) <= len(scenes):
        return int(wanted) - 1
    if wanted:
        raise refusal(name, f"it has no image {wanted!r}: there are {some(scenes)}.")
    if len(scenes) > 1:
        text = f"it holds {len(scenes)} images ({some(scenes)}): choose one with --scene"
        raise refusal(name, f"{text}, or export the one you need as TIFF.")
    return 0


def choose(source: Source, numbers: Mapping[str, Sequence[int]], axes: str, words: str) -> Chosen:
    """Return what is taken of an image.

    Parameters
    ----------
    source
        The image.
    numbers
        By the letter of an axis, which of its channels, planes or frames are taken, from 0.
    axes
        What somebody says that the axes of the result are; "" if the file says it.
    words
        What was chosen, in words.

    Raises
    ------
    InvalidInputError
        The file does not say what its axes are, or it is too large.
    """
    kept = tuple(numbers.get(letter) for letter in source.axes)
    lengths = tuple(length if own is None else len(own) for own, length in zip(kept, source.shape, strict=True))
    pixels = math.prod(lengths)
    if pixels == 0:
        raise refusal(source.name, "it has no pixels. Export it again.")
    if pixels > DEFAULT_LIMITS.max_pixels or pixels * source.dtype.itemsize > DEFAULT_LIMITS.max_bytes:
        text = f"it holds {pixels} pixels ({pixels * source.dtype.itemsize / 2**20:.0f} MiB), over the limit."
        raise refusal(source.name, f"{text} Take a part of it, or split it into several files.")
    letters, notes = _letters(source, lengths, axes)
    named = sorted(
        ((letter, length) for letter, length in zip(letters, lengths, strict=True) if letter != "_"),
        key=lambda item: ORDER.index(item[0]),
    )
    return Chosen(
        letters,
        kept,
        "".join(letter for letter, _ in named),
        tuple(length for _, length in named),
        (Note("converted", words), *source.notes, *notes),
    )


def _letters(source: Source, lengths: tuple[int, ...], axes: str) -> tuple[str, tuple[Note, ...]]:
    """Return a letter of `ORDER` for each dimension, "_" for those to drop, and what was guessed or replaced."""
    own, rgb = source.axes, source.rgb
    if axes.endswith("S") and "S" not in own and dict(zip(own, lengths, strict=True)).get("C") == 3:
        # OME-Zarr knows channels alone: the three of a picture in colour are what somebody says they are.
        own, rgb = own.replace("C", "S"), True
    unknown = [length for letter, length in zip(own, lengths, strict=True) if letter == "?" and length > 1]
    try:
        if axes:
            letters, declared = override_axes(lengths, own, rgb, axes)
            return letters, (Note("axes-overridden", f"{declared} as {axes}"),) if declared else ()
        if unknown:
            text = f"it has axes that mean nothing here ({', '.join(source.unnamed)})."
            raise refusal(source.name, f"{text} Say what its axes are (for example --axes ZYX).")
        letters = name_axes(lengths, own, rgb)
    except ValueError as error:
        raise refusal(source.name, f"{error}. {getattr(error, 'cure', '')}".strip()) from error
    guessed = any(letter == "Q" and length > 1 for letter, length in zip(own, lengths, strict=True))
    return letters, (Note("axes-guessed"),) if guessed else ()


def copied(source: Source, chosen: Chosen, scratch: Scratch) -> NDArray[Any]:
    """Return what is taken of an image in the order of its axes, copied window by window.

    Parameters
    ----------
    source, chosen
        The image, and what `choose` returned for it.
    scratch
        Where the pixels lie.

    Raises
    ------
    InvalidInputError
        The values do not fit into a type that OME-TIFF knows.
    DiskFullError
        There is no room.
    """
    out = scratch.zeros(chosen.shape, _dtype(source, chosen))
    # The same array with the dimensions of the file, in their order.
    named = chosen.letters.replace("_", "")
    view = out.transpose([chosen.axes.index(letter) for letter in named])
    view = view[tuple(np.newaxis if letter == "_" else slice(None) for letter in chosen.letters)]
    for window, place in windows(source, chosen):
        view[place] = source.read(window)
        release(out)
    return out


def windows(source: Source, chosen: Chosen) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Yield the windows of a file in which it is read, and where each of them lies in what is taken.

    Windows are those of the file's blocks, as many of which are read at once as make four million pixels.
    """
    steps, room = list(source.steps), BLOCK_PIXELS // max(1, math.prod(source.steps))
    for axis in reversed(range(len(steps))):
        blocks = -(-source.shape[axis] // steps[axis])
        times = max(1, min(blocks, room))
        steps[axis] *= times
        room //= times
    for parts in product(*map(_segments, source.shape, steps, chosen.numbers)):
        yield tuple(window for window, _ in parts), tuple(place for _, place in parts)


def _segments(length: int, step: int, numbers: Sequence[int] | None) -> list[tuple[slice, slice]]:
    """Return the parts of one dimension in the file, and where each lies in what is taken."""
    if numbers is not None and not isinstance(numbers, range):
        return [(slice(number, number + 1), slice(at, at + 1)) for at, number in enumerate(numbers)]
    first, end = (0, length) if numbers is None else (numbers.start, numbers.stop)
    found = []
    for begin in range(first // step * step, end, step):
        low, high = max(begin, first), min(begin + step, end)
        found.append((slice(low, high), slice(low - first, high - first)))
    return found


def _dtype(source: Source, chosen: Chosen) -> np.dtype[Any]:
    """Return the type in which the pixels are stored: that of the file, if OME-TIFF knows it."""
    own = source.dtype
    if own.kind not in "buif" or own.itemsize > 8:
        raise refusal(source.name, f"its pixels are of type {own}, not real numbers. Export it again.")
    if own.kind == "b":
        return np.dtype(np.uint8)
    if own == np.float16:
        return np.dtype(np.float32)
    if own.kind == "f" or own.itemsize < 8:
        return own.newbyteorder("=")
    narrow = _NARROW[own.kind]
    info = np.iinfo(narrow)
    for window, _ in windows(source, chosen):
        part = source.read(window)
        if part.min() < info.min or part.max() > info.max:
            text = f"its values {part.min()} to {part.max()} need 64-bit integers."
            raise refusal(source.name, f"{text} Save it with smaller numbers, or as float64 if these are grey values.")
    return narrow
