"""Figures for a QC report: drawn on Figure objects, never on global plotting state."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Rectangle

from parfocal.qc.metrics.images.foreground import RegionScore
from parfocal.qc.metrics.images.restoration import RestorationMaps, RestorationScore
from parfocal.runtime.errors import InvalidInputError

LARGEST_SHOWN: Final = 512
"""Pixels shown along each side, from the centre. Larger images are cropped, not shrunk: shrinking averages noise
away and would flatter the input."""

_SSIM_COLOURS: Final = "cividis"
RSE_COLOURS: Final = "magma"
_GREY: Final = "0.35"
_ROOM_FOR_BAR: Final = 0.6  # inches
_OUTLINE: Final = "#e69f00"  # orange of Okabe and Ito's palette, which any colour vision tells from grey
_TABLE: Final = (
    ("PSNR (dB)", "psnr", ".2f"),
    ("SSIM", "ssim", ".3f"),
    ("NRMSE", "nrmse", ".4f"),
    ("Pearson r", "pearson", ".3f"),
    ("scale a", "scale", ".3g"),
    ("offset b", "offset", ".3g"),
)
_INSIDE_TABLE: Final = (
    ("SSIM", "ssim", ".3f"),
    ("PSNR (dB)", "psnr", ".2f"),
    ("SNR (dB)", "snr", ".2f"),
)
_KINDS: Final = ("input", "baseline", "prediction")


def restoration_figure(
    source: npt.NDArray[Any],
    prediction: npt.NDArray[Any],
    target: npt.NDArray[Any],
    scores: Mapping[str, RestorationScore],
    maps: Mapping[str, RestorationMaps],
    *,
    name: str,
    pixel_size: float | None = None,
    baseline: str = "Gaussian filter",
    foreground: npt.NDArray[np.bool_] | None = None,
    inside: Mapping[str, RegionScore] | None = None,
) -> Figure:
    """Input, prediction and target, with the SSIM and error maps of input and prediction below them.

    All images follow the same rule: black and white are the image's own 0.1 and 99.9 percentiles. (Showing them
    as fitted to the target would hide inverted contrast.) Both maps of a kind share one colour scale; the colours
    can be told apart with any colour vision and in grey. The foreground is outlined on the target.

    Parameters
    ----------
    source, prediction, target
        Grey values (Y, X), of one shape; of a stack, one slice.
    scores
        By kind: "input" and "prediction", and "baseline" where it was scored.
    maps
        By kind: "input" and "prediction", in the shape of the images.
    name
        Name of the image, for the title.
    baseline
        What the baseline is, for the table; its first word is shown.
    pixel_size
        In micrometres; draws a scale bar, unless the image is too narrow a strip for one.
    foreground
        Foreground of the target, of the shape of the images.
    inside
        By kind: the scores inside the foreground, for the table.

    Raises
    ------
    InvalidInputError
        The images are not (Y, X) or differ in shape from each other or the maps.
    """
    shown = {"input": source, "prediction": prediction, "target": target}
    _check(shown, maps)
    window = centre(*target.shape)
    height, width = (part.stop - part.start for part in window)
    layout = _Layout(height, width)
    figure = Figure(figsize=layout.size, dpi=160)
    FigureCanvasAgg(figure)
    figure.text(
        0.5,
        1 - 0.28 / layout.size[1],
        drawable(shortened(name)),
        ha="center",
        va="center",
        fontsize=13,
        fontweight="bold",
        parse_math=False,
    )

    for column, (kind, image) in enumerate(shown.items()):
        axis = figure.add_axes(layout.panel(0, column))
        show_grey(axis, image[window])
        failed = scores[kind].failed if kind == "prediction" else None
        axis.set_title(f"Prediction: {failed}" if failed else kind.capitalize(), fontsize=11)
        if kind == "input":
            draw_scale_bar(axis, width, height, pixel_size, layout.pixels_per_inch)
        if kind == "target" and foreground is not None:
            _draw_outline(axis, foreground[window])

    largest_error = max(0.01, *(float(np.nanpercentile(maps[kind].rse[window], 99.8)) for kind in _MAPPED))
    scale = PowerNorm(0.5, 0, largest_error)  # as a root, so that small errors of a good prediction show too
    for column, kind in enumerate(_MAPPED):
        for row, field, norm, colours, title in (
            (1, "ssim", Normalize(0, 1), _SSIM_COLOURS, f"SSIM of {kind}: mean {scores[kind].ssim:.3f}"),
            (2, "rse", scale, RSE_COLOURS, f"Error of {kind}: NRMSE {scores[kind].nrmse:.4f}"),
        ):
            axis = figure.add_axes(layout.panel(row, column))
            values = getattr(maps[kind], field)[window]
            axis.imshow(values, norm=norm, cmap=colours, interpolation="nearest")
            frame(axis)
            axis.set_title(title, fontsize=9)
    draw_colour_bar(figure, layout.bar(1), Normalize(0, 1), _SSIM_COLOURS, "min", "SSIM (1 = same)")
    draw_colour_bar(figure, layout.bar(2), scale, RSE_COLOURS, "max", "|error| (root scale)")

    text = figure.add_axes(layout.text())
    text.axis("off")
    text.set_xlim(0, layout.text_width)
    text.set_ylim(-layout.text_height, 0)
    fraction = None if foreground is None else float(foreground.mean())
    bottom = _write_table(text, scores, inside or {}, layout.text_width, baseline.split()[0].capitalize())
    _write_notes(text, bottom - 0.2, target.shape, (height, width), fraction)
    return figure


def save_png(fig: Figure, path: Path) -> None:
    """Write a figure as PNG at its own resolution."""
    fig.savefig(path, format="png")


_MAPPED: Final = ("input", "prediction")


class _Layout:
    """Places in the figure, worked out in inches so that panels line up and text never meets them."""

    _side = 3.3
    _left, _top, _bottom = 0.2, 0.85, 0.15
    _gap, _row_gap = 0.2, 0.5
    _bar_gap, _bar_width, _bar_label = 0.1, 0.14, 0.72

    def __init__(self, height: int, width: int) -> None:
        self.pixels_per_inch = max(height, width) / self._side
        self._panel = width / self.pixels_per_inch, height / self.pixels_per_inch
        # Titles need some width and the text column some height, however narrow or low the images are.
        self._column = max(self._panel[0], 2.4)
        self._row = max(self._panel[1], 1.95)
        self.text_width = max(self._column, 3.4)
        self.text_height = 2 * self._row + self._row_gap
        third = self._column_left(2)
        self.size = (
            third + self.text_width + self._left,
            self._top + 3 * self._row + 2 * self._row_gap + self._bottom,
        )

    def panel(self, row: int, column: int) -> tuple[float, float, float, float]:
        """Place of an image, centred in its cell."""
        cell = self.text_width if column == 2 else self._column
        left = self._column_left(column) + (cell - self._panel[0]) / 2
        bottom = self._row_bottom(row) + (self._row - self._panel[1]) / 2
        return self._relative(left, bottom, *self._panel)

    def bar(self, row: int) -> tuple[float, float, float, float]:
        """Place of a row's colour bar, beside the second column."""
        left = self._column_left(1) + (self._column + self._panel[0]) / 2 + self._bar_gap
        height = max(self._panel[1], 1.0)
        bottom = self._row_bottom(row) + (self._row - height) / 2
        return self._relative(left, bottom, self._bar_width, height)

    def text(self) -> tuple[float, float, float, float]:
        """Place of table and notes: the third column of the second and third row."""
        return self._relative(self._column_left(2), self._row_bottom(2), self.text_width, self.text_height)

    def _column_left(self, column: int) -> float:
        bar = self._bar_gap + self._bar_width + self._bar_label if column == 2 else 0.0
        return self._left + column * (self._column + self._gap) + bar

    def _row_bottom(self, row: int) -> float:
        return self._bottom + (2 - row) * (self._row + self._row_gap)

    def _relative(self, left: float, bottom: float, width: float, height: float) -> tuple[float, float, float, float]:
        total_width, total_height = self.size
        return left / total_width, bottom / total_height, width / total_width, height / total_height


