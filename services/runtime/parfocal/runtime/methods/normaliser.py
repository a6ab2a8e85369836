"""Intensities of any microscope brought to one scale, and back.

Rule and constants are recorded in the model and replayed wherever it is used. Constants are taken from a whole image or
volume, per channel, and never from a tile or a patch: training, prediction and quality control see the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy import ndimage

from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.pixel_values import LARGEST_VALUE, count_unusable
from parfocal.runtime.images.scratch import BLOCK_PIXELS, blocks, copied, release
from parfocal.runtime.store.facts import made_by_newer

_MOST_PIXELS = 2**26
_MOST_FRAMES = 500
_BRIGHT_FRAMES = 90


class NormaliserConstants(BaseModel):
    """Constants with which one image was normalised: ``normalised = (value - offset) / scale``.

    `offset` and `scale` have one entry, or one per channel along `channel_axis`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    offset: tuple[float, ...]
    scale: tuple[float, ...]
    channel_axis: int | None = None


class Normaliser(BaseModel):
    """The rule by which images are brought to one scale.

    ``percentile`` maps the `low` percentile to 0 and the `high` one to 1; ``z-score`` maps mean and standard
    deviation to 0 and 1; ``fixed`` takes the same `constants` for all images, as some imported models need; ``stack``
    takes one pair of constants for all frames of a stack, see `fit_stack`; ``none`` leaves values as they are.
    Nothing is clipped unless `clip` asks for it (to 0 and 1; only with ``percentile``).

    The defaults are those of CSBDeep's prediction (Weigert et al., Nature Methods 15, 1090, 2018).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: Literal["percentile", "z-score", "fixed", "stack", "none"] = "percentile"
    low: float = Field(default=2.0, ge=0, lt=100)
    high: float = Field(default=99.8, gt=0, le=100)
    clip: bool = False
    per: Literal["image"] = "image"
    constants: NormaliserConstants | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Normaliser:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if self.clip and self.rule != "percentile":
            raise ValueError("clip needs the percentile rule")
        if (self.rule == "fixed") != (self.constants is not None):
            raise ValueError("constants are those of the fixed rule")
        return self

    def record(self) -> dict[str, Any]:
        """Return what a model's manifest says of it: no field without a value, so that older versions read it."""
        return self.model_dump(mode="json", exclude_none=True)

    @classmethod
    def of_record(cls, fields: Mapping[str, Any]) -> Normaliser:
        """Return what a manifest says.

        Raises
        ------
        PreconditionError
            A newer version of Parfocal wrote it, with something that this one does not know. To pass it over could
            change what the model predicts.
        """
        unknown = sorted(name for name, value in fields.items() if name not in cls.model_fields and value is not None)
        if unknown:
            raise made_by_newer("normalisation", unknown)
        return cls.model_validate({name: value for name, value in fields.items() if name in cls.model_fields})

    def fit(self, pixels: NDArray[Any], axes: str) -> NormaliserConstants:
        """Take the constants of one whole image or volume.

        Above 2**26 pixels per channel every n-th pixel along each axis is looked at, with the least n that comes
        below that number: the same pixels every time, and up to 67 million of them. So the constants do not depend on
        how much memory there is, or on whether the image is in it. Every pixel is checked to be finite.

        Parameters
        ----------
        pixels
            The image; its values must be finite.
        axes
            One letter per dimension. C or S is the channel axis, normalised channel by channel.

        Returns
        -------
        NormaliserConstants
            Offset and scale. The scale is 1 for an image without contrast, and the range of the image if the two
            percentiles coincide (few bright spots on an empty background).

        Raises
        ------
        InvalidInputError
            The image holds values that are not finite, or too large to compute with.
        """
        if len(axes) != pixels.ndim:
            raise ValueError(f"axes {axes!r} do not describe an array of shape {pixels.shape}")
        if self.rule == "stack":
            frames = pixels if axes[0] == "T" else pixels[np.newaxis]
            return self.fit_stack(len(frames), frames.__getitem__)
        # Every pixel, for percentiles need not meet the one that is wrong.
        if _any_unusable(pixels):
            raise InvalidInputError(
                f"The image holds values that are NaN, infinite or beyond {LARGEST_VALUE:.0e}: export it without them."
            )
        channel_axis = next((index for index, axis in enumerate(axes) if axis in "CS"), None)
        if self.rule == "none":
            return NormaliserConstants(offset=(0.0,), scale=(1.0,))
        if self.constants is not None:
            return self.constants.model_copy(update={"channel_axis": channel_axis})
        channels = [pixels] if channel_axis is None else list(np.moveaxis(pixels, channel_axis, 0))
        constants = [self._constants(channel) for channel in channels]
        return NormaliserConstants(
            offset=tuple(offset for offset, _ in constants),
            scale=tuple(scale for _, scale in constants),
            channel_axis=channel_axis,
        )

    def fit_stack(self, count: int, read: Callable[[int], NDArray[Any]]) -> NormaliserConstants:
        """Take the constants of a stack of frames, which are read one by one.

        0 is the median over frames of the darkest place, 1 what the brightest places of the brighter frames reach
        (their 90th percentile). Places are means of 3 x 3 pixels, so that single hot pixels do not count. A frame
        without emitters stays dark, where a scale of its own would stretch its noise to the brightness of emitters.
        Of more than 500 frames 500 are looked at, spread evenly.

        Parameters
        ----------
        count
            Number of frames.
        read
            Returns one of them (Y, X), counted from 0.

        Raises
        ------
        InvalidInputError
            A frame holds values that are not finite, or too large to compute with.
        """
        darkest, brightest = [], []
        for number in np.unique(np.linspace(0, count - 1, min(count, _MOST_FRAMES)).round().astype(int)).tolist():
            frame = np.asarray(read(number))
            if count_unusable(frame):
                raise InvalidInputError(
                    f"Frame {number + 1} holds values that are NaN, infinite or beyond {LARGEST_VALUE:.0e}: export the "
                    "stack without them."
                )
            smooth = ndimage.uniform_filter(frame.astype(np.float32), 3, mode="reflect")
            darkest.append(float(smooth.min()))
            brightest.append(float(smooth.max()))
        offset = float(np.median(darkest))
        scale = float(np.percentile(brightest, _BRIGHT_FRAMES)) - offset
        return NormaliserConstants(offset=(offset,), scale=(scale if scale > 0 else 1.0,))

    def apply(self, pixels: NDArray[Any], constants: NormaliserConstants) -> NDArray[np.float32]:
        """Normalise an image, or any patch or tile of it, with the constants of the whole image.

        Returns
        -------
        NDArray
            float32, of the same shape; a new array.
        """
        offset, scale = _columns(constants, pixels)
        if pixels.dtype.itemsize > 2 and pixels.dtype != np.float32:
            # Large integers and doubles lose digits in float32 unless the offset goes first.
            values: NDArray[np.float32] = ((pixels - offset) / scale).astype(np.float32)
        else:
            values = np.subtract(pixels, np.float32(offset), dtype=np.float32)
            np.divide(values, np.float32(scale), out=values)
        return np.clip(values, 0, 1, out=values) if self.clip else values

    def undo(self, values: NDArray[Any], constants: NormaliserConstants) -> NDArray[np.float32]:
        """Bring normalised values back to the image's own units; clipped values cannot come back."""
        offset, scale = _columns(constants, values)
        restored: NDArray[np.float32] = (values * scale + offset).astype(np.float32)
        return restored

    def undo_width(self, values: NDArray[Any], constants: NormaliserConstants) -> NDArray[np.float32]:
        """Bring differences of normalised values, such as an uncertainty, back to the image's own units."""
        _, scale = _columns(constants, values)
        widths: NDArray[np.float32] = (values * scale).astype(np.float32)
        return widths

    def _constants(self, channel: NDArray[Any]) -> tuple[float, float]:
        sample = _subsample(channel, _MOST_PIXELS)
        if self.rule == "z-score":
            offset, scale = _moments(sample)
        else:
            offset, top = _percentiles(sample, (self.low, self.high))
            scale = top - offset
        if scale <= 0:
            scale = float(channel.max()) - float(channel.min())
        return offset, scale if scale > 0 else 1.0


