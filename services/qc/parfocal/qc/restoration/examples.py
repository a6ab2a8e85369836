"""The best and the median test image of a restoration, small: what may be expected besides the worst case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from parfocal.qc.figures.drawing import (
    RSE_COLOURS,
    centre,
    draw_colour_bar,
    draw_scale_bar,
    frame,
    shortened,
    show_grey,
)
from parfocal.qc.metrics.images.restoration import RestorationScore
from parfocal.qc.restoration.metrics import BY_KEY
from parfocal.runtime.report.fonts import drawable

EXAMPLE_PIXELS: Final = 256
"""Pixels shown along each side, from the centre, as many as the panels have: reports stay small enough to be mailed."""

_DPI: Final = 150
_SIDE: Final = EXAMPLE_PIXELS / _DPI
_GAP, _MARGIN, _BAR = 0.14, 0.1, 0.8
_HEADING, _TITLE, _FOOT = 0.3, 0.38, 0.28


@dataclass(frozen=True)
class Example:
    """One image as it is shown, or one plane of a stack.

    Attributes
    ----------
    heading
        Reason why the image is shown, and its name.
    source, prediction, target
        Grey values (Y, X) of one shape.
    error
        Map of the prediction's absolute error, in target ranges.
    input_score, prediction_score
        Scores of the whole image or plane.
    pixel_size
        Side length of a pixel in micrometres; None where it is unknown.
    """

    heading: str
    source: npt.NDArray[Any]
    prediction: npt.NDArray[Any]
    target: npt.NDArray[Any]
    error: npt.NDArray[np.float32]
    input_score: RestorationScore
    prediction_score: RestorationScore
    pixel_size: float | None


def examples_figure(examples: Sequence[Example]) -> Figure:
    """Draw input, prediction, target and error map of each example in a row, with the scores above them.

    Grey values are shown as in `parfocal.qc.restoration.figure.restoration_figure`; the error maps share one scale.
    """
    windows = [centre(*example.target.shape, largest=EXAMPLE_PIXELS) for example in examples]
    shapes = [tuple(part.stop - part.start for part in window) for window in windows]
    side = max(min(_SIDE, _SIDE * height / width) for height, width in shapes)
    row = _HEADING + _TITLE + side + _FOOT
    size = 2 * _MARGIN + 4 * _SIDE + 3 * _GAP + _BAR, row * len(examples)
    figure = Figure(figsize=size, dpi=_DPI)
    FigureCanvasAgg(figure)
    errors = [example.error[window] for example, window in zip(examples, windows, strict=True)]
    # As a root, so that small errors show too.
    scale = PowerNorm(0.5, 0, max(0.01, *(float(np.nanpercentile(error, 99.8)) for error in errors)))
    for index, (example, window, shape) in enumerate(zip(examples, windows, shapes, strict=True)):
        top = size[1] - row * index
        heading = drawable(shortened(example.heading, 90))
        figure.text(
            _MARGIN / size[0],
            (top - 0.6 * _HEADING) / size[1],
            heading,
            fontsize=9,
            fontweight="bold",
            va="center",
            parse_math=False,
        )
        bottom = (top - _HEADING - _TITLE - side) / size[1]
        places = [
            ((_MARGIN + column * (_SIDE + _GAP)) / size[0], bottom, _SIDE / size[0], side / size[1])
            for column in range(4)
        ]
        shown = [("Input", example.source), ("Prediction", example.prediction), ("Target", example.target)]
        scores = [_words(example.input_score), _words(example.prediction_score), ""]
        for place, (title, image), words in zip(places, shown, scores, strict=False):
            axis = figure.add_axes(place)
            show_grey(axis, image[window])
            axis.set_title(f"{title}\n{words}", fontsize=8)
            pixels_per_inch = max(shape[1] / _SIDE, shape[0] / side)
            if title == "Input":
                draw_scale_bar(axis, shape[1], shape[0], example.pixel_size, pixels_per_inch)
        axis = figure.add_axes(places[3])
        axis.imshow(errors[index], norm=scale, cmap=RSE_COLOURS, interpolation="nearest")
        frame(axis)
        axis.set_title(
            f"Error of the prediction\nNRMSE {BY_KEY['nrmse'].number(example.prediction_score.nrmse)}", fontsize=8
        )
    # Beside all rows, whose scale it is.
    height = max(row * (len(examples) - 1) + side, 1.0) / size[1]
    bar = (size[0] - _BAR) / size[0], bottom, 0.12 / size[0], height
    draw_colour_bar(figure, bar, scale, RSE_COLOURS, "max", "|error| (root scale)")
    return figure


def _words(score: RestorationScore) -> str:
    return score.failed or f"PSNR {BY_KEY['psnr'].text(score.psnr)}, SSIM {BY_KEY['ssim'].text(score.ssim)}"
