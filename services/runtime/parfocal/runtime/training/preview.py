"""A sheet of examples of a dataset: images with what belongs to them, and patches as a training sees them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from pydantic import Field

from parfocal.runtime.datasets.boxes import Boxes
from parfocal.runtime.datasets.coordinates import Localisations
from parfocal.runtime.datasets.view import DatasetView
from parfocal.runtime.methods.augmenting import Flips, FlipZ, Intensity, Warps
from parfocal.runtime.methods.implementation import Opened
from parfocal.runtime.methods.normaliser import Normaliser
from parfocal.runtime.methods.parameters import Arithmetic, ConstantRate, Epochs, Patches, Validation, inherited
from parfocal.runtime.store.facts import Facts
from parfocal.runtime.training.annotated import AnnotatedBatches, open_boxes, open_coordinates
from parfocal.runtime.training.batches import PatchBatches, UnpairedBatches
from parfocal.runtime.training.data import open_classes, open_labels, open_pairs, open_sources, open_unpaired

_INCHES: Final = 2.6
_LARGEST: Final = 512
# Normalised intensities: 0 and 1 are dark and bright pixels, and what is beyond should be seen to be so.
_DARK, _BRIGHT = -0.05, 1.1
_OVERLAY: Final = 0.35


class PreviewParameters(Intensity, FlipZ, Warps, Flips, Arithmetic, ConstantRate, Validation, Patches, Epochs):
    """Parameters of a training that decide how patches look."""

    # Half of the images are shown whole, patches are cut from the others.
    validation_fraction: float = inherited(Validation, "validation_fraction", default=0.5)
    augment_scale: float = inherited(Intensity, "augment_scale", default=0)
    augment_offset: float = inherited(Intensity, "augment_offset", default=0)
    augment_noise: float = inherited(Intensity, "augment_noise", default=0)
    patch_depth: int = Field(default=16, ge=1, title="Patch depth", description="Planes of a patch.")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> PreviewParameters:
        """Return what of a method's parameters decides what patches look like; the rest is passed over."""
        decisive = {"seed", "patch_size", "patch_depth"}
        return cls.model_validate(
            {name: value for name, value in values.items() if name in decisive or name.startswith("augment_")}
        )

    def fitting(self, shapes: Sequence[tuple[int, ...]]) -> PreviewParameters:
        """Return the parameters with patches that fit into all images; `shapes` are along (Z,) Y and X."""
        edge = min(min(shape[-2:]) for shape in shapes)
        depth = min((shape[-3] for shape in shapes if len(shape) > 2), default=1)
        update = {"patch_size": min(self.patch_size, edge), "patch_depth": min(self.patch_depth, depth)}
        return self.model_copy(update=update)


_OPEN: Final[Mapping[str, Callable[[DatasetView, PreviewParameters, Normaliser], Opened[PreviewParameters]]]] = {
    "": open_pairs,
    "paired": open_pairs,
    "labels": partial(open_labels, clean=lambda labels: labels, resolve=lambda parameters, _: parameters),
    "classes": open_classes,
    "sources": open_sources,
    "unpaired": open_unpaired,
    "boxes": open_boxes,
    "coordinates": open_coordinates,
}