def _any_unusable(pixels: NDArray[Any]) -> bool:
    """Return whether there are values that are not finite or too large to compute with."""
    if pixels.dtype.kind != "f":
        return False
    for window in blocks(pixels.shape):
        if count_unusable(pixels[window]):
            return True
        release(pixels)
    return False


def _percentiles(sample: NDArray[Any], ranks: tuple[float, float]) -> tuple[float, float]:
    """Return two percentiles as `np.percentile` interpolates them, of large images without sorting their pixels.

    The values of integers of up to 16 bits are counted, which gives the same numbers.
    """
    if sample.size <= BLOCK_PIXELS:
        low, high = np.percentile(sample, ranks)
        return float(low), float(high)
    if sample.dtype.kind not in "ui" or sample.dtype.itemsize > 2:
        low, high = np.percentile(copied(sample), ranks, overwrite_input=True)
        return float(low), float(high)
    least = int(np.iinfo(sample.dtype).min)
    counts = np.zeros(2 ** (8 * sample.dtype.itemsize), np.int64)
    for window in blocks(sample.shape):
        counts += np.bincount(sample[window].ravel().astype(np.int64) - least, minlength=counts.size)
        release(sample)
    behind = np.cumsum(counts)
    places = (sample.size - 1) * np.true_divide(ranks, 100)
    below = np.floor(places)
    first, second = (
        np.searchsorted(behind, np.minimum(below + step, sample.size - 1), side="right") + float(least)
        for step in (0, 1)
    )
    part, step = places - below, second - first
    # Towards the nearer of the two, as numpy does, for equal digits.
    found = np.where(part < 0.5, first + step * part, second - step * (1 - part))
    return float(found[0]), float(found[1])


def _moments(sample: NDArray[Any]) -> tuple[float, float]:
    """Return mean and standard deviation in float64, of large images summed up block by block."""
    if sample.size <= BLOCK_PIXELS:
        return float(np.mean(sample, dtype=np.float64)), float(np.std(sample, dtype=np.float64))
    total = squares = 0.0
    for window in blocks(sample.shape):
        total += float(np.sum(sample[window], dtype=np.float64))
        release(sample)
    mean = total / sample.size
    for window in blocks(sample.shape):
        squares += float(np.sum(np.subtract(sample[window], mean, dtype=np.float64) ** 2))
        release(sample)
    return mean, math.sqrt(squares / sample.size)


def _subsample(pixels: NDArray[Any], most: int) -> NDArray[Any]:
    """Every n-th pixel along each axis, with the least n that leaves at most `most` pixels."""
    step = 1
    while np.prod([-(-length // step) for length in pixels.shape], dtype=np.int64) > most:
        step += 1
    return np.asarray(pixels[(slice(None, None, step),) * pixels.ndim])


def _columns(constants: NormaliserConstants, pixels: NDArray[Any]) -> tuple[Any, Any]:
    """Offset and scale as numbers, or as arrays that broadcast along the channel axis."""
    if constants.channel_axis is None:
        return constants.offset[0], constants.scale[0]
    shape = [1] * pixels.ndim
    shape[constants.channel_axis] = len(constants.offset)
    return np.reshape(constants.offset, shape), np.reshape(constants.scale, shape)
