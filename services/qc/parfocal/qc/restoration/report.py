"""Further parts of reports on restoration and translation: scores by region, examples, resolution, uncertainty."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from parfocal.qc.figures.drawing import save_png
from parfocal.qc.restoration.correlation import correlation_figure
from parfocal.qc.restoration.curves import read_curves
from parfocal.qc.restoration.metrics import BY_KEY, REGIONS
from parfocal.qc.restoration.reliability import read_coverage_csv, reliability_figure
from parfocal.runtime.report.content import Block, Picture, Table
from parfocal.runtime.store.evaluations import EvaluationSummary, Kind


def regions_table(summary: EvaluationSummary, role: str) -> Table | None:
    """Return the means inside and outside the foreground, beside the whole image; None without a foreground."""
    names = summary.names
    ours, others = summary.metrics["prediction"], [kind for kind in names if kind != "prediction"]
    shown = [name for name in REGIONS if f"{name}_inside" in ours]
    if not shown:
        return None
    columns = (
        "Prediction",
        "Whole image",
        "Inside the foreground",
        "Outside",
        *(f"{names[kind]}, inside" for kind in others),
    )

    def written(kind: Kind, metric: str) -> str:
        values = summary.metrics[kind].get(metric)
        return "" if values is None else BY_KEY[metric].number(values.mean)

    rows = [
        (
            BY_KEY[f"{metric}_inside"].heading.replace(" inside the foreground", ""),
            *(written("prediction", f"{metric}{part}") for part in ("", "_inside", "_outside")),
            *(written(kind, f"{metric}_inside") for kind in others),
        )
        for metric in shown
    ]
    caption = (
        f"The foreground (pixels above Otsu's threshold of the target) is {100 * ours['foreground_fraction'].mean:.2g} "
        "% of the image on average. Means over the images that have a value. A gain only outside the foreground is a "
        "gain in the background."
    )
    return Table(columns, rows, frozenset(columns[1:]), f"{role}: {caption}" if role else caption)


def pictures(folder: Path, summary: EvaluationSummary, role: str) -> Iterator[Block]:
    """Yield the best and the median image, the Fourier correlation, and the coverage of the uncertainty of a target."""
    examples = folder / f"examples_{role}.png"
    if not (folder / f"figure_{role}.png").exists():  # the first target has no role in the names of its files
        examples = folder / "examples.png"
    if examples.exists():
        yield Picture(
            examples,
            f"Beside the worst image: the best and the median image by {summary.primary.title}. Of large images the "
            "centre is shown; scores are of the whole image or plane.",
        )
    yield from _correlation(folder, summary, role)
    yield from _reliability(folder, role)


def _correlation(folder: Path, summary: EvaluationSummary, role: str) -> Iterator[Block]:
    """Yield the figure of the Fourier correlation, where there are images large enough for it."""
    table = folder / "frc.csv"
    curves = read_curves(table, role) if table.exists() else None
    if curves is None:
        return
    path = folder / (f"frc_{role}.png" if role else "frc.png")
    save_png(correlation_figure(curves, summary.metrics, summary.names), path)
    yield Picture(
        path,
        "Fourier correlation with the target: agreement in coarse detail (left) and fine detail (right); 1 is full "
        "agreement. Lines are medians over the images, bands reach from the lowest to the highest image. The "
        "resolution is where an image's curve first falls below 1/7. A Gaussian filter weakens detail without changing "
        "its agreement, so that its curve is nearly that of the input.",
    )


def _reliability(folder: Path, role: str) -> Iterator[Block]:
    """Yield the figure of the uncertainty's coverage, which only the first target can have."""
    table = folder / "coverage.csv"
    if not table.exists() or role not in {"", "target"}:
        return
    path = folder / "reliability.png"
    save_png(reliability_figure(read_coverage_csv(table)), path)
    yield Picture(
        path,
        "Is the uncertainty calibrated? The line is the mean over the images, the band reaches from the lowest to the "
        "highest image. Below the diagonal the errors are larger than the uncertainty states.",
        small=True,
    )
