"""What the first figure and the first report of a process take longer than the next, done in advance."""

from __future__ import annotations

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from parfocal.runtime.report.fonts import drawable
from parfocal.runtime.report.pdf import register_fonts


def preload() -> None:
    """Find and read the fonts of figures and reports, and make the parser of formulas, for the forks of this process.

    Open files of fonts are not among what Matplotlib keeps for a fork.
    """
    register_fonts()
    drawable("")
    figure = Figure(figsize=(2, 2), dpi=20)
    axes = figure.subplots()
    # Ticks of logarithms are formulas.
    axes.set_yscale("log")
    axes.set_ylim(0.1, 1.0)
    axes.set_title("0", fontweight="bold")
    FigureCanvasAgg(figure)
    figure.savefig(io.BytesIO())