def _check(images: Mapping[str, npt.NDArray[Any]], maps: Mapping[str, RestorationMaps]) -> None:
    shape = images["target"].shape
    if len(shape) != 2:
        raise InvalidInputError(f"The figure shows images (Y, X), not {len(shape)} axes. Give one slice of a stack.")
    shapes = {f"the {kind}": image.shape for kind, image in images.items()}
    shapes |= {f"the map of the {kind}": maps[kind].ssim.shape for kind in _MAPPED}
    for what, other in shapes.items():
        if other != shape:
            raise InvalidInputError(f"In the figure, {what} has shape {other} and the target {shape}.")


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
        In micrometres; None where it is unknown, then the bar is some pixels long.
    pixels_per_inch
        Of the image in the figure.
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


def _draw_outline(axis: Axes, mask: npt.NDArray[np.bool_]) -> None:
    if min(mask.shape) > 1 and mask.any() and not mask.all():
        axis.contour(mask, levels=[0.5], colors=_OUTLINE, linewidths=0.4)


def _write_table(
    axis: Axes,
    scores: Mapping[str, RestorationScore],
    inside: Mapping[str, RegionScore],
    width: float,
    baseline: str,
) -> float:
    """Write the numbers, in inches from the top of the axes; return where they end."""
    kinds = [kind for kind in _KINDS if kind in scores]
    right = {kind: width - 0.88 * (len(kinds) - 1 - i) for i, kind in enumerate(kinds)}
    for kind in kinds:
        heading = baseline if kind == "baseline" else kind.capitalize()
        axis.text(right[kind], 0, heading, ha="right", va="top", fontsize=9, fontweight="bold")
    axis.plot([0, width], [-0.2, -0.2], color=_GREY, linewidth=0.8)
    y = _write_rows(axis, _TABLE, {kind: scores[kind] for kind in kinds}, right, -0.27)
    if all(kind in inside for kind in kinds):
        axis.text(0, y - 0.04, "Inside the foreground", va="top", fontsize=9, fontweight="bold")
        y = _write_rows(axis, _INSIDE_TABLE, {kind: inside[kind] for kind in kinds}, right, y - 0.24)
    failure = scores["prediction"].failed
    if failure is not None:
        axis.text(0, y - 0.03, f"FAILED: {failure}", va="top", fontsize=10, fontweight="bold", color="#b2182b")
        y -= 0.25
    return y


