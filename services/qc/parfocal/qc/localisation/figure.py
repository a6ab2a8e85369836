"""Pictures of localisations: reconstructions, single frames with what was found in them, and the effect of density."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

from parfocal.qc.evaluation.words import worst_of
from parfocal.qc.figures.drawing import centre, draw_scale_bar, frame, shortened, show_grey
from parfocal.qc.figures.objects import COLOURS as OUTCOMES
from parfocal.qc.figures.scores import COLOURS
from parfocal.qc.metrics.images.reconstructions import mean_frame
from parfocal.qc.metrics.images.resolution import FRC_THRESHOLD, FourierCorrelation
from parfocal.qc.metrics.objects.localisations import FrameCounts
from parfocal.runtime.datasets.coordinates import Localisations
from parfocal.runtime.report.fonts import drawable

_SIDE: Final = 3.4
_ZOOM: Final = 32
"""Pixels of the camera along the side of the part in which single emitters are shown."""
_HOT: Final = "inferno"
_TITLES: Final = {"baseline": "fits of local maxima", "prediction": "prediction"}


def localisation_figure(
    stack: NDArray[Any],
    image: NDArray[Any],
    truth_image: NDArray[Any],
    truth: Localisations,
    found: Localisations,
    counts: FrameCounts,
    *,
    name: str,
    images: int,
    pixel_size: float | None,
) -> Figure:
    """Return mean frame, true and predicted image, and one frame with its true and false positives and false negatives.

    Parameters
    ----------
    stack
        Frames (T, Y, X), which need not be in memory.
    image, truth_image
        Super-resolved image and rendered truth, of one shape.
    truth, found, counts
        Emitters, localisations (both in camera pixels) and their pairs.
    name, images
        Name of the stack and number of stacks, for the title.
    pixel_size
        Side length of a camera pixel in micrometres, for the scale bar; None where it is unknown.
    """
    figure = Figure(figsize=(2 * _SIDE + 0.3, 2 * _SIDE + 1.4), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{drawable(shortened(name))} ({worst_of(images, 'efficiency')})", fontsize=12, parse_math=False)
    ((first, second), (third, fourth)) = figure.subplots(2, 2)
    mean = mean_frame(stack).astype(np.float32)
    height, width = mean.shape
    show_grey(first, mean)
    first.set_title("mean of the frames", fontsize=10)
    draw_scale_bar(first, width, height, pixel_size, max(height, width) / _SIDE)
    show_points(second, truth_image)
    second.set_title("true emitters", fontsize=10)
    show_points(third, image)
    third.set_title("prediction", fontsize=10)
    _show_frame(figure, fourth, stack, truth, found, counts)
    return figure


def show_points(axes: Axes, image: NDArray[Any]) -> None:
    """Show an image of points, which single bright pixels would leave black: blurred a little, with a root scale."""
    window = centre(*image.shape, largest=1024)
    values = ndimage.gaussian_filter(np.maximum(np.asarray(image[window], np.float32), 0), 1.0)
    top = float(np.percentile(values, 99.7)) or float(values.max()) or 1.0
    axes.imshow(np.sqrt(np.minimum(values / top, 1)), cmap=_HOT, vmin=0, vmax=1, interpolation="nearest")
    frame(axes)


def _show_frame(
    figure: Figure,
    axes: Axes,
    stack: NDArray[Any],
    truth: Localisations,
    found: Localisations,
    counts: FrameCounts,
) -> None:
    """Show a part of the frame with the most mistakes, with emitters and localisations by what became of them."""
    number = int(np.argmax(counts.fp + counts.fn))
    rows, columns = centre(*stack.shape[1:], largest=_ZOOM)
    show_grey(axes, np.asarray(stack[number])[rows, columns])
    here = counts.frame == number
    false_negatives = np.setdiff1d(np.flatnonzero(truth.frame == number), counts.true[here])
    false_positives = np.setdiff1d(np.flatnonzero(found.frame == number), counts.found[here])
    shown = (
        ("true positive", found, counts.found[here], OUTCOMES["true positive"], "o"),
        ("false negative", truth, false_negatives, OUTCOMES["false negative"], "x"),
        ("false positive", found, false_positives, OUTCOMES["false positive"], "+"),
    )
    for title, places, chosen, colour, marker in shown:
        # Pixels have their centre at whole numbers in the figure.
        x, y = places.x[chosen] - columns.start - 0.5, places.y[chosen] - rows.start - 0.5
        style: dict[str, Any] = {"facecolors": "none", "edgecolors": [colour]} if marker == "o" else {"c": [colour]}
        axes.scatter(x, y, s=22, marker=marker, linewidths=1.0, label=f"{title} ({len(chosen)})", **style)
    axes.set_xlim(-0.5, columns.stop - columns.start - 0.5)
    axes.set_ylim(rows.stop - rows.start - 0.5, -0.5)
    axes.set_title(f"frame {number + 1}, with the most mistakes", fontsize=10)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)


def density_figure(rows: dict[str, Sequence[dict[str, Any]]]) -> Figure:
    """Return Jaccard index and RMSE over the density of emitters, for each kind; see `by_density`."""
    figure = Figure(figsize=(8.4, 3.6), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for kind, table in rows.items():
        x = [(row["from_per_um2"] + row["to_per_um2"]) / 2 for row in table]
        for axes, metric in ((left, "jaccard"), (right, "rmse_nm")):
            values = [row.get(metric, np.nan) for row in table]
            axes.plot(x, values, marker="o", color=COLOURS[kind], label=_TITLES[kind])
    left.set_ylabel("Jaccard index")
    left.set_ylim(0, 1.02)
    right.set_ylabel("lateral RMSE (nm)")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.set_xlabel("true emitters per µm² around")
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, fontsize=9)
    return figure


def reconstruction_figure(
    mean: NDArray[Any],
    image: NDArray[Any],
    difference: NDArray[Any],
    curve: FourierCorrelation,
    fine_nm: float,
    *,
    name: str,
    images: int,
    pixel_size: float | None,
) -> Figure:
    """Return mean frame, image, map of differences, and the Fourier ring correlation of two halves of the frames.

    `fine_nm` is the size of the pixels that the curve was measured with.
    """
    figure = Figure(figsize=(2 * _SIDE + 1.0, 2 * _SIDE + 0.9), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{drawable(shortened(name))} ({worst_of(images, 'RSP')})", fontsize=12, parse_math=False)
    ((first, second), (third, fourth)) = figure.subplots(2, 2)
    height, width = mean.shape
    show_grey(first, mean)
    first.set_title("mean of the frames", fontsize=10)
    draw_scale_bar(first, width, height, pixel_size, max(height, width) / _SIDE)
    show_points(second, image)
    second.set_title("prediction", fontsize=10)
    drawn = third.imshow(difference, cmap="magma", vmin=0, interpolation="nearest")
    frame(third)
    third.set_title("difference once blurred again", fontsize=10)
    bar = figure.colorbar(drawn, ax=third, shrink=0.85)
    bar.set_label("grey values", fontsize=8)
    fourth.plot(curve.frequency / fine_nm * 1e3, curve.smoothed, color=COLOURS["prediction"])
    fourth.axhline(FRC_THRESHOLD, color="0.4", linestyle=":", linewidth=1)
    fourth.set_xlabel("spatial frequency (1/µm)")
    fourth.set_ylabel("Fourier ring correlation")
    fourth.set_ylim(-0.2, 1.02)
    fourth.spines[["top", "right"]].set_visible(False)
    fourth.set_title("two halves of the frames", fontsize=10)
    return figure
