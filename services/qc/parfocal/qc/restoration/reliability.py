"""Whether a model's own uncertainty can be believed: the table, the sentence and the figure of its coverage."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from parfocal.qc.metrics._arrays import Float64
from parfocal.qc.metrics.images.uncertainty import LEVELS

SHOWN_LEVELS: Final = (0.5, 0.9)
"""Levels whose coverage has a column in metrics.csv."""

_JUDGED: Final = 0.9
# From which coverage of the interval of 90 % on the uncertainty is called too small or too large.
_TOO_SMALL, _TOO_LARGE = 0.85, 0.95
_BLUE: Final = "#0072B2"
_GREY: Final = "0.35"


def write_coverage_csv(path: Path, coverages: Mapping[str, Float64]) -> None:
    """Write one line for each image, with the coverage at each of `LEVELS`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *(f"coverage_{100 * level:g}" for level in LEVELS)])
        for image, values in coverages.items():
            writer.writerow([image, *(f"{value:.6g}" for value in values)])


def read_coverage_csv(path: Path) -> Float64:
    """Return the coverage of every image, float64 (images, levels)."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    return np.array([[float(value) for value in row[1:]] for row in rows])


def coverage_remark(coverage: float, inside: float | None = None) -> str:
    """Say whether the uncertainty is calibrated.

    Parameters
    ----------
    coverage
        Mean part of the true values within the interval of 90 %.
    inside
        The same of the foreground alone; None if no image has any.
    """
    amount = f"{100 * coverage:.0f} % of the true values lie within the intervals of {100 * _JUDGED:.0f} %"
    if coverage < _TOO_SMALL:
        return f"The uncertainty is too small: {amount}. The errors of the prediction are larger than stated."
    if inside is not None and inside < _TOO_SMALL:
        words = f"{amount}, but only {100 * inside:.0f} % inside the foreground"
        return f"The uncertainty is too small inside the foreground: {words}."
    if coverage > _TOO_LARGE:
        return f"The uncertainty is too large: {amount}. The errors of the prediction are smaller than stated."
    return f"The uncertainty is calibrated: {amount}."


def reliability_figure(coverage: Float64) -> Figure:
    """Draw the part of the true values within an interval over the probability that the model gives it.

    Parameters
    ----------
    coverage
        Float64 (images, levels).
    """
    figure = Figure(figsize=(4.2, 3.8), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    levels = 100 * np.array(LEVELS)
    axis.plot([0, 100], [0, 100], color=_GREY, linewidth=0.8, linestyle=":")
    axis.text(96, 88, "calibrated", ha="right", va="top", fontsize=8, color=_GREY)
    if len(coverage) > 1:
        axis.fill_between(
            levels, 100 * coverage.min(axis=0), 100 * coverage.max(axis=0), color=_BLUE, alpha=0.2, linewidth=0
        )
    axis.plot(levels, 100 * coverage.mean(axis=0), color=_BLUE, marker="o", markersize=4)
    axis.set_xlim(0, 100)
    axis.set_ylim(0, 100)
    axis.set_aspect("equal")
    axis.set_xlabel("Interval predicted, %", fontsize=9)
    axis.set_ylabel("True values within it, %", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    return figure
