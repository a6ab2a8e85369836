"""Pictures of a comparison: all scores beside each other, and what the models made of the best and the worst image."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from parfocal.qc.comparison.candidates import Candidate, TargetScores
from parfocal.qc.figures.drawing import LARGEST_SHOWN, centre, draw_scale_bar, shortened, show_grey
from parfocal.runtime.images.scratch import release
from parfocal.runtime.report.fonts import drawable

# Okabe and Ito's palette, which can be told apart with any colour vision; references are grey.
_MODEL_COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_REFERENCE_COLOUR: Final = "#777777"
_GREY: Final = "0.35"
# With more images lines hide the boxes.
_MOST_LINES: Final = 60
_SIDE: Final = 3.0


@dataclass(frozen=True)
class Shown:
    """One image as it is shown: its name, what is said of it, its pixels, and each model's prediction with its score.

    Attributes
    ----------
    source
        Pixels, with channels perhaps.
    target
        Read from the dataset: pixels, or boxes.
    predictions
        The same by name of the model.
    captions
        By name of the model: its score as a short text.
    pixel_size
        Side length of a pixel in micrometres; None where it is unknown.
    """

    name: str
    what: str
    source: npt.NDArray[Any]
    target: Any
    predictions: Mapping[str, Any]
    captions: Mapping[str, str]
    pixel_size: float | None


def scores_figure(scores: Sequence[TargetScores], candidates: Sequence[Candidate]) -> Figure:
    """Box plots of all candidates with every image as a point; a row for each target, a column for each metric.

    Lines join the scores of one image, as long as there are few enough to follow.
    """
    metrics = list(scores[0].scores)
    # Baselines first, then the models.
    candidates = sorted(candidates, key=lambda each: ("input", "baseline", "model").index(each.kind))
    names = [each.name for each in candidates]
    labels = [textwrap.fill(drawable(shortened(name, 40)), 16) for name in names]
    lines = max(label.count("\n") for label in labels) + 1
    # Labels lie side by side where they fit, else they are turned.
    room = max(4.2, 0.9 + 1.25 * len(names))
    size = (room * len(metrics), (3.9 + 0.15 * lines) * len(scores) + 0.75)
    figure = Figure(figsize=size, dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(scores), len(metrics), squeeze=False)
    for row, target in enumerate(scores):
        for column, metric in enumerate(metrics):
            axes = panels[row][column]
            _boxes(axes, [target.scores[metric][name] for name in names], candidates)
            axes.set_xticks(range(len(names)), labels, fontsize=9)
            described = target.metrics[metric]
            lower = " (lower is better)" if described.better == "lower" else ""
            axes.set_ylabel(f"{described.heading}{lower}")
            axes.set_title(drawable(shortened(target.target)) if len(scores) > 1 else "", fontsize=11)
    count = len(scores[0].images)
    lined = ", grey lines join the same image" if count <= _MOST_LINES else ""
    figure.suptitle(f"{count} test image{'' if count == 1 else 's'}", fontsize=12)
    figure.supxlabel(
        f"Each point is one image{lined}.\nBoxes: quartiles and median; diamonds: mean; "
        "whiskers: the most\ndistant image within 1.5 times the height of the box.",
        fontsize=8,
        color=_GREY,
    )
    return figure


class DrawImages(Protocol):
    """Draws the best and the worst image of a comparison; `parameters` are those of the evaluations."""

    def __call__(self, images: Sequence[Shown], parameters: Mapping[str, Any], *, title: str) -> Figure: ...  # noqa: D102


def images_figure(images: Sequence[Shown], parameters: Mapping[str, Any], *, title: str) -> Figure:  # noqa: ARG001
    """Source, target and each model's prediction with its score; a row for each image.

    Every panel is shown between its own 0.1 and 99.9 percentiles. Of large images the centre is shown, of volumes the
    plane whose target varies most.
    """
    figure, panels, side = new_panels(images, title)
    for row, image in zip(panels, images, strict=True):
        plane = None
        if image.target.ndim == 3:
            plane = int(np.argmax([_spread(each) for each in image.target]))
        source = image.source
        coloured = source.ndim > image.target.ndim and source.shape[-1] in (3, 4)
        if source.ndim > image.target.ndim and not coloured:  # the middle one of channels or of a focus series
            source = source[source.shape[0] // 2]
        pixels = {"source": source, "target": image.target, **image.predictions}
        window = centre(*image.target.shape[-2:])
        for axes, (name, values) in zip(row, pixels.items(), strict=True):
            part = (values if plane is None else values[plane])[window]
            show_grey(axes, part.mean(axis=-1) if coloured and name == "source" else part)
            entitle(axes, name, image.captions.get(name, ""))
        label_row(row[0], image, plane)
        height, width = (part.stop - part.start for part in window)
        draw_scale_bar(row[0], width, height, image.pixel_size, max(height, width) / side)
    return figure


def _spread(plane: npt.NDArray[Any]) -> float:
    """Return the standard deviation of a plane, which need not be in memory."""
    spread = float(plane.std(dtype=np.float64))
    release(plane)
    return spread


def _boxes(axes: Axes, columns: Sequence[npt.NDArray[np.float64]], candidates: Sequence[Candidate]) -> None:
    places = np.arange(len(columns))
    if columns[0].size <= _MOST_LINES:
        axes.plot(places, np.array(columns), color="0.75", linewidth=0.7, zorder=1)
    models = 0
    for place, values, candidate in zip(places, columns, candidates, strict=True):
        colour = _REFERENCE_COLOUR
        if candidate.kind == "model":
            colour = _MODEL_COLOURS[models % len(_MODEL_COLOURS)]
            models += 1
        line = {"color": colour, "linewidth": 1.4}
        axes.boxplot(
            values,
            positions=[place],
            widths=0.5,
            showfliers=False,
            boxprops=line,
            whiskerprops=line,
            capprops=line,
            medianprops={**line, "linewidth": 2.4},
            zorder=3,
        )
        # Beside each other where lines do not show which belong together.
        spread = np.linspace(-0.18, 0.18, 7)[np.arange(values.size) % 7] if values.size > _MOST_LINES else 0.0
        axes.scatter(
            np.full(values.size, float(place)) + spread,
            values,
            s=22,
            color=colour,
            edgecolors="white",
            linewidth=0.5,
            zorder=4,
        )
        axes.scatter(place + 0.36, values.mean(), s=36, marker="D", facecolor="white", edgecolor=colour, zorder=4)
    axes.set_xlim(-0.6, len(columns) - 0.4)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)


def new_panels(
    images: Sequence[Shown], title: str, planes: Sequence[tuple[int, ...]] = ()
) -> tuple[Figure, npt.NDArray[np.object_], float]:
    """Return a figure with a panel for source, target and every model of each image, and the inches of a panel.

    `planes` are the sizes of the images (Y, X), by default those of their targets.
    """
    known = planes or [image.target.shape[-2:] for image in images]
    shapes = [[min(length, LARGEST_SHOWN) for length in shape] for shape in known]
    tallest = max(min(height / width, 2.0) for height, width in shapes)
    columns = 2 + len(images[0].predictions)
    figure = Figure(figsize=(_SIDE * columns, (_SIDE * tallest + 0.6) * len(images) + 0.4), dpi=140)
    figure.set_layout_engine("constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(drawable(title), fontsize=12, parse_math=False)
    return figure, figure.subplots(len(images), columns, squeeze=False), _SIDE


def entitle(axes: Axes, name: str, caption: str) -> None:
    """Write the name of a panel and, below it, what is said of it."""
    text = drawable(shortened(name, 36))
    axes.set_title(f"{text}\n{caption}" if caption else text, fontsize=9, parse_math=False)


def label_row(axes: Axes, image: Shown, plane: int | None) -> None:
    """Write beside the first panel of a row which image it is."""
    where = "" if plane is None else f", plane {plane}"
    text = "\n".join(textwrap.wrap(f"{image.what}: {drawable(shortened(image.name))}{where}", 32))
    axes.set_ylabel(text, fontsize=9, fontweight="bold", parse_math=False)
