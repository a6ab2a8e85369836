"""The picture of objects with right and wrong classes, and of which class was taken for which."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from parfocal.qc.figures.confusion import draw_confusion
from parfocal.qc.figures.drawing import draw_scale_bar, shortened
from parfocal.qc.figures.objects import draw_outlines, part_shown
from parfocal.qc.instances.classes import NO_CLASS_NAME, ObjectClasses, confusion
from parfocal.qc.metrics.objects.classes import NO_CLASS, ClassCounts
from parfocal.qc.metrics.objects.instances import Matches
from parfocal.runtime.report.fonts import drawable

# Of Okabe and Ito's palette, which can be told apart with any colour vision.
_RIGHT: Final = (0.34, 0.71, 0.91)
_WRONG: Final = (0.84, 0.37, 0.0)
_UNKNOWN: Final = (0.6, 0.6, 0.6)
_SIDE: Final = 4.4
_MOST_MARKED: Final = 60


def class_figure(
    source: npt.NDArray[Any],
    prediction: npt.NDArray[Any],
    matches: Matches,
    classes: ObjectClasses,
    pooled: ClassCounts,
    *,
    name: str,
    images: int,
    pixel_size: float | None = None,
) -> Figure:
    """Return the found objects of one image, outlined by whether their class is right, and the table of all images.

    Parameters
    ----------
    source, prediction
        Source and prediction as in `parfocal.qc.instances.figure.overlay_figure`; of a volume, the plane with the most
        pixels of objects of the wrong class is shown.
    matches, classes
        Matched objects of the image, and their classes.
    pooled
        Over all images.
    name, images
        Name of the image and number of images, for the titles.
    pixel_size
        Side length of a pixel in micrometres, for the scale bar; None where it is unknown.
    """
    found = {theirs: (classes.target[mine], classes.prediction[theirs]) for mine, theirs, _ in matches.pairs}
    right = [label for label, (mine, given) in found.items() if mine == given != NO_CLASS]
    wrong = [label for label, (mine, given) in found.items() if mine not in {given, NO_CLASS}]
    unknown = [label for label, (mine, _) in found.items() if mine == NO_CLASS]
    plane = _plane(prediction, wrong or right)
    source, prediction = part_shown(source, [prediction], plane)
    rows, columns = prediction.shape
    height = _SIDE * float(np.clip(rows / columns, 0.7, 1.6))
    figure = Figure(figsize=(2 * _SIDE + 0.9, height + 1.3), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    left, table = figure.subplots(1, 2)
    draw_outlines(
        left, source, [(prediction, unknown, _UNKNOWN), (prediction, right, _RIGHT), (prediction, wrong, _WRONG)]
    )
    draw_scale_bar(left, columns, rows, pixel_size, max(columns / _SIDE, rows / height))
    for label in wrong[:_MOST_MARKED]:
        _mark(left, prediction == label, " → ".join(_class_name(each) for each in found[label]))
    where = "" if plane is None else f", plane {plane}"
    counts = classes.counts
    title = f"{drawable(shortened(name, 40))}{where}\nright class: {counts.right} of {counts.known} found objects"
    left.set_title(title, fontsize=10, parse_math=False)
    _draw_table(table, pooled, images)
    drawn = {"right class": (_RIGHT, right), "wrong class (drawn → predicted)": (_WRONG, wrong)}
    if unknown:
        drawn["class not known"] = (_UNKNOWN, unknown)
    handles = [Line2D([], [], color=colour, linewidth=3) for colour, _ in drawn.values()]
    names = [f"{what} ({len(labels)})" for what, (_, labels) in drawn.items()]
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False, fontsize=9, handlelength=1.2)
    return figure


def _plane(prediction: npt.NDArray[Any], labels: list[int]) -> int | None:
    if prediction.ndim == 2:
        return None
    shown = np.isin(prediction, labels) if labels else prediction > 0
    return int(np.argmax(shown.sum(axis=(1, 2))))


def _class_name(number: int) -> str:
    return NO_CLASS_NAME if number == NO_CLASS else str(number)


def _mark(axes: Axes, mask: npt.NDArray[np.bool_], text: str) -> None:
    """Write what was taken for what over an object, or below it at the upper edge, if it is in the part shown."""
    rows, columns = np.nonzero(mask)
    if not rows.size:
        return
    above = bool(rows.min() > 0.06 * len(mask))
    axes.text(
        float(columns.mean()),
        float(rows.min()) - 1 if above else float(rows.max()) + 2,
        text,
        color="white",
        fontsize=7,
        ha="center",
        va="bottom" if above else "top",
        bbox={"facecolor": "black", "alpha": 0.65, "linewidth": 0, "pad": 1.0},
        clip_on=True,
        zorder=0.5,  # below the scale bar
    )


def _draw_table(axes: Axes, counts: ClassCounts, images: int) -> None:
    names, columns, table = confusion(counts)
    draw_confusion(axes, names, columns, table)
    many = f"all {images} images with classes" if images > 1 else "the only image with classes"
    accuracy = "" if counts.accuracy is None else f"\nright class: {counts.right} of {counts.known} found objects"
    axes.set_title(f"{many}{accuracy}", fontsize=10)
