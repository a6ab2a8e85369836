"""Targets with colours or channels: each channel is judged as a target of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from parfocal.qc.evaluation.inputs import Inputs, Item, channels_first, scratch_of
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.images.files import Image, inspect_image, open_image, write_image
from parfocal.runtime.images.scratch import Scratch
from parfocal.runtime.jobs.context import JobContext

_COLOURS: Final = ("red", "green", "blue")


def channel_names(axes: str, shape: Sequence[int]) -> tuple[str, ...]:
    """Return what the channels of an image are called; none where it has no axis of colours or channels.

    Colours are "red", "green" and "blue", without an alpha channel; channels are "channel1" and so on.
    """
    lengths = dict(zip(axes, shape, strict=True))
    if "S" in lengths:
        return _COLOURS[: lengths["S"]]
    return tuple(f"channel{number}" for number in range(1, lengths.get("C", 0) + 1))


def split_channels(context: JobContext, inputs: Inputs[Item]) -> Inputs[Item]:
    """Return the inputs with an item for each channel of targets that have several, e.g. "target_red/NAME".

    A prediction that does not have the channels of its target cannot be scored, which is told when it is.
    """
    items: list[Item] = []
    channels: dict[str, tuple[str, int]] = {}
    for item in inputs.items:
        context.check_cancelled()
        header = inspect_image(item.target)
        names = channel_names(header.axes, header.shape)
        if not names:
            items.append(item)
            continue
        axes = "".join(axis for axis in header.axes if axis not in "CS")
        shape = tuple(length for axis, length in zip(header.axes, header.shape, strict=True) if axis in axes)
        stem = item.label.rpartition("/")[2]
        folder = context.scratch / "channels" / item.role / stem
        scratch = scratch_of(context)
        targets = _split(item.target, axes, folder / "targets", len(names), scratch)
        problem = ""
        try:
            predictions = _split(item.prediction, axes, folder / "predictions", len(names), scratch)
        except InvalidInputError as error:
            problem, predictions = error.message, [item.prediction] * len(names)
        for index, name in enumerate(names):
            role = f"{item.role}_{name}"
            channels[role] = item.role, index
            items.append(
                replace(
                    item,
                    label=f"{role}/{stem}",
                    role=role,
                    target=targets[index],
                    prediction=predictions[index],
                    shape=shape,
                    uncertainty=None,
                    problem=problem,
                )
            )
    return replace(inputs, items=items, channels=channels)


def _split(path: Path, axes: str, folder: Path, count: int, scratch: Scratch) -> list[Path]:
    """Write the first channels of an image as images of their own; raise InvalidInputError where it has fewer."""
    image = open_image(path, scratch)
    pixels = channels_first(image)
    if pixels.ndim != len(axes) + 1 or len(pixels) < count:
        raise InvalidInputError(
            f"It has shape {image.pixels.shape} instead of {count} channels. Predict all channels of the target."
        )
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.tif" for number in range(count)]
    for part, place in zip(pixels, paths, strict=False):
        write_image(place, Image(part, axes, image.pixel_size), compress=False)
    return paths
