"""Pieces of figures: drawn on Figure objects, never on global plotting state."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

LARGEST_SHOWN: Final = 512
"""Pixels shown along each side, from the centre. Larger images are cropped, not shrunk: shrinking averages noise
away and would flatter the input."""
RSE_COLOURS: Final = "magma"
_GREY: Final = "0.35"
_ROOM_FOR_BAR: Final = 0.6  # inches


def save_png(fig: Figure, path: Path) -> None:
    """Write a figure as PNG at its own resolution."""
    fig.savefig(path, format="png")


def centre(height: int, width: int, *, largest: int = LARGEST_SHOWN) -> tuple[slice, slice]:
    """Return the part of an image that is shown: its centre, `largest` pixels along each side at most."""

    def middle(size: int) -> slice:
        start = max(0, (size - largest) // 2)
        return slice(start, min(size, start + largest))

    return middle(height), middle(width)


def show_grey(axis: Axes, image: npt.NDArray[Any]) -> None:
    """Show an image (Y, X) between its own 0.1 and 99.9 percentiles, which are written below it."""
    values = image.astype(np.float32)
    low, high = np.percentile(values, [0.1, 99.9])
    high = high if high > low else low + 1
    axis.imshow(values, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    frame(axis)
    axis.set_xlabel(f"black {low:.4g}, white {high:.4g}", fontsize=8, color=_GREY, labelpad=2)


def frame(axis: Axes) -> None:
    """Draw a thin frame without ticks."""
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_linewidth(0.5)
        spine.set_color(_GREY)


def draw_scale_bar(axis: Axes, width: int, height: int, pixel_size: float | None, pixels_per_inch: float) -> None:
    """Draw a scale bar of a round length into an image of `width` x `height` pixels, unless it is too small for one.

    Parameters
    ----------
    pixel_size
        Side length of a pixel in micrometres; None where it is unknown: the bar is then labelled in pixels.
    pixels_per_inch
        Resolution at which the figure shows the image, in image pixels per inch.
    """
    if min(width, height) < _ROOM_FOR_BAR * pixels_per_inch:
        return
    unit = pixel_size if pixel_size is not None else 1.0
    length = _round_length(width * unit / 4)
    pixels = length / unit
    thickness, pad, text_height, text_width = (inches * pixels_per_inch for inches in (0.05, 0.05, 0.17, 0.52))
    box_width = max(pixels, text_width) + 2 * pad
    box_height = thickness + text_height + 2 * pad
    right, bottom = width - 0.5 - 2 * pad, height - 0.5 - 2 * pad
    middle = right - box_width / 2
    axis.add_patch(
        Rectangle(
            (right - box_width, bottom - box_height),
            box_width,
            box_height,
            facecolor="black",
            alpha=0.65,
            linewidth=0,
        )
    )
    top_of_bar = bottom - pad - thickness
    axis.add_patch(Rectangle((middle - pixels / 2, top_of_bar), pixels, thickness, facecolor="white", linewidth=0))
    text = f"{length:g} µm" if length >= 1 else f"{1000 * length:g} nm"
    if pixel_size is None:
        text = f"{length:g} px"
    axis.text(middle, top_of_bar - pad / 2, text, color="white", fontsize=9, ha="center", va="bottom")


def _round_length(length: float) -> float:
    """Largest of 1, 2 and 5 times a power of ten that is not longer."""
    power = 10.0 ** math.floor(math.log10(length))
    return max(step * power for step in (1, 2, 5) if step * power <= length * (1 + 1e-9))


def draw_colour_bar(
    figure: Figure,
    place: tuple[float, float, float, float],
    norm: Normalize,
    colours: str,
    extend: Literal["min", "max"],
    label: str,
) -> None:
    """Draw a colour bar at a place, with the ticks of a root scale where it extends to larger values."""
    bar = figure.colorbar(ScalarMappable(norm, colormaps[colours]), cax=figure.add_axes(place), extend=extend)
    if extend == "max" and norm.vmax is not None:
        bar.set_ticks([step * step * norm.vmax for step in (0, 0.25, 0.5, 0.75, 1)])
        bar.ax.set_yticklabels([f"{tick:.2g}" for tick in bar.get_ticks()])
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=8)


def shortened(name: str, longest: int = 70) -> str:
    """Leave out the middle of a long name."""
    return name if len(name) <= longest else f"{name[: longest // 2 - 1]}…{name[-longest // 2 + 1 :]}"
