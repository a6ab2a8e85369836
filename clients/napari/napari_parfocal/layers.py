"""Layers as images that are sent, and what comes back as layers: plain values, no window needed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from parfocal import v1
from parfocal.client.single_images import PredictedImage
from parfocal.runtime.images.files import Image, PixelSize

LayerData = tuple[Any, dict[str, Any], str]
"""Data, keywords and type of a layer, as napari takes them."""
_LABEL_TASKS = (v1.TASK_INSTANCE_SEGMENTATION, v1.TASK_SEMANTIC_SEGMENTATION)
_COLOURS = ("red", "green", "blue")
_MICROMETRE = "micrometer"
_NANOMETRES = 1000.0


@dataclass(frozen=True)
class Cut:
    """A part of a layer that is sent.

    Attributes
    ----------
    image
        The pixels with their axes.
    scale, translate
        Of the part, one number for each of its axes but colours, in the units of the layer.
    units
        Of the layer, for the same axes.
    """

    image: Image
    scale: tuple[float, ...]
    translate: tuple[float, ...]
    units: tuple[str, ...]

    @property
    def axes(self) -> str:
        """The axes without those of colours."""
        return self.image.axes.replace("S", "")


def axes_choices(method: v1.Method | None, dimensions: int) -> list[str]:
    """Return what the dimensions of a layer may be for a method, the most likely one first; colours not counted.

    A choice that is shorter than the layer means the plane or volume that is shown.
    """
    own = method.data_requirements.axes if method is not None else "YX"
    stacks = {"YX": ["YX", "ZYX", "TYX", "CYX", "TZYX"], "ZYX": ["ZYX", "TZYX", "CZYX"], "TYX": ["TYX"]}
    choices = stacks.get(own, [own])
    whole = [axes for axes in choices if len(axes) == dimensions]
    return whole + [axes for axes in choices[:1] if len(axes) < dimensions]


def cut(
    layer: Any,
    axes: str,
    step: Sequence[int],
    window: tuple[tuple[int, int], tuple[int, int]] | None = None,
) -> Cut:
    """Return the part of an image layer that is sent.

    Parameters
    ----------
    layer
        An image layer of napari; of several resolutions the finest is taken.
    axes
        What its last dimensions are, without colours; earlier ones are cut at `step`.
    step
        Which plane is shown, for each dimension of the layer.
    window
        First and last + 1 row, and column, of a rectangle; None: the whole field.
    """
    data = layer.data[0] if layer.multiscale else layer.data
    dimensions = layer.ndim
    index: list[Any] = [slice(None)] * dimensions
    for number in range(dimensions - len(axes)):
        index[number] = int(step[number])
    start = np.zeros(dimensions)
    for position, (low, high) in zip((-2, -1), window or (), strict=False):
        index[position] = slice(low, high)
        start[position] = low
    pixels = np.ascontiguousarray(np.asarray(data[tuple(index)]))
    if pixels.dtype == bool or pixels.dtype.itemsize > 4 and pixels.dtype.kind in "iu":  # noqa: RUF021
        pixels = pixels.astype(np.uint8 if pixels.dtype == bool else np.float64)
    elif pixels.dtype == np.float16 or pixels.dtype == np.int8:
        pixels = pixels.astype(np.float32 if pixels.dtype.kind == "f" else np.int16)
    kept = slice(dimensions - len(axes), dimensions)
    scale = np.asarray(layer.scale, float)
    translate = np.asarray(layer.translate, float) + start * scale
    units = tuple(str(unit) for unit in layer.units[kept])
    image = Image(pixels, axes + "S" * layer.rgb, pixel_size(scale[kept].tolist(), units, axes))
    return Cut(image, tuple(scale[kept]), tuple(translate[kept]), units)


def pixel_size(scale: Sequence[float], units: Sequence[str], axes: str) -> PixelSize | None:
    """Return the size of a pixel in micrometres from the scale of a layer; None where it has none.

    Many readers give the scale in micrometres and leave the unit at "pixel": a scale other than 1 is taken for that.
    """
    factors = {_MICROMETRE: 1.0, "micron": 1.0, "nanometer": 1 / _NANOMETRES, "millimeter": 1000.0, "pixel": 1.0}
    lengths = dict(zip(axes, scale, strict=True))
    unit = dict(zip(axes, units, strict=True))
    if any(unit[axis] not in factors for axis in "YX") or not (lengths["Y"] > 0 and lengths["X"] > 0):
        return None
    if unit["Y"] == "pixel" and lengths["Y"] == lengths["X"] == 1:
        return None
    sizes = {axis: length * factors.get(unit[axis], 1.0) for axis, length in lengths.items()}
    depth = sizes.get("Z", 0.0)
    return PixelSize(sizes["X"], sizes["Y"], depth or None)


def layers_of(found: PredictedImage, sent: Cut, method: v1.Method | None, name: str, facts: Any) -> list[LayerData]:
    """Return what a model made of an image as layers that lie where the image lies.

    Parameters
    ----------
    found
        What came back.
    sent
        What was sent.
    method
        Of the model.
    name
        Put before the name of each layer.
    facts
        Kept as `metadata["parfocal"]` of each layer.
    """
    common = {"metadata": {"parfocal": facts}}
    made: list[LayerData] = []
    for key, image in found.images.items():
        made += _image_layers(image, sent, method, f"{name} {key}", common)
    tables = {key: pd.read_csv(io.StringIO(text)) for key, text in found.tables.items()}
    labels = next((each for each in made if each[2] == "labels"), None)
    objects = tables.get("objects")
    if labels is not None and objects is not None and objects["plane"].nunique() <= 1:
        # Labels of several planes are numbered anew in each: one row for a label exists in single images only.
        labels[1]["features"] = objects.rename(columns={"label": "index"})
    if "detections" in tables:
        made.append(_boxes(tables["detections"], sent, f"{name} boxes", common))
    if "localisations" in tables:
        made.append(_points(tables["localisations"], sent, f"{name} localisations", common))
    return made


def _image_layers(
    image: Image, sent: Cut, method: v1.Method | None, name: str, common: dict[str, Any]
) -> list[LayerData]:
    """Return an output as one layer, or as one for each channel."""
    axes = image.axes
    pixels = image.pixels
    parts: list[tuple[str, NDArray[Any], dict[str, Any]]] = [(name, pixels, {})]
    if "S" in axes and pixels.dtype == np.uint8:
        parts = [(name, pixels, {"rgb": True})]
    elif letter := next((axis for axis in axes if axis in "CS" and axis not in sent.axes), ""):
        channels = np.moveaxis(pixels, axes.index(letter), 0)
        colours = _COLOURS if letter == "S" else ("gray",) * len(channels)
        parts = [
            (f"{name} {number}", channel, {"colormap": colour, "blending": "additive"})
            for number, (channel, colour) in enumerate(zip(channels, colours, strict=True), start=1)
        ]
    spatial = [axis for axis in axes if axis in sent.axes]
    placed = {**_place(dict(zip(axes, image.pixels.shape, strict=True)), spatial, sent), **common}
    is_labels = pixels.dtype.kind in "iu" and method is not None and method.task in _LABEL_TASKS
    if is_labels:
        return [(part, {"name": title, **placed}, "labels") for title, part, _ in parts]
    return [(part, {"name": title, **placed, **more}, "image") for title, part, more in parts]


def _place(lengths: dict[str, int], axes: Sequence[str], sent: Cut) -> dict[str, Any]:
    """Return scale and place of an output whose pixels may be finer or coarser than those that were sent."""
    before = dict(zip(sent.image.axes, sent.image.pixels.shape, strict=True))
    scale, translate, units = [], [], []
    for axis in axes:
        number = sent.axes.index(axis)
        step = sent.scale[number] * before[axis] / lengths[axis]
        scale.append(step)
        # The middle of the first pixel is where the layer begins.
        translate.append(sent.translate[number] + (step - sent.scale[number]) / 2)
        units.append(sent.units[number])
    return {"scale": scale, "translate": translate, "units": units}


def _boxes(table: pd.DataFrame, sent: Cut, name: str, common: dict[str, Any]) -> LayerData:
    """Return boxes as rectangles, coloured by their class."""
    corners = table[["y_min_px", "x_min_px", "y_max_px", "x_max_px"]].to_numpy(float) - 0.5
    planes = _planes(table.get("plane"), len(table), sent)
    rectangles = []
    for (top, left, bottom, right), plane in zip(corners, planes, strict=True):
        outline = [(top, left), (top, right), (bottom, right), (bottom, left)]
        rectangles.append(np.array([(*plane, *point) for point in outline]))
    keywords = {
        "name": name,
        "shape_type": "rectangle",
        "face_color": "transparent",
        "edge_width": 1,
        "features": table,
        "ndim": len(sent.axes),
        "scale": sent.scale,
        "translate": sent.translate,
        "units": sent.units,
        **common,
    }
    if len(table):
        keywords |= {"edge_color": "class", "text": {"string": "{class} {confidence:.2f}", "anchor": "upper_left"}}
    return rectangles, keywords, "shapes"


def _points(table: pd.DataFrame, sent: Cut, name: str, common: dict[str, Any]) -> LayerData:
    """Return localisations as points in their frames."""
    size = sent.image.pixel_size
    columns = []
    for axis, length in (("y", size.y if size else 1.0), ("x", size.x if size else 1.0)):
        if f"{axis} [nm]" in table:
            columns.append(table[f"{axis} [nm]"].to_numpy(float) / (_NANOMETRES * length) - 0.5)
        else:
            columns.append(table[f"{axis} [px]"].to_numpy(float) - 0.5)
    planes = np.array(_planes(table["frame"] - 1, len(table), sent)).reshape(len(table), len(sent.axes) - 2)
    points = np.column_stack([planes, *columns])
    keywords = {
        "name": name,
        "size": 1,
        "face_color": "transparent",
        "border_color": "yellow",
        "features": table,
        "ndim": len(sent.axes),
        "scale": sent.scale,
        "translate": sent.translate,
        "units": sent.units,
        **common,
    }
    return points, keywords, "points"


def _planes(numbers: Any, count: int, sent: Cut) -> list[tuple[int, ...]]:
    """Return where each row of a table lies along the axes before Y and X."""
    stack = sent.image.pixels.shape[: len(sent.axes) - 2]
    if not stack:
        return [()] * count
    given = np.zeros(count, int) if numbers is None else np.asarray(numbers, int)
    return [tuple(int(each) for each in np.unravel_index(number, stack)) for number in given]
