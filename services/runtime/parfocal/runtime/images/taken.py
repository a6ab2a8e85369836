"""What is taken of images that hold several channels, planes or frames: one channel of composites, for example."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from parfocal import v1
from parfocal.runtime.errors import InvalidInputError, Violation
from parfocal.runtime.images.files import Image
from parfocal.runtime.images.notes import Note
from parfocal.runtime.numbers import whole_number

_TITLES: Final = {"Z": "planes", "T": "frames"}


@dataclass(frozen=True)
class Taken:
    """What is taken of each image.

    Attributes
    ----------
    channels
        Names of channels, or their numbers from 1, in the order in which they are taken; empty: all.
    planes, frames
        First and last along Z and T, counted from 1; None: all.
    names
        What the channels were called in the images for which they were chosen, in their order; "", or fewer, where that
        is unknown. An image that has a channel of such a name is taken by it, whatever its number is there.
    """

    channels: tuple[str, ...] = ()
    planes: tuple[int, int] | None = None
    frames: tuple[int, int] | None = None
    names: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether anything is chosen."""
        return bool(self.channels or self.planes or self.frames)

    @classmethod
    def of_message(cls, message: v1.Taken, field: str) -> Taken:
        """Return what a request chooses; `field` is named in errors.

        Raises
        ------
        InvalidInputError
            A range is none, or a channel has no name.
        """
        planes = (message.planes.first, message.planes.last) if message.HasField("planes") else None
        frames = (message.frames.first, message.frames.last) if message.HasField("frames") else None
        for name, span in (("planes", planes), ("frames", frames)):
            if span is not None and not 1 <= span[0] <= span[1]:
                text = f"{name.capitalize()} {span[0]} to {span[1]} are no range: count from 1."
                raise InvalidInputError(text, [Violation(f"{field}.{name}", text)])
        if not all(channel.strip() for channel in message.channels):
            text = "A channel has no name. Give its name, or its number from 1."
            raise InvalidInputError(text, [Violation(f"{field}.channels", text)])
        return cls(tuple(message.channels), planes, frames, tuple(message.names))

    @property
    def message(self) -> v1.Taken:
        """The choice in the words of the contract."""
        message = v1.Taken(channels=self.channels, names=self.names)
        for span, place in ((self.planes, message.planes), (self.frames, message.frames)):
            if span is not None:
                place.first, place.last = span
        return message

    @property
    def options(self) -> str:
        """The choice as options of the command line."""
        return " ".join(f"--{name} {shlex.quote(value)}" for name, value in self._chosen() if value)

    @property
    def words(self) -> str:
        """The choice as people say it: "channel DAPI; planes 3 to 9"."""
        found = [f"channel{'s' * (len(self.channels) > 1)} {', '.join(self.channels)}"] if self.channels else []
        return "; ".join([*found, *(f"{_TITLES[axis]} {first} to {last}" for axis, (first, last) in self._spans())])

    @property
    def titled(self) -> Taken:
        """The same with the names of its channels beside their numbers, for people."""
        pairs = self._named()
        said = tuple(f"{each} ({name})" if name not in {"", each} else each for each, name in pairs)
        return replace(self, channels=said)

    def where_there(self, axes: str) -> Taken:
        """Return the same without what needs channels, planes or frames that an image of these axes does not have."""
        return replace(
            self,
            channels=self.channels if "C" in axes else (),
            planes=self.planes if "Z" in axes else None,
            frames=self.frames if "T" in axes else None,
        )

    def numbers(self, axes: str, shape: Sequence[int], names: Sequence[str]) -> dict[str, Sequence[int]]:
        """Return by the letter of an axis, of those along which not all is taken, the numbers from 0.

        Parameters
        ----------
        axes, shape
            Those of the image.
        names
            Those of its channels; empty where they have none.

        Raises
        ------
        ValueError
            The image lacks what is chosen, or would give a channel twice.
        """
        lengths = dict(zip(axes, shape, strict=True))
        found: dict[str, Sequence[int]] = {}
        if self.channels:
            # A name that several channels have tells none of them.
            wanted = [name if name and names.count(name) == 1 else each for each, name in self._named()]
            found["C"] = channels = [_channel(names, lengths.get("C", 1), each) for each in wanted]
            if len({*channels}) < len(channels):
                twice = next(each for at, each in zip(channels, wanted, strict=True) if channels.count(at) > 1)
                raise ValueError(f"its channel {twice} was chosen twice. Take each channel once.")
        for axis, (first, last) in self._spans():
            title, length = _TITLES[axis], lengths.get(axis, 1)
            if last > length:
                there = f"{length} {title}" if length > 1 else f"one of its {title} alone"
                raise ValueError(f"it has {there}, and {title} {first} to {last} were chosen.")
            found[axis] = range(first - 1, last)
        return found

    def of(self, image: Image, name: str) -> Image:
        """Return what is taken of an image: what it has of the choice; the whole image where it has nothing of it.

        Pixels are not copied where they need not be. An axis of which one place is left is dropped.

        Parameters
        ----------
        image
            The image, of any axes.
        name
            What messages call it.

        Raises
        ------
        InvalidInputError
            It lacks a channel, plane or frame that is chosen, or would give a channel twice.
        """
        own = self.where_there(image.axes)
        if not own:
            return image
        names = image.acquired.fitting(image.axes, image.pixels.shape).channels
        try:
            numbers = own.numbers(image.axes, image.pixels.shape, names)
        except ValueError as error:
            text = f"{error} Predict such images with a choice of their own: --channel, --z or --t."
            raise InvalidInputError(f"{name} cannot be used: {text}", [Violation(name, text)]) from error
        pixels, axes = image.pixels, image.axes
        # From the last axis on, so that those before keep their places.
        for place in reversed(range(len(axes))):
            taken = numbers.get(axes[place])
            if taken is None:
                continue
            index: Any = taken[0] if len(taken) == 1 else _index(taken)
            pixels = pixels[(*(slice(None),) * place, index)]
            if len(taken) == 1:
                axes = axes[:place] + axes[place + 1 :]
        channels = tuple(names[at] for at in numbers["C"]) if names and "C" in numbers else names
        acquired = replace(image.acquired, channels=channels).fitting(axes, pixels.shape)
        notes = (*image.notes, Note("converted", own.named(numbers, names).words))
        return replace(image, pixels=pixels, axes=axes, acquired=acquired, notes=notes)

    def named(self, numbers: Mapping[str, Sequence[int]], names: Sequence[str]) -> Taken:
        """Return the same with the names of channels, as far as they have some; `numbers` are those of the choice."""
        known = dict(enumerate(names))
        return replace(self, channels=tuple(known.get(at) or str(at + 1) for at in numbers.get("C", ())), names=())

    def _named(self) -> list[tuple[str, str]]:
        """Return the channels with what they were called; "" where that is unknown."""
        unknown = [""] * len(self.channels)
        return list(zip(self.channels, [*self.names, *unknown], strict=False))

    def _chosen(self) -> Iterator[tuple[str, str]]:
        """Yield the names of options with their values."""
        yield from (("channel", each) for each in self.channels)
        yield from ((axis.lower(), f"{first}-{last}") for axis, (first, last) in self._spans())

    def _spans(self) -> Iterator[tuple[str, tuple[int, int]]]:
        yield from ((axis, span) for axis, span in (("Z", self.planes), ("T", self.frames)) if span is not None)