def _write_rows(
    axis: Axes,
    rows: Sequence[tuple[str, str, str]],
    scores: Mapping[str, RestorationScore] | Mapping[str, RegionScore],
    right: Mapping[str, float],
    y: float,
) -> float:
    for label, field, form in rows:
        axis.text(0, y, label, ha="left", va="top", fontsize=9)
        for kind, score in scores.items():
            value = getattr(score, field)
            text = "none" if math.isnan(value) else f"{value:{form}}".replace("-", "−")
            axis.text(right[kind], y, text, ha="right", va="top", fontsize=9)
        y -= 0.2
    return y


def _write_notes(
    axis: Axes, top: float, shape: tuple[int, ...], shown: tuple[int, int], foreground: float | None
) -> None:
    lines = [
        "Images: black and white are each image's own",
        "0.1 and 99.9 percentiles.",
        "Scores: target scaled by its 0.1 and 99.9 percentiles,",
        "image fitted to it by a·x + b, both clipped to 0..1.",
        "SSIM: Gaussian window, 11 × 11 pixels, σ = 1.5.",
        "The maps of a row share one colour scale.",
    ]
    if foreground is not None:
        lines.append(f"Outlined: foreground by Otsu, {100 * foreground:.2g} % of the image.")
    if shape != shown:
        lines.append(f"Shown: central {shown[1]} × {shown[0]} of {shape[1]} × {shape[0]} pixels;")
        lines.append("scores are of the whole image.")
    axis.text(0, top, "\n".join(lines), ha="left", va="top", fontsize=8, linespacing=1.3, color=_GREY)


def shortened(name: str, longest: int = 70) -> str:
    """Leave out the middle of a long name."""
    return name if len(name) <= longest else f"{name[: longest // 2 - 1]}…{name[-longest // 2 + 1 :]}"


def drawable(text: str) -> str:
    """Replace characters the figure's font lacks, which would otherwise be drawn as boxes with a warning."""
    known = _known_characters()
    return "".join(character if ord(character) in known else "?" for character in text)


@lru_cache(maxsize=1)
def _known_characters() -> frozenset[int]:
    return frozenset(get_font(findfont(FontProperties(weight="bold"))).get_charmap())
