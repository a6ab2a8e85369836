"""Which images a method takes, told from their axes alone: for services, and for clients before they upload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from parfocal.runtime.errors import InvalidInputError


def fits_axes(axes: str, channel_axes: str, image_axes: str, *, frames: bool = False) -> bool:
    """Return whether an image has the axes of a method, e.g. "YX", and at most one of its `channel_axes` besides.

    With `frames` it may be a movie of such images, with T in front.
    """
    image_axes = image_axes.removeprefix("T" if frames else "")
    extra = "".join(axis for axis in image_axes if axis not in axes)
    ordered = "".join(axis for axis in image_axes if axis in axes) == axes
    return ordered and (extra == "" or (len(extra) == 1 and extra in channel_axes))


@dataclass(frozen=True)
class ImageNeeds:
    """What an image must be for a method.

    Attributes
    ----------
    title
        Name of the method for people.
    axes
        Those of one image, e.g. "YX" or "ZYX".
    channel_axes
        Further axes that may hold the channels of an image, e.g. "SC"; empty: images have one channel.
    """

    title: str
    axes: str
    channel_axes: str = ""

    def channel_axis(self, axes: str, channels: int) -> str:
        """Return the axis that a network with so many input channels reads them from; "" if there is none.

        A stack of single images has no channel axis: it is taken plane by plane.
        """
        if channels == 1 and "S" not in axes:
            return ""
        return next((letter for letter in axes if letter in self.channel_axes), "")

    def taken(self, axes: str) -> str:
        """Return the axes of an image as the method takes them: planes are frames where it needs frames."""
        return axes.replace("Z", "T") if "T" in self.axes and "Z" not in self.axes and "T" not in axes else axes

    def check(self, axes: str, shape: Sequence[int], channels: int = 1) -> None:
        """Raise InvalidInputError unless an image with `channels` suits the method, or is a stack of such images."""
        letter = self.channel_axis(axes, channels)
        lengths = dict(zip(self.taken(axes), shape, strict=True))
        found = lengths.pop(letter, 1)
        rest = "".join(lengths)
        extra = rest.removesuffix(self.axes)
        fits = rest.endswith(self.axes) and all(axis in "TZ" or lengths[axis] == 1 for axis in extra)
        if fits and found == channels:
            return
        wanted = f"{self.axes}, or a stack of such {'planes' if len(self.axes) == 2 else 'volumes'}"
        if "T" in self.axes:
            wanted = f"{self.axes}, a stack of frames"
        if channels > 1:
            wanted = f"{self.axes} with {channels} channels along {' or '.join(self.channel_axes)}"
        raise InvalidInputError(
            f"The image has axes {axes} ({'x'.join(map(str, shape))}); {self.title} takes {wanted}. "
            f"{self._cure(axes, channels)}"
        )

    def _cure(self, axes: str, channels: int) -> str:
        if channels > 1:
            return "Apply the model to images made like those it was trained on."
        if "T" in self.axes and axes == "YX":
            return "It is a single frame: save the whole recording as one stack."
        if "Z" in self.axes and not set("ZCS") & set(axes):
            return "It has no planes along Z: save whole stacks, or use a model for single planes."
        if "C" in axes:
            return "Choose the channel that you need (for example --channel 1), or save it as an image of its own."
        return "Convert colour images to single channels first."
