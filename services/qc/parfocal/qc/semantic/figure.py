"""The picture of predicted classes and their mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from parfocal.qc.evaluation.words import worst_of
from parfocal.qc.figures.drawing import draw_scale_bar
from parfocal.qc.figures.objects import COLOURS, part_shown, picture
from parfocal.qc.metrics.objects.outcomes import ERROR_CODES as _OBJECT_CODES
from parfocal.qc.metrics.objects.outcomes import Outcome
from parfocal.qc.semantic.metrics import BY_KEY
from parfocal.runtime.methods.thresholds import THRESHOLDS
from parfocal.runtime.report.fonts import drawable

_OUTCOMES: Final[tuple[Outcome, ...]] = ("true positive", "false negative", "false positive")
ERROR_CODES: Final = {outcome: _OBJECT_CODES[outcome] for outcome in _OUTCOMES}
"""Values of an error map of pixels, the same as of objects; 0 is background."""
_MOST_WRITTEN: Final = 12


def semantic_figure(
    source: npt.NDArray[Any],
    mistakes: npt.NDArray[np.uint8],
    *,
    name: str,
    images: int,
    iou: float,
    curve: Sequence[float] | None,
    threshold: float,
    pixel_size: float | None = None,
    confusion: tuple[Sequence[str], npt.NDArray[np.int64]] | None = None,
) -> Figure:
    """Return input, true and false positives and negatives, and IoU over the threshold or the confusion of classes.

    Parameters
    ----------
    source
        Grey or colour image, of the spatial shape of `mistakes`, with channels first or colours last besides.
    mistakes
        Error map (Y, X) or (Z, Y, X); of a volume the plane with the most mistakes is shown.
    name, images
        Name of the image and number of test images, for the title.
    iou
        IoU of this image, 0 to 1.
    curve
        IoU over all test images at each of `THRESHOLDS`; None where masks were predicted.
    threshold
        Lowest probability that was taken for foreground.
    pixel_size
        Side length of a pixel in micrometres, for the scale bar; None where it is unknown.
    confusion
        For several classes: their names, and the number of pixels of all test images by class of target (rows) and
        prediction (columns).
    """
    plane = None
    if mistakes.ndim == 3:
        plane = int(np.argmax([np.count_nonzero(each > ERROR_CODES["true positive"]) for each in mistakes]))
    source, mistakes = part_shown(source, [mistakes], plane)
    panels = 2 if curve is None and confusion is None else 3
    side = 4.0
    height = side * float(np.clip(mistakes.shape[0] / mistakes.shape[1], 0.5, 1.6))
    figure = Figure(figsize=(panels * side, height + 1.1), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels)
    where = "" if plane is None else f", plane {plane}"
    title = f"{drawable(name)}{where} ({worst_of(images, 'IoU')})"
    figure.suptitle(title, fontsize=12, parse_math=False)
    axes[0].imshow(picture(source), interpolation="nearest")
    axes[0].set_title("input", fontsize=10)
    rows, columns = mistakes.shape
    draw_scale_bar(axes[0], columns, rows, pixel_size, max(columns / side, rows / height))
    # Grey, so that the colours are those of the legend whatever the colours of the image.
    coloured = 0.55 * np.repeat(picture(source).mean(axis=-1, keepdims=True), 3, axis=-1)
    for outcome, code in ERROR_CODES.items():
        coloured[mistakes == code] += 0.45 * np.array(COLOURS[outcome])
    axes[1].imshow(coloured, interpolation="nearest")
    what = "foreground, IoU" if confusion is None else "right and wrong class, mean IoU"
    axes[1].set_title(f"{what} {BY_KEY['iou'].number(iou)}", fontsize=10)
    for each in axes[:2]:
        each.set_axis_off()
    if curve is not None:
        _draw_curve(axes[2], curve, threshold)
    elif confusion is not None:
        _draw_confusion(axes[2], *confusion)
    handles = [Patch(color=COLOURS[outcome]) for outcome in ERROR_CODES]
    figure.legend(handles, list(ERROR_CODES), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _draw_curve(axes: Axes, curve: Sequence[float], threshold: float) -> None:
    axes.plot(THRESHOLDS, curve, color="#0072B2")
    axes.axvline(threshold, color="black", linewidth=0.9, linestyle=":")
    axes.annotate(f"applied: {threshold:g}", (threshold, 0.04), (4, 0), textcoords="offset points", fontsize=9)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("threshold of the probability")
    axes.set_ylabel("IoU over all test images")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("IoU over the threshold", fontsize=10)


def _draw_confusion(axes: Axes, names: Sequence[str], pixels: npt.NDArray[np.int64]) -> None:
    parts = pixels / np.maximum(pixels.sum(axis=1, keepdims=True), 1)
    axes.imshow(parts, cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
    size = float(np.clip(60 / len(names), 3, 9))
    axes.set_xticks(range(len(names)), names, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.set_xlabel("class of the prediction", fontsize=9)
    axes.set_ylabel("class of the target", fontsize=9)
    axes.set_title("pixels of all test images, in % of the row", fontsize=10)
    if len(names) <= _MOST_WRITTEN:
        for (row, column), part in np.ndenumerate(parts):
            colour = "white" if part < 0.5 else "black"
            axes.text(column, row, f"{100 * part:.0f}", color=colour, fontsize=size, ha="center", va="center")