def preview_figure(
    data: DatasetView, parameters: PreviewParameters, *, images: int = 3, patches: int = 6, augmented: bool = False
) -> Figure:
    """Return a sheet of whole images with their targets, labels, boxes or points, and below it of patches.

    Parameters
    ----------
    data
        The dataset; of its training images, half are shown whole and the others give patches.
    parameters
        Size of patches, augmentation and seed.
    images, patches
        Largest number to show.
    augmented
        Show beside each patch what augmentation makes of it in the first epoch of a training.

    Raises
    ------
    InvalidInputError
        An image is not usable; all that are wrong are named.
    """
    manifest = data.manifest
    shapes = [
        tuple(length for length, axis in zip(image.shape, image.axes, strict=True) if axis in data.axes)
        for image in manifest.select("train", "source")
    ]
    parameters = parameters.fitting(shapes).model_copy(
        update={"batch_size": patches, "patches_per_image": math.ceil(patches / max(1, len(shapes) // 2))}
    )
    opened = _OPEN[manifest.kind](data, parameters, Normaliser())
    rows: list[tuple[str, list[_Panel]]] = []
    for number, image in enumerate(opened.validation_images()):
        if number == images:
            break
        rows.append((image.name, list(_panels(image.inputs, image.targets, opened.facts, manifest.classes))))
    if augmented:
        plain, changed = (_samples(_with_augmentation(opened.batches, kept)) for kept in (False, True))
        for number, (before, after) in enumerate(zip(plain, changed, strict=True), start=1):
            sides = [list(_panels(*sample, opened.facts, manifest.classes)) for sample in (before, after)]
            marked = [replace(panel, title=f"{panel.title}, augmented") for panel in sides[1]]
            rows.append((f"patch {number}", [*sides[0], *marked]))
    return _figure(
        rows,
        f"{manifest.dataset or 'Training images'}: {_words(parameters.patch_shape(data.axes), len(shapes), augmented)}",
    )


@dataclass(frozen=True)
class _Panel:
    """Contents of one panel: pixels (Y, X) or (Y, X, 3), and what is drawn on them."""

    title: str
    pixels: NDArray[np.float32]
    labels: NDArray[Any] | None = None
    boxes: Boxes | None = None
    points: Localisations | None = None
    classes: tuple[str, ...] = ()


def _panels(
    inputs: Mapping[str, NDArray[np.float32]], targets: Any, facts: Facts, classes: Sequence[str]
) -> Iterator[_Panel]:
    """Yield the panels of one image or patch, whose arrays have a channel axis behind."""
    shown = {role: _grey(pixels) for role, pixels in inputs.items()}
    plane = None
    if next(iter(shown.values())).ndim > 2 and not _colour(next(iter(inputs.values()))):
        first = next(iter(shown.values()))
        plane = int(np.argmax(first.reshape(len(first), -1).std(axis=1)))
    for role, pixels in shown.items():
        flat = pixels if plane is None else pixels[plane]
        where = "" if plane is None else f", plane {plane}"
        yield _Panel(
            f"{role}{where}",
            flat,
            boxes=targets if isinstance(targets, Boxes) else None,
            points=targets if isinstance(targets, Localisations) else None,
            classes=tuple(classes),
        )
    if not isinstance(targets, np.ndarray):
        return
    source = next(iter(shown.values()))
    start = 0
    for port in facts.targets:
        target = targets[..., start : start + port.channels]
        start += port.channels
        target = _grey(target) if plane is None else _grey(target)[plane]
        if port.kind == "image":
            yield _Panel(port.role, target.astype(np.float32))
        else:
            count = len(np.unique(target[target > 0]))
            what = "objects" if port.kind == "labels" else "classes"
            yield _Panel(f"{port.role}: {count} {what}", source if plane is None else source[plane], labels=target)


def _colour(pixels: NDArray[np.float32]) -> bool:
    return pixels.shape[-1] == 3 and pixels.ndim == 3


def _grey(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return colours as they are, and of other channels the middle one."""
    return pixels if _colour(pixels) else pixels[..., pixels.shape[-1] // 2]


def _with_augmentation(batches: Any, kept: bool) -> Any:
    """Return the same batches, with or without augmentation."""
    if kept:
        return batches
    if isinstance(batches, UnpairedBatches):
        return UnpairedBatches(*(_with_augmentation(each, kept) for each in (batches.first, batches.second)))
    assert isinstance(batches, PatchBatches | AnnotatedBatches)
    return replace(batches, sampler=replace(batches.sampler, augmentation=None))


def _samples(batches: Any) -> Iterator[tuple[Mapping[str, NDArray[np.float32]], Any]]:
    """Yield inputs and targets of each patch of the first batch of the first epoch."""
    batch = batches.batch(0, 0)
    for number in range(batch.size):
        inputs = {role: pixels[number] for role, pixels in batch.inputs.items()}
        yield inputs, None if batch.targets is None else batch.targets[number]


def _words(shape: tuple[int, ...], count: int, augmented: bool) -> str:
    examples = "the only training image" if count == 1 else f"examples of {count} training images"
    if not augmented:
        return examples
    size = " x ".join(map(str, shape))
    return f"{examples}, and patches of {size} pixels as used in the training"


def _figure(rows: Sequence[tuple[str, Sequence[_Panel]]], title: str) -> Figure:
    columns = max(len(panels) for _, panels in rows)
    figure = Figure(
        figsize=(max(_INCHES * columns + 0.4, 5), (_INCHES + 0.35) * len(rows) + 0.5), dpi=130, layout="constrained"
    )
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10, parse_math=False)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, (name, panels) in zip(grid, rows, strict=True):
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        for axis, panel in zip(axes, panels, strict=False):
            _draw(axis, panel)
        short = name if len(name) <= 32 else f"{name[:15]}…{name[-16:]}"
        axes[0].set_ylabel(short, fontsize=8, parse_math=False)
    return figure


def _draw(axis: Axes, panel: _Panel) -> None:
    rows, columns = (_middle(length) for length in panel.pixels.shape[:2])
    pixels = panel.pixels[rows, columns]
    if pixels.ndim == 2:
        axis.imshow(pixels, cmap="gray", vmin=_DARK, vmax=_BRIGHT, interpolation="nearest")
    else:
        axis.imshow(np.clip((pixels - _DARK) / (_BRIGHT - _DARK), 0, 1), interpolation="nearest")
    colours = np.array(colormaps["tab10"](np.arange(10)))[:, :3]
    if panel.labels is not None:
        axis.imshow(_overlay(panel.labels[rows, columns], colours), interpolation="nearest")
    if panel.boxes is not None:
        for corners, number in zip(panel.boxes.corners, panel.boxes.classes, strict=True):
            y0, x0, y1, x1 = corners - 0.5 - np.tile([rows.start, columns.start], 2)
            colour = colours[number % len(colours)]
            axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=1))
        for number in np.unique(panel.boxes.classes):
            name = panel.classes[number] if number < len(panel.classes) else str(number)
            axis.plot([], [], color=colours[number % len(colours)], label=name.replace("$", r"\$"))
        if len(panel.boxes.classes):
            axis.legend(fontsize=6, loc="upper right", framealpha=0.7)
    if panel.points is not None:
        x, y = panel.points.x - columns.start - 0.5, panel.points.y - rows.start - 0.5
        axis.scatter(x, y, s=14, facecolors="none", edgecolors=[tuple(colours[1])], linewidths=0.8)
    axis.set(xticks=[], yticks=[], xlim=(-0.5, pixels.shape[1] - 0.5), ylim=(pixels.shape[0] - 0.5, -0.5))
    axis.set_title(panel.title, fontsize=8, parse_math=False)


def _middle(length: int) -> slice:
    start = max(0, (length - _LARGEST) // 2)
    return slice(start, min(length, start + _LARGEST))


def _overlay(labels: NDArray[Any], colours: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return RGBA: each object in a colour of its own, its outline opaque, background transparent."""
    picture = np.zeros((*labels.shape, 4))
    picture[..., :3] = colours[labels.astype(np.int64) % len(colours)]
    inside = labels > 0
    edge = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        differs = np.diff(labels.astype(np.int64), axis=axis) != 0
        first, second = (
            tuple(part if number == axis else slice(None) for number in (0, 1))
            for part in (slice(None, -1), slice(1, None))
        )
        edge[first] |= differs
        edge[second] |= differs
    picture[..., 3] = np.where(inside, np.where(edge, 1.0, _OVERLAY), 0.0)
    return picture