EVERYTHING: Final = Taken()


def parse_range(text: str, option: str) -> tuple[int, int] | None:
    """Return first and last of "3" or "2-9", counted from 1, and None for "".

    Raises
    ------
    InvalidInputError
        It is none of these; `option` is named.
    """
    if not text:
        return None
    match = re.fullmatch(r"([1-9]\d*)(?:-([1-9]\d*))?", text)
    if match is None or int(match[2] or match[1]) < int(match[1]):
        raise InvalidInputError(f"{option} is {text!r}: give a number from 1, or a range such as 2-9.")
    return int(match[1]), int(match[2] or match[1])


def _index(numbers: Sequence[int]) -> slice | list[int]:
    """Return what indexes several places of an axis: a slice, which copies nothing, where one does."""
    first, step = numbers[0], numbers[1] - numbers[0]
    end = numbers[-1] + step
    if list(numbers) != list(range(first, end, step)):
        return list(numbers)
    return slice(first, end if end >= 0 else None, step)


def _channel(names: Sequence[str], length: int, wanted: str) -> int:
    """Return the number, from 0, of a channel that is named, or numbered from 1; raise ValueError if there is none."""
    if wanted in names:
        return names.index(wanted)
    if 1 <= (whole_number(wanted) or 0) <= length:
        return int(wanted) - 1
    if length == 1 and not names:
        raise ValueError(f"it has one channel and {wanted!r} was chosen. Leave the choice out, or this image.")
    there = ", ".join(names) or f"{length} without names"
    raise ValueError(f"it has no channel {wanted!r}: there are {there}.")
