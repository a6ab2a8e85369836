"""Pictures of detections: boxes by what became of them, curves, and the agreement of counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from parfocal.qc.detection.metrics import BY_KEY
from parfocal.qc.detection.scoring import Totals
from parfocal.qc.evaluation.words import worst_of
from parfocal.qc.figures.confusion import draw_confusion
from parfocal.qc.figures.drawing import draw_scale_bar, shortened
from parfocal.qc.figures.objects import COLOURS, picture, window_shown
from parfocal.qc.metrics.objects.agreement import Agreement
from parfocal.qc.metrics.objects.detections import BoxOutcomes
from parfocal.qc.metrics.objects.instances import Counts
from parfocal.runtime.datasets.boxes import Boxes
from parfocal.runtime.methods.outputs import Detections
from parfocal.runtime.report.fonts import drawable

_TALLEST: Final = 3.0
_GREY: Final = "0.35"
_MOST_CURVES: Final = 6
_MOST_NAMED: Final = 40
# Okabe and Ito's palette, which can be told apart with any colour vision.
_CURVES: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
FALSE_POSITIVE: Final = "false positive"
FALSE_NEGATIVE: Final = "false negative"
TRUE_POSITIVE: Final = "true positive"
WRONG_CLASS: Final = "wrong class"


@dataclass(frozen=True)
class Layer:
    """The boxes of one outcome.

    Attributes
    ----------
    title
        The outcome.
    corners
        float32 (N, 4): [y0, x0, y1, x1] in pixels.
    colour, line
        Colour and style of the lines; boxes that only the annotation has are dashed.
    texts
        Text at each box; empty for none.
    """

    title: str
    corners: npt.NDArray[np.float32]
    colour: tuple[float, float, float]
    line: Literal["-", "--"] = "-"
    texts: tuple[str, ...] = ()


def layers(truth: Boxes, found: Detections, outcome: BoxOutcomes, names: Sequence[str]) -> tuple[Layer, ...]:
    """Return the boxes of one image by outcome, in the order of drawing: mistakes come last, over the others."""
    short = [_class_name(name, 16) for name in names]
    wrong = tuple(
        f"{short[truth.classes[mine]]} → {short[found.classes[given]]}" for mine, given in outcome.wrong_class.tolist()
    )
    return (
        Layer(TRUE_POSITIVE, found.corners[outcome.true_positives[:, 1]], COLOURS["true positive"]),
        Layer(FALSE_POSITIVE, found.corners[outcome.false_positives], COLOURS["false positive"]),
        Layer(FALSE_NEGATIVE, truth.corners[outcome.false_negatives], COLOURS["false negative"], "--"),
        Layer(WRONG_CLASS, found.corners[outcome.wrong_class[:, 1]], COLOURS["split"], "-", wrong),
    )


def overlay_figure(
    source: npt.NDArray[Any],
    shown: Sequence[Layer],
    counts: Counts,
    *,
    name: str,
    plane: tuple[int, int],
    pixel_size: float | None = None,
) -> Figure:
    """Return one image with its boxes, coloured by what became of them.

    Parameters
    ----------
    source
        Grey or colour image, with channels first or colours last besides (Y, X).
    shown
        Boxes of the image by outcome.
    counts
        Counts over all classes.
    name
        Name of the image, for the title.
    plane
        (Y, X) of the image in pixels.
    pixel_size
        Along X in micrometres, for the scale bar; None where it is unknown.
    """
    window = window_shown(plane)
    rows, columns = (part.stop - part.start for part in window)
    # Laid out by hand: there is one for every image, and an automatic layout takes three times as long.
    width, head, foot = 6.4, 0.35, 0.35
    height = width * float(np.clip(rows / columns, 0.25, _TALLEST)) + head + foot
    figure = Figure(figsize=(width, height), dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, foot / height, 1.0, 1 - (head + foot) / height))
    draw_boxes(axes, source, shown, window)
    draw_scale_bar(axes, columns, rows, pixel_size, max(columns / width, rows / (height - head - foot)))
    axes.set_title(f"{drawable(shortened(name, 40))}: {in_words(counts)}", fontsize=10, parse_math=False)
    _legend(figure, shown, "lower center")
    return figure


def detection_figure(
    source: npt.NDArray[Any],
    shown: Sequence[Layer],
    counts: Counts,
    *,
    name: str,
    images: int,
    plane: tuple[int, int],
    pixel_size: float | None = None,
) -> Figure:
    """Return an image, and beside it the same with its boxes; see `overlay_figure`. `images` is the number of all."""
    window = window_shown(plane)
    rows, columns = (part.stop - part.start for part in window)
    side = 4.8
    height = side * float(np.clip(rows / columns, 0.4, 1.6))
    figure = Figure(figsize=(2 * side + 0.2, height + 1.2), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    figure.suptitle(f"{drawable(shortened(name))} ({worst_of(images, 'F1')})", fontsize=12, parse_math=False)
    draw_boxes(left, source, (), window)
    left.set_title("input", fontsize=10)
    draw_scale_bar(left, columns, rows, pixel_size, max(columns / side, rows / height))
    draw_boxes(right, source, shown, window)
    right.set_title(f"F1 {BY_KEY['f1'].number(counts.f1)}: {in_words(counts)}", fontsize=10)
    _legend(figure, shown, "outside lower center")
    return figure


def draw_boxes(
    axes: Axes, source: npt.NDArray[Any], shown: Sequence[Layer], window: tuple[slice, ...], *, width: float = 1.4
) -> None:
    """Draw a part of an image (Y, X) and the boxes in it; `width` is that of lines in points."""
    in_front = source.ndim > 2 and source.shape[-1] not in (3, 4)
    part = source[(slice(None), *window)].mean(axis=0) if in_front else source[window]
    axes.imshow(picture(part), interpolation="nearest")
    top, left = window[0].start, window[1].start
    for layer in shown:
        for place, (y0, x0, y1, x1) in enumerate(layer.corners.tolist()):
            # Of a large image most are not.
            if y1 < top or x1 < left or y0 > window[0].stop or x0 > window[1].stop:
                continue
            # Pixels have their centre at whole numbers in the figure, and boxes lie between pixels.
            x, y = x0 - left - 0.5, y0 - top - 0.5
            box = Rectangle((x, y), x1 - x0, y1 - y0, fill=False, edgecolor=layer.colour, linestyle=layer.line)
            box.set_linewidth(width)
            axes.add_patch(box)
            if place < len(layer.texts) and place < _MOST_NAMED:
                _name(axes, x, y, y + y1 - y0, layer.texts[place])
    axes.set_xlim(-0.5, window[1].stop - left - 0.5)
    axes.set_ylim(window[0].stop - top - 0.5, -0.5)
    axes.set_axis_off()


def in_words(counts: Counts) -> str:
    """Return the numbers of true positives, false negatives and false positives."""
    return f"{counts.tp} TP, {counts.fn} FN, {counts.fp} FP"


def curves_figure(totals: Totals, level: float, confidence: float) -> Figure:
    """Return precision over recall of the classes with the most boxes, and what the confidence asked for changes.

    Parameters
    ----------
    totals
        All images together.
    level, confidence
        IoU level and lowest confidence of a true positive.
    """
    figure = Figure(figsize=(10.4, 4.4), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _precision_over_recall(left, totals, level)
    left.set_title(f"Precision over recall at IoU {level:g}", fontsize=11)
    _over_confidence(right, totals, confidence)
    right.set_title("All classes, by the lowest confidence", fontsize=11)
    return figure


def counts_figure(predicted: npt.NDArray[np.int64], annotated: npt.NDArray[np.int64], agreement: Agreement) -> Figure:
    """Return the Bland-Altman plot of counts: difference over mean, with bias and limits of agreement.

    Parameters
    ----------
    predicted, annotated
        (images,): number of objects.
    agreement
        Agreement of the two numbers.
    """
    figure = Figure(figsize=(6.4, 4.2), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    points, times = np.unique(
        np.column_stack([(predicted + annotated) / 2, predicted - annotated]), axis=0, return_counts=True
    )
    # Whole numbers coincide: an image more makes the point larger.
    axes.scatter(points[:, 0], points[:, 1], s=28 * times, color="#0072B2", alpha=0.75, linewidth=0, zorder=3)
    axes.axhline(0, color="0.8", linewidth=0.8, zorder=1)
    lines = [("mean", agreement.bias, agreement.bias_interval, "-")]
    if agreement.lower is not None and agreement.upper is not None:
        lines.append(("mean − 1.96 SD", agreement.lower, agreement.lower_interval, "--"))
        lines.append(("mean + 1.96 SD", agreement.upper, agreement.upper_interval, "--"))
    for title, value, interval, style in lines:
        axes.axhline(value, color="black", linewidth=1.1, linestyle=style, zorder=2)
        if interval is not None:
            axes.axhspan(*interval, color="#0072B2" if style == "-" else "#999999", alpha=0.15, linewidth=0, zorder=0)
        axes.annotate(
            f"{title}:\n{value:+.1f}".replace("-", "−"),
            (1, value),
            (4, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            fontsize=9,
            va="center",
        )
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("mean of predicted and annotated number of objects")
    axes.set_ylabel("predicted minus annotated")
    axes.spines[["top", "right"]].set_visible(False)
    shaded = "; shaded: 95 % intervals" if agreement.bias_interval is not None else ""
    axes.set_title(f"Agreement of counts{shaded}", fontsize=11)
    return figure


def confusion_figure(totals: Totals) -> Figure:
    """Return the table of which class was taken for which, over all images."""
    names = [_class_name(name, 20) for name in totals.names]
    size = float(np.clip(0.75 * (len(names) + 1), 3.6, 9))
    figure = Figure(figsize=(size + 1.6, size + 0.6), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    draw_confusion(axes, [*names, FALSE_POSITIVE], [*names, FALSE_NEGATIVE], totals.confusion)
    axes.set_title("Which class was taken for which", fontsize=11)
    return figure


def _precision_over_recall(axes: Axes, totals: Totals, level: float) -> None:
    annotated = totals.annotated
    shown = [number for number in np.argsort(-annotated, kind="stable").tolist() if annotated[number]]
    for number, colour in zip(shown[:_MOST_CURVES], _CURVES, strict=False):
        _, found, false_positives = totals.rankings[number].curve()
        recall, precision = found / annotated[number], found / np.maximum(found + false_positives, 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        name = _class_name(totals.names[number], 24)
        value = totals.class_precision(number, level)
        # A step for each recall that is reached, down to 0 beyond the last one: the area is AP.
        axes.step(
            [0, *recall, *recall[-1:]], [*envelope[:1], *envelope, 0], color=colour, label=f"{name}: AP {value:.3f}"
        )
        axes.plot(recall, precision, color=colour, linewidth=0.7, alpha=0.45)
        counts = totals.counts["prediction"][number]
        if counts.tp + counts.fp:
            axes.plot(counts.recall, counts.precision, "o", color=colour, markersize=6, clip_on=False, zorder=3)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    handles.append(Line2D([], [], color=_GREY, marker="o", linestyle=""))
    labels.append("counted in the verdict")
    if len(shown) > _MOST_CURVES:
        handles.append(Line2D([], [], linestyle=""))
        labels.append(f"and {len(shown) - _MOST_CURVES} rarer classes")
    axes.legend(handles, labels, frameon=False, fontsize=8, loc="lower left")


def _over_confidence(axes: Axes, totals: Totals, confidence: float) -> None:
    ranking = totals.rankings[-1]
    least, found, false_positives = ranking.curve()
    if least.size and ranking.positives:
        curves = {
            "F1": 2 * found / (found + false_positives + ranking.positives),
            "precision": found / (found + false_positives),
            "recall": found / ranking.positives,
        }
        # What a confidence leaves changes just above that of each detection.
        for (name, values), colour, width in zip(curves.items(), _CURVES, (2.0, 1.1, 1.1), strict=False):
            axes.step([*least, 0], [*values, values[-1]], color=colour, linewidth=width, where="post", label=name)
        axes.legend(frameon=False, fontsize=8, loc="lower left")
    if confidence:
        axes.axvline(confidence, color="black", linewidth=0.9, linestyle=":")
        axes.annotate(
            f"counted: {confidence:g} and more",
            (confidence, 1.0),
            (4, 0),
            textcoords="offset points",
            fontsize=8,
            va="bottom",
            color=_GREY,
        )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.08)
    axes.set_xlabel("least confidence of a detection")
    axes.spines[["top", "right"]].set_visible(False)


def _name(axes: Axes, x: float, top: float, bottom: float, text: str) -> None:
    """Write what was taken for what over a box, or below it at the upper edge of the image."""
    above = top > 0.06 * math.fabs(axes.get_ylim()[0] - axes.get_ylim()[1])
    axes.text(
        x,
        top if above else bottom,
        text,
        color="white",
        fontsize=6,
        va="bottom" if above else "top",
        bbox={"facecolor": "black", "alpha": 0.65, "linewidth": 0, "pad": 1.0},
        clip_on=True,
        zorder=2.5,
    )


def _class_name(name: str, longest: int) -> str:
    """Return the name of a class as it is drawn: dollars are no formulas."""
    return drawable(shortened(name, longest)).replace("$", r"\$")


def _legend(figure: Figure, shown: Sequence[Layer], place: Literal["lower center", "outside lower center"]) -> None:
    present = [layer for layer in shown if layer.title != WRONG_CLASS or len(layer.corners)]
    handles = [Line2D([], [], color=layer.colour, linewidth=2.4, linestyle=layer.line) for layer in present]
    # Of a wrong class an object was not found and the detection is false: both numbers have it.
    titles = [f"{layer.title}: FN and FP" if layer.title == WRONG_CLASS else layer.title for layer in present]
    names = [f"{title} ({len(layer.corners)})" for title, layer in zip(titles, present, strict=True)]
    figure.legend(handles, names, loc=place, ncols=4, frameon=False, fontsize=8.5, handlelength=1.8, columnspacing=1.4)
