"""Pictures of found objects and of the mistakes among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from parfocal.qc.evaluation.words import count, worst_of
from parfocal.qc.figures.drawing import draw_scale_bar
from parfocal.qc.figures.objects import COLOURS, draw_mistakes, draw_outlines, part_shown, picture, plane_shown
from parfocal.qc.instances.metrics import BY_KEY
from parfocal.qc.metrics.objects.instances import Counts, InstanceScore, Matches
from parfocal.qc.metrics.objects.outcomes import outcome_layers
from parfocal.runtime.report.fonts import drawable

_TALLEST: Final = 3.0
_GREY: Final = "0.35"


def overlay_figure(
    source: npt.NDArray[Any],
    target: npt.NDArray[Any],
    prediction: npt.NDArray[Any],
    score: InstanceScore,
    matches: Matches,
    *,
    name: str,
    pixel_size: float | None = None,
) -> Figure:
    """Return one image with the outlines of its objects, coloured by what became of them.

    Parameters
    ----------
    source
        Grey or colour image, of the spatial shape of the label images, with channels first or colours last besides.
    target, prediction
        Label images (Y, X) or (Z, Y, X); of a volume the plane with the most false negatives and false positives is
        shown.
    score, matches
        Score and matches of the two label images.
    name
        Name of the image, for the title.
    pixel_size
        Side length of a pixel in micrometres, for the scale bar; None where it is unknown.
    """
    plane = plane_shown(target, prediction, matches)
    source, target, prediction = part_shown(source, [target, prediction], plane)
    # Laid out by hand: there is one for every image, and an automatic layout takes three times as long.
    width, head, foot = 6.4, 0.35, 0.35
    height = width * float(np.clip(target.shape[0] / target.shape[1], 0.25, _TALLEST)) + head + foot
    figure = Figure(figsize=(width, height), dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, foot / height, 1.0, 1 - (head + foot) / height))
    draw_mistakes(axes, source, target, prediction, score, matches)
    rows, columns = target.shape
    draw_scale_bar(axes, columns, rows, pixel_size, max(columns / width, rows / (height - head - foot)))
    where = "" if plane is None else f", plane {plane}"
    title = f"{drawable(name)}{where}: {in_words(score, matches)}"
    axes.set_title(title, fontsize=10, parse_math=False)
    _legend(figure, score, matches)
    return figure


def instance_figure(
    source: npt.NDArray[Any],
    target: npt.NDArray[Any],
    prediction: npt.NDArray[Any],
    *,
    score: InstanceScore,
    matches: Matches,
    level: float,
    pooled: Mapping[str, Mapping[float, Counts]],
    name: str,
    images: int,
    pixel_size: float | None = None,
) -> Figure:
    """Return input, target, mistakes and the curves of F1 over the IoU level; see `overlay_figure`.

    Parameters
    ----------
    level
        The IoU level of `matches`.
    pooled
        By kind and IoU level: counts over all images.
    images
        Number of test images.
    """
    plane = plane_shown(target, prediction, matches)
    source, target, prediction = part_shown(source, [target, prediction], plane)
    side = 4.2
    height = side * np.clip(target.shape[0] / target.shape[1], 0.5, 1.6)
    figure = Figure(figsize=(2 * side + 0.4, 2 * height + 1.5), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    ((first, second), (third, fourth)) = figure.subplots(2, 2)
    where = "" if plane is None else f", plane {plane}"
    title = f"{drawable(name)}{where} ({worst_of(images, 'F1')})"
    figure.suptitle(title, fontsize=12, parse_math=False)
    _show(first, source, "input")
    rows, columns = target.shape
    draw_scale_bar(first, columns, rows, pixel_size, max(columns / side, rows / height))
    draw_outlines(second, source, [(target, np.unique(target)[1:], (1.0, 1.0, 1.0))])
    second.set_title(f"target: {len(np.unique(target[target > 0]))} objects", fontsize=10)
    draw_mistakes(third, source, target, prediction, score, matches)
    # In two lines: one is wider than the panel where objects are split and merged.
    third.set_title(f"F1 {BY_KEY['f1'].number(matches.counts.f1)}\n{in_words(score, matches)}", fontsize=9)
    _curves(fourth, pooled, level)
    _legend(figure, score, matches)
    return figure


def in_words(score: InstanceScore, matches: Matches) -> str:
    """Return the numbers of true positives, false negatives (and split ones) and false positives (and merged ones)."""
    counts = matches.counts
    split = len({*score.split} & {*matches.false_negatives})
    merged = len({*score.merged} & {*matches.false_positives})
    negatives = count(counts.fn, "false negative") + (f" ({split} split)" if split else "")
    positives = count(counts.fp, "false positive") + (f" ({merged} merged)" if merged else "")
    return f"{count(counts.tp, 'true positive')}, {negatives}, {positives}"


def _curves(axes: Axes, pooled: Mapping[str, Mapping[float, Counts]], level: float) -> None:
    for kind, title, colour, style in (
        ("prediction", "prediction", "#0072B2", "-"),
        ("baseline", "Otsu threshold", "#555555", "--"),
    ):
        levels = sorted(pooled[kind])
        axes.plot(levels, [pooled[kind][each].f1 for each in levels], style, color=colour, marker=".", label=title)
    axes.axvline(level, color=_GREY, linewidth=0.8, linestyle=":")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("IoU from which a pair counts as found")
    axes.set_ylabel("F1 over all test images")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(
        f"F1 {BY_KEY['f1'].number(pooled['prediction'][level].f1)} at IoU {level:g}, over all images", fontsize=10
    )
    axes.legend(frameon=False, fontsize=9, loc="lower left")


def _show(axes: Axes, source: npt.NDArray[Any], title: str) -> None:
    axes.imshow(picture(source), interpolation="nearest")
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()


def _legend(figure: Figure, score: InstanceScore, matches: Matches) -> None:
    layers = outcome_layers(score, matches)
    handles = [Line2D([], [], color=COLOURS[layer.outcome], linewidth=3) for layer in layers]
    names = [f"{layer.outcome} ({len(layer.ids)})" for layer in layers]
    style: dict[str, Any] = {"ncols": 5, "frameon": False, "fontsize": 9, "handlelength": 1.2}
    if figure.get_layout_engine() is None:
        figure.legend(handles, names, loc="lower center", **style)
    else:
        figure.legend(handles, names, loc="outside lower center", **style)
