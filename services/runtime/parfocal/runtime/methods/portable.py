"""A network in a form that programs without Parfocal run: a file of weights, and what must be known to use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Step = Mapping[str, Any]
"""A step before or behind a network, named and written as bioimage.io describes it: "id" and "kwargs"."""


@dataclass(frozen=True)
class PortableFile:
    """A file that holds network and weights, and that its framework opens without code of Parfocal.

    Attributes
    ----------
    format
        Its name at bioimage.io.
    name
        The file's name.
    version
        Of the framework that wrote it.
    channels_first
        Whether arrays have the channel axis before the spatial axes, or behind them.
    """

    format: Literal["torchscript", "tensorflow_saved_model_bundle"]
    name: str
    version: str
    channels_first: bool


@dataclass(frozen=True)
class Portable:
    """What a method says of its network to those who run it without Parfocal.

    Attributes
    ----------
    channels
        Names of the channels of the output, in their order.
    meaning
        What the values of the output are: sentences for people.
    divisor
        Of what the lengths of an input must be multiples in pixels, per spatial axis.
    overlap
        How far a pixel of the output depends on its surroundings in pixels, per spatial axis.
    steps
        What follows the network.
    labels
        Whether the output, behind the steps, is a label image: int32, one number for each object.
    """

    channels: Sequence[str]
    meaning: str
    divisor: Sequence[int]
    overlap: Sequence[int]
    steps: Sequence[Step] = ()
    labels: bool = False

    def finish(self, output: NDArray[np.float32]) -> NDArray[Any]:
        """Return what the steps make of the network's output for one batch, channels last.

        Methods with steps other than linear scales override it.
        """
        for step in self.steps:
            kwargs = step["kwargs"]
            output = output * np.asarray(kwargs["gain"], np.float32) + np.asarray(kwargs["offset"], np.float32)
        return output


def linear(gain: Sequence[float], offset: Sequence[float]) -> Step:
    """Return the step that multiplies each channel with a number and then adds another one to it."""
    return {"id": "scale_linear", "kwargs": {"axis": "channel", "gain": list(gain), "offset": list(offset)}}
