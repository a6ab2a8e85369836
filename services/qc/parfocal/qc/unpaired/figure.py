"""The picture of images turned into another kind, beside real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from parfocal.qc.figures.drawing import draw_scale_bar, frame, shortened
from parfocal.runtime.report.fonts import drawable

_SIDE: Final = 2.2


@dataclass(frozen=True)
class Sample:
    """One image to be shown.

    Attributes
    ----------
    name, distance
        Name of the image, and its distance.
    panels
        Parts of images (Y, X, channels) by what they are, in the order in which they are shown.
    pixel_size
        Side length of a pixel in micrometres; None where it is unknown.
    """

    name: str
    distance: float
    panels: Mapping[str, npt.NDArray[Any]]
    pixel_size: float | None


def samples_figure(samples: Sequence[Sample], real: Sequence[npt.NDArray[Any]]) -> Figure:
    """Return a row for each sample, the worst first, and at its end a real image, which is no partner of it."""
    columns = len(samples[0].panels) + 1
    figure = Figure(figsize=(_SIDE * columns + 0.4, _SIDE * len(samples) + 0.5), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(samples), columns, squeeze=False)
    for number, (line, sample) in enumerate(zip(grid, samples, strict=True)):
        panels = {**sample.panels, "real image": real[number % len(real)]}
        for axes, (title, image) in zip(line, panels.items(), strict=True):
            axes.imshow(_picture(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            frame(axes)
            if number == 0:
                axes.set_title(title[:1].upper() + title[1:], fontsize=9)
        height, width = next(iter(sample.panels.values())).shape[:2]
        draw_scale_bar(line[0], width, height, sample.pixel_size, max(height, width) / _SIDE)
        label = f"{drawable(shortened(sample.name))}\ndistance {sample.distance:.1f}"
        line[0].set_ylabel(label, fontsize=8, parse_math=False)
    return figure


def _picture(image: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return an image between its 0.1 and 99.9 percentiles: grey, or the first three channels as colours."""
    values = image[..., :3].astype(np.float64)
    low, high = np.percentile(values, [0.1, 99.9])
    scaled = np.clip((values - low) / (high - low if high > low else 1), 0, 1)
    if scaled.shape[2] == 2:
        scaled = np.concatenate([scaled, np.zeros_like(scaled[..., :1])], axis=2)
    return np.asarray(scaled[..., 0] if scaled.shape[2] == 1 else scaled)
