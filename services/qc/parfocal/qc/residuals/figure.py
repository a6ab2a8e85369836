"""The picture of what a restoration took away from its input."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from parfocal.qc.evaluation.words import worst_of
from parfocal.qc.figures.drawing import centre, draw_scale_bar, shortened, show_grey
from parfocal.qc.metrics.images.residuals import LARGEST_DEVIATION, ResidualMaps, ResidualScore
from parfocal.qc.residuals.metrics import BY_KEY
from parfocal.runtime.report.fonts import drawable

_COLOURS: Final = "PuOr_r"  # both ends can be told apart with any colour vision
_SIDE: Final = 3.6
_LARGEST_SHOWN: Final = 2 * LARGEST_DEVIATION


def residual_figure(
    source: npt.NDArray[Any],
    prediction: npt.NDArray[Any],
    maps: ResidualMaps,
    score: ResidualScore,
    *,
    name: str,
    images: int,
    pixel_size: float | None = None,
) -> Figure:
    """Return input and prediction, and below them the residual and where it deviates from noise.

    Parameters
    ----------
    source, prediction
        Grey values (…, Y, X); of a stack the plane with the largest deviations is shown, of a large image the centre.
    maps, score
        Maps and score of the two images.
    name, images
        Name of the image and number of images, for the title.
    pixel_size
        Side length of a pixel in micrometres, for the scale bar; None where it is unknown.
    """
    plane, panels = _plane(source, prediction, maps)
    height, width = panels["input"].shape
    window = centre(height, width)
    shown = {kind: values[window] for kind, values in panels.items()}
    height, width = shown["input"].shape
    panel = _SIDE * float(np.clip(height / width, 0.4, 1.6))
    figure = Figure(figsize=(2 * _SIDE + 1.2, 2 * panel + 1.3), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    where = "" if plane is None else f", plane {plane}"
    figure.suptitle(
        f"{drawable(shortened(name))}{where} ({worst_of(images, 'agreement')})", fontsize=12, parse_math=False
    )
    ((first, second), (third, fourth)) = figure.subplots(2, 2)
    for axes, kind in ((first, "input"), (second, "prediction")):
        show_grey(axes, shown[kind])
        axes.set_title(score.failed if kind == "prediction" and score.failed else kind.capitalize(), fontsize=10)
    draw_scale_bar(first, width, height, pixel_size, max(height, width) / _SIDE)
    spread = float(np.percentile(np.abs(shown["residual"]), 99.5)) or 1.0
    _show(figure, third, shown["residual"], spread, "grey values of the input")
    third.set_title(
        f"Residual: autocorrelation {BY_KEY['autocorrelation'].number(score.neighbours)}".replace("-", "−"), fontsize=10
    )
    _show(figure, fourth, shown["deviation"], _LARGEST_SHOWN, "standard deviations of smoothed noise")
    outside = np.abs(shown["deviation"]) > LARGEST_DEVIATION
    if outside.any() and not outside.all():
        fourth.contour(outside, levels=[0.5], colors="black", linewidths=0.5)
    agreement, structure = BY_KEY["agreement"].number(score.agreement), BY_KEY["structure"].number(score.structure)
    fourth.set_title(f"Deviation: agreement {agreement}, structure {structure}", fontsize=10)
    return figure


def _plane(
    source: npt.NDArray[Any], prediction: npt.NDArray[Any], maps: ResidualMaps
) -> tuple[int | None, dict[str, npt.NDArray[Any]]]:
    panels = {"input": source, "prediction": prediction, "residual": maps.residual, "deviation": maps.deviation}
    if source.ndim == 2:
        return None, panels
    flat = {kind: values.reshape(-1, *values.shape[-2:]) for kind, values in panels.items()}
    plane = int(np.argmax([(part**2).mean() for part in flat["deviation"]]))
    return plane, {kind: values[plane] for kind, values in flat.items()}


def _show(figure: Figure, axes: Axes, values: npt.NDArray[Any], largest: float, unit: str) -> None:
    drawn = axes.imshow(values, cmap=_COLOURS, vmin=-largest, vmax=largest, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    bar = figure.colorbar(drawn, ax=axes, shrink=0.85, extend="both")
    bar.set_label(unit, fontsize=8)
    bar.ax.tick_params(labelsize=8)
