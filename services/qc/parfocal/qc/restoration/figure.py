"""The figure of a restored image: input, baseline, prediction and target with their maps and scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure

from parfocal.qc.figures.drawing import (
    RSE_COLOURS,
    centre,
    draw_colour_bar,
    draw_scale_bar,
    frame,
    shortened,
    show_grey,
)
from parfocal.qc.metrics.images.foreground import RegionScore
from parfocal.qc.metrics.images.restoration import RestorationMaps, RestorationScore
from parfocal.qc.restoration.metrics import BY_KEY
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.report.fonts import drawable

_GREY: Final = "0.35"

_SSIM_COLOURS: Final = "cividis"
_OUTLINE: Final = "#e69f00"  # orange of Okabe and Ito's palette, which any colour vision tells from grey
_TABLE: Final = (
    ("PSNR (dB)", "psnr", BY_KEY["psnr"].number),
    ("SSIM", "ssim", BY_KEY["ssim"].number),
    ("NRMSE", "nrmse", BY_KEY["nrmse"].number),
    ("Pearson r", "pearson", BY_KEY["pearson"].number),
    ("scale a", "scale", "{:.3g}".format),
    ("offset b", "offset", "{:.3g}".format),
)
_INSIDE_TABLE: Final = (
    ("SSIM", "ssim", BY_KEY["ssim_inside"].number),
    ("PSNR (dB)", "psnr", BY_KEY["psnr_inside"].number),
    ("SNR (dB)", "snr", BY_KEY["snr_inside"].number),
)
_KINDS: Final = ("input", "baseline", "prediction")
_LAST: Final = len(_KINDS)  # column


@dataclass(frozen=True)
class Whole:
    """Shape of an image (Y, X) of which the centre is shown, and its part that is foreground, None if unknown."""

    shape: tuple[int, ...]
    foreground: float | None


def restoration_figure(
    images: Mapping[str, npt.NDArray[Any]],
    scores: Mapping[str, RestorationScore],
    maps: Mapping[str, RestorationMaps],
    *,
    name: str,
    pixel_size: float | None = None,
    baseline: str = "Gaussian filter",
    foreground: npt.NDArray[np.bool_] | None = None,
    inside: Mapping[str, RegionScore] | None = None,
    whole: Whole | None = None,
) -> Figure:
    """Input, baseline, prediction and target, with the SSIM and error maps of all but the target below them.

    All images follow the same rule: black and white are the image's own 0.1 and 99.9 percentiles. (Showing them
    as fitted to the target would hide inverted contrast.) Both maps of a kind share one colour scale; the colours
    can be told apart with any colour vision and in grey. The foreground is outlined on the target.

    Parameters
    ----------
    images
        By kind ("input", "baseline", "prediction", "target"): grey values (Y, X) of one shape; of a stack, one slice.
    scores
        By kind except the target: its scores.
    maps
        By kind except the target: its maps, in the shape of the images.
    name
        Name of the image, for the title.
    baseline
        Name of the baseline; the table shows its first word.
    pixel_size
        Side length of a pixel in micrometres, for the scale bar, which very narrow images lack.
    foreground
        Foreground of the target, of the shape of the images.
    inside
        By kind: scores inside the foreground, for the table.
    whole
        The image or plane that images and maps are the centre of; None where they are all of it.

    Raises
    ------
    InvalidInputError
        The images are not (Y, X) or differ in shape from each other or the maps.
    """
    _check(images, maps)
    target = images["target"]
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

    titles = {"baseline": f"{baseline[:1].upper()}{baseline[1:]}"}
    for column, kind in enumerate((*_KINDS, "target")):
        axis = figure.add_axes(layout.panel(0, column))
        show_grey(axis, images[kind][window])
        failed = scores[kind].failed if kind == "prediction" else None
        title = f"Prediction: {failed}" if failed else titles.get(kind, kind.capitalize())
        axis.set_title(title, fontsize=11)
        if kind == "input":
            draw_scale_bar(axis, width, height, pixel_size, layout.pixels_per_inch)
        if kind == "target" and foreground is not None:
            _draw_outline(axis, foreground[window])

    largest_error = max(0.01, *(float(np.nanpercentile(maps[kind].rse[window], 99.8)) for kind in _KINDS))
    scale = PowerNorm(0.5, 0, largest_error)  # as a root, so that small errors of a good prediction show too
    for column, kind in enumerate(_KINDS):
        for row, field, norm, colours, title in (
            (
                1,
                "ssim",
                Normalize(0, 1),
                _SSIM_COLOURS,
                f"SSIM of {kind}: mean {BY_KEY['ssim'].number(scores[kind].ssim)}",
            ),
            (2, "rse", scale, RSE_COLOURS, f"Error of {kind}: NRMSE {BY_KEY['nrmse'].number(scores[kind].nrmse)}"),
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
    whole = whole or Whole(target.shape, fraction)
    bottom = _write_table(text, scores, inside or {}, layout.text_width, baseline.split()[0].capitalize())
    _write_notes(text, bottom - 0.2, whole.shape, (height, width), whole.foreground)
    return figure


class _Layout:
    """Places in the figure, worked out in inches so that panels line up and text never meets them.

    The last column has the target with the text below it, the others an image with its maps below.
    """

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
        self.size = (
            self._column_left(_LAST) + self.text_width + self._left,
            self._top + 3 * self._row + 2 * self._row_gap + self._bottom,
        )

    def panel(self, row: int, column: int) -> tuple[float, float, float, float]:
        """Place of an image, centred in its cell."""
        cell = self.text_width if column == _LAST else self._column
        left = self._column_left(column) + (cell - self._panel[0]) / 2
        bottom = self._row_bottom(row) + (self._row - self._panel[1]) / 2
        return self._relative(left, bottom, *self._panel)

    def bar(self, row: int) -> tuple[float, float, float, float]:
        """Place of a row's colour bar, beside the last map."""
        left = self._column_left(_LAST - 1) + (self._column + self._panel[0]) / 2 + self._bar_gap
        height = max(self._panel[1], 1.0)
        bottom = self._row_bottom(row) + (self._row - height) / 2
        return self._relative(left, bottom, self._bar_width, height)

    def text(self) -> tuple[float, float, float, float]:
        """Place of table and notes: the last column of the second and third row."""
        return self._relative(self._column_left(_LAST), self._row_bottom(2), self.text_width, self.text_height)

    def _column_left(self, column: int) -> float:
        bar = self._bar_gap + self._bar_width + self._bar_label if column == _LAST else 0.0
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
    shapes |= {f"the map of the {kind}": maps[kind].ssim.shape for kind in _KINDS}
    for what, other in shapes.items():
        if other != shape:
            raise InvalidInputError(f"In the figure, {what} has shape {other} and the target {shape}.")


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
    right = {kind: width - 0.88 * (_LAST - 1 - i) for i, kind in enumerate(_KINDS)}
    for kind in _KINDS:
        heading = baseline if kind == "baseline" else kind.capitalize()
        axis.text(right[kind], 0, heading, ha="right", va="top", fontsize=9, fontweight="bold")
    axis.plot([0, width], [-0.2, -0.2], color=_GREY, linewidth=0.8)
    y = _write_rows(axis, _TABLE, {kind: scores[kind] for kind in _KINDS}, right, -0.27)
    if all(kind in inside for kind in _KINDS):
        axis.text(0, y - 0.04, "Inside the foreground", va="top", fontsize=9, fontweight="bold")
        y = _write_rows(axis, _INSIDE_TABLE, {kind: inside[kind] for kind in _KINDS}, right, y - 0.24)
    failure = scores["prediction"].failed
    if failure is not None:
        axis.text(0, y - 0.03, f"FAILED: {failure}", va="top", fontsize=10, fontweight="bold", color="#b2182b")
        y -= 0.25
    return y


def _write_rows(
    axis: Axes,
    rows: Sequence[tuple[str, str, Callable[[float], str]]],
    scores: Mapping[str, RestorationScore] | Mapping[str, RegionScore],
    right: Mapping[str, float],
    y: float,
) -> float:
    for label, field, written in rows:
        axis.text(0, y, label, ha="left", va="top", fontsize=9)
        for kind, score in scores.items():
            value = getattr(score, field)
            text = "none" if math.isnan(value) else written(value).replace("-", "−")
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
