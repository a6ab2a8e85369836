"""Figures of predicted validation images, for the report of a U-Net training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from parfocal.runtime.methods.thresholds import THRESHOLDS

# Told apart in all kinds of colour vision.
_OUTCOMES: Final = {"true positive": "#009E73", "false negative": "#E69F00", "false positive": "#CC79A7"}
_MOST_PIXELS: Final = 768


@dataclass(frozen=True)
class Overlay:
    """A validation image: normalised pixels (channels last), class indices of target and prediction."""

    name: str
    pixels: NDArray[np.float32]
    target: NDArray[Any]
    classes: NDArray[np.uint8]

    @property
    def plane(self) -> Overlay:
        """The image itself, or of a volume the plane with the most mistakes; the middle of a large one."""
        pixels, target, classes, name = self.pixels, self.target, self.classes, self.name
        if target.ndim == 3:
            wrong = ((target != classes) & (target >= 0)).sum(axis=(1, 2))
            number = int(np.argmax(wrong))
            pixels, target, classes, name = pixels[number], target[number], classes[number], f"{name}, plane {number}"
        window = tuple(
            slice((length - min(length, _MOST_PIXELS)) // 2, (length + min(length, _MOST_PIXELS)) // 2)
            for length in target.shape
        )
        return Overlay(name, pixels[window], target[window], classes[window])


def validation_figure(overlays: Sequence[Overlay], measured: Mapping[str, Any]) -> Figure:
    """Return a page: IoU over the threshold where there are two classes, and images beside what is found in them.

    Parameters
    ----------
    overlays
        Overlays to draw; at least one.
    measured
        Measurements of the calibrated model: `class_values`, and for two classes `threshold` and `iou_by_threshold`.
    """
    curve = measured.get("iou_by_threshold")
    rows = len(overlays) + (curve is not None)
    figure = Figure(figsize=(8.27, 2.9 * rows + 0.5), layout="constrained")
    figure.suptitle("Validation images", fontsize=12)
    parts: Any = figure.subfigures(rows, 1, squeeze=False)[:, 0]
    if curve is not None:
        _draw_curve(parts[0].subplots(1, 1), curve, measured["threshold"])
    for part, overlay in zip(parts[rows - len(overlays) :], overlays, strict=True):
        _draw_image(part, overlay.plane, measured["class_values"])
    return figure


def _draw_curve(axes: Axes, curve: Sequence[float], threshold: float) -> None:
    axes.plot(THRESHOLDS, curve, color="#0072B2")
    axes.axvline(threshold, color="black", linewidth=0.9, linestyle=":")
    best = curve[THRESHOLDS.index(threshold)]
    axes.annotate(
        f"chosen: {threshold:g}, IoU {best:.3f}", (threshold, 0.04), (4, 0), textcoords="offset points", fontsize=9
    )
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="threshold of the probability", ylabel="IoU, all validation images")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_image(part: Any, overlay: Overlay, values: Sequence[int]) -> None:
    panels = part.subplots(1, 3)
    grey = np.clip(overlay.pixels[..., :3] if overlay.pixels.shape[-1] == 3 else overlay.pixels.mean(axis=-1), 0, 1)
    for axes, title in zip(panels, (overlay.name, "target", "prediction"), strict=True):
        axes.set_axis_off()
        axes.set_title(title, fontsize=9, parse_math=False)
    panels[0].imshow(grey, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    base = np.repeat((grey if grey.ndim == 2 else grey.mean(axis=-1))[..., np.newaxis], 3, axis=-1)
    known = overlay.target >= 0
    if len(values) > 2:
        colours = np.array([(0.0, 0.0, 0.0), *colormaps["tab10"](np.arange(len(values) - 1) % 10)[:, :3]])
        for axes, shown in zip(panels[1:], (overlay.target, overlay.classes), strict=True):
            axes.imshow(_mixed(base, colours[np.maximum(shown, 0)], shown > 0), interpolation="nearest")
        handles = [Patch(color=tuple(colours[number]), label=f"{values[number]}") for number in range(1, len(values))]
        part.legend(handles=handles[:10], loc="outside lower center", ncols=10, fontsize=8, frameon=False)
        return
    panels[1].imshow(np.where(known, overlay.target, 0), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    target, found = overlay.target > 0, overlay.classes > 0
    outcomes = (target & found, target & ~found, ~target & found)
    picture = base
    for colour, mask in zip(_OUTCOMES.values(), outcomes, strict=True):
        picture = _mixed(picture, np.array(to_rgb(colour)), mask & known)
    panels[2].imshow(picture, interpolation="nearest")
    handles = [Patch(color=colour, label=name) for name, colour in _OUTCOMES.items()]
    part.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)


def _mixed(base: NDArray[Any], colours: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
    return np.where(mask[..., np.newaxis], 0.5 * base + 0.5 * colours, base)
