"""The figure that shows the scores of all images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from parfocal.runtime.store.evaluations import Kind, Metric
from parfocal.runtime.store.scores import Scores

COLOURS: Final = {"input": "#999999", "baseline": "#E69F00", "prediction": "#0072B2"}
MARKERS: Final = {"input": "s", "baseline": "^", "prediction": "o"}
_MOST_PANELS: Final = 4


def scores_figure(scores: Scores, shown: Sequence[Metric], names: Mapping[Kind, str]) -> Figure:
    """Every image as a point for each kind, joined over the kinds; the bar is the median.

    Parameters
    ----------
    shown
        The metrics to draw, of which the first four are.
    names
        Names of the kinds, from left to right.
    """
    drawn = shown[:_MOST_PANELS]
    kinds = [kind for kind in names if kind in scores]
    figure = Figure(figsize=(2.6 * len(drawn) + 0.4, 3.3), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    for axis, metric in zip(np.ravel(figure.subplots(1, len(drawn))), drawn, strict=True):
        _draw_metric(axis, scores, kinds, metric.key)
        axis.set_title(metric.heading, fontsize=10)
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
