"""The figure of the Fourier correlation with the targets: which detail is shared with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from parfocal.qc.figures.scores import COLOURS, MARKERS
from parfocal.qc.metrics.images.resolution import FRC_THRESHOLD
from parfocal.qc.restoration.curves import Curves
from parfocal.runtime.store.evaluations import Kind, Statistics

_STYLES: Final[dict[Kind, tuple[str, float, float]]] = {
    "prediction": ("-", 2.8, 9),
    "baseline": ("--", 2.0, 7),
    "input": (":", 1.6, 4),
}
"""Line, its width, and size of the marker. The narrow ones lie over the wide: filters leave the curve as it is."""

_GREY: Final = "0.35"
_NYQUIST_PIXELS: Final = 2.0
_ROUND: Final = tuple(step * 10.0**power for power in range(-4, 5) for step in (1, 2, 5))


def correlation_figure(
    curves: Curves, metrics: Mapping[Kind, Mapping[str, Statistics]], names: Mapping[Kind, str]
) -> Figure:
    """Draw the median curve of each kind, the band of all images, and the resolution on the line of 1/7.

    Parameters
    ----------
    metrics
        By kind: statistics over the images, whose median resolution is marked.
    names
        Names of the kinds, in the order of the legend.
    """
    figure = Figure(figsize=(7.0, 3.6), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    lowest = min(0.0, *(float(np.nanmin(values)) for values in curves.by_kind.values()))
    axis.set_ylim(lowest, 1.02)
    axis.set_xlim(0, curves.frequency[-1])
    axis.axhline(FRC_THRESHOLD, color=_GREY, lw=0.8, zorder=1)
    axis.text(0, FRC_THRESHOLD, " 1/7", fontsize=8, color=_GREY, va="bottom")
    lines = {}
    for layer, kind in enumerate(kind for kind in _STYLES if kind in curves.by_kind):
        values = curves.by_kind[kind]
        style: dict[str, Any] = {"color": COLOURS[kind], "zorder": 3 + layer}
        known = ~np.isnan(values).all(axis=0)  # between images of very different pixel sizes there may be gaps
        frequency, values = curves.frequency[known], values[:, known]
        if len(values) > 1:
            low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
            axis.fill_between(frequency, low, high, color=COLOURS[kind], alpha=0.2, lw=0)
        line, width, size = _STYLES[kind]
        (lines[kind],) = axis.plot(frequency, np.nanmedian(values, axis=0), line, lw=width, **style)
        resolution = metrics[kind].get("resolution_px" if curves.unit == "pixel" else "resolution_um")
        if resolution is not None:
            place = 1 / resolution.median
            axis.plot([place, place], [lowest, FRC_THRESHOLD], line, lw=0.6 * width, **style)
            axis.plot(place, FRC_THRESHOLD, MARKERS[kind], ms=size, mec="white", mew=0.6, clip_on=False, **style)
    legend = {f"{name}: {_resolution_text(metrics[kind])}": lines[kind] for kind, name in names.items()}
    axis.legend(
        legend.values(), legend, title="Resolution, median over images", fontsize=8, title_fontsize=8, frameon=False,
        loc="upper right", alignment="left", handlelength=2.6,
    )  # fmt: skip
    _label(axis, curves)
    return figure


def _resolution_text(metrics: Mapping[str, Statistics]) -> str:
    """Say "4.1 pixels (0.41 µm)", as the median over the images."""
    if "resolution_px" not in metrics:
        return "no agreement with the targets"
    pixels = metrics["resolution_px"].median
    text = f"{pixels:.3g} pixels" if pixels > _NYQUIST_PIXELS else f"{pixels:.0f} pixels or finer"
    return f"{text} ({metrics['resolution_um'].median:.3g} µm)" if "resolution_um" in metrics else text


def _label(axis: Axes, curves: Curves) -> None:
    axis.set_xlabel(f"Spatial frequency in 1/{curves.unit}", fontsize=9)
    axis.set_ylabel("Correlation with the target", fontsize=9)
    axis.spines["right"].set_visible(False)
    axis.tick_params(labelsize=8)
    # From coarse to fine; in the coarse half of the axis only sizes that keep their distance.
    shown = [size for size in _ROUND if 0.06 < 1 / size / curves.frequency[-1] <= 1]
    above = axis.secondary_xaxis("top")
    above.set_xticks([1 / size for size in shown], [f"{size:g}" for size in shown], fontsize=8)
    above.set_xlabel(f"Size of detail in {'µm' if curves.unit == 'µm' else 'pixels'}", fontsize=9)
