"""The scores of single images, read back from metrics.csv, and the figure that shows all of them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from parfocal.runtime.errors import InvalidInputError

Scores = Mapping[str, Mapping[str, Mapping[str, float]]]
"""By kind ("input", "baseline", "prediction"), image and metric: the value, averaged over the slices of a stack.

A metric is left out where an image does not have it, as a score inside the foreground of an empty field."""

COLOURS: Final = {"input": "#999999", "baseline": "#E69F00", "prediction": "#0072B2"}
MARKERS: Final = {"input": "s", "baseline": "^", "prediction": "o"}
_MOST_PANELS: Final = 4


def read_scores(path: Path, units: Mapping[str, str], metrics: Sequence[str]) -> Scores:
    """Read metrics.csv of any evaluation.

    Parameters
    ----------
    units
        By metric: the heading of its column.
    metrics
        The metrics wanted.

    Raises
    ------
    InvalidInputError
        A column is missing or a cell is no number; the message names them.
    """
    collected: dict[str, dict[str, dict[str, list[float]]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        for row in reader:
            values = collected.setdefault(row["kind"], {}).setdefault(row["image"], {})
            for metric in metrics:
                if row.get(units.get(metric, "")) == "":
                    continue  # this image has no such number
                try:
                    values.setdefault(metric, []).append(float(row[units[metric]]))
                except (KeyError, ValueError) as error:
                    raise InvalidInputError(
                        f"{path.name}, line {reader.line_num}: the column {units.get(metric, metric)!r} is missing or "
                        "holds no number."
                    ) from error
    return {
        kind: {
            image: {metric: float(np.mean(numbers)) for metric, numbers in by_metric.items()}
            for image, by_metric in images.items()
        }
        for kind, images in collected.items()
    }


def scores_figure(scores: Scores, shown: Mapping[str, str], names: Mapping[str, str]) -> Figure:
    """Every image as a point for each kind, joined over the kinds; the bar is the median.

    Parameters
    ----------
    shown
        The metrics to draw, at most four of them, and what they are called.
    names
        What the kinds are called, in the order from left to right.
    """
    drawn = list(shown.items())[:_MOST_PANELS]
    kinds = [kind for kind in names if kind in scores]
    figure = Figure(figsize=(2.6 * len(drawn) + 0.4, 3.3), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    for axis, (metric, title) in zip(np.ravel(figure.subplots(1, len(drawn))), drawn, strict=True):
        _draw_metric(axis, scores, kinds, metric)
        axis.set_title(title, fontsize=10)
        axis.set_xticks(range(len(kinds)), [names[kind] for kind in kinds], fontsize=8, rotation=20)
        axis.tick_params(axis="y", labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_metric(axis: Axes, scores: Scores, kinds: Sequence[str], metric: str) -> None:
    images = [image for image, values in scores[kinds[0]].items() if metric in values]
    values = np.array([[scores[kind][image].get(metric, np.nan) for image in images] for kind in kinds])
    faint = min(1.0, 8 / len(images))
    # The same shift for an image in every kind, so that the lines do not cross more than the scores do.
    shift = np.linspace(-0.12, 0.12, len(images)) if len(images) > 1 else np.zeros(1)
    for column, offset in enumerate(shift):
        axis.plot(np.arange(len(kinds)) + offset, values[:, column], color="#bbbbbb", lw=0.6, alpha=faint, zorder=1)
    for place, kind in enumerate(kinds):
        axis.scatter(place + shift, values[place], s=14, color=COLOURS[kind], marker=MARKERS[kind], lw=0, zorder=2)
        axis.hlines(np.nanmedian(values[place]), place - 0.28, place + 0.28, color="black", lw=1.4, zorder=3)
    axis.set_xlim(-0.5, len(kinds) - 0.5)
