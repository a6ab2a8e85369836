"""What a training leaves for people: the loss curve, the table behind it, and a report as PDF."""

from __future__ import annotations

import csv
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from parfocal import v1
from parfocal.runtime.datasets.findings import count
from parfocal.runtime.methods.service import Method
from parfocal.runtime.store.manifests import ModelManifest

_A4 = (8.27, 11.69)
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#555555"
Row = Mapping[str, float]
Example = tuple[str, NDArray[Any], NDArray[Any]]


def write_training_report(
    folder: Path, model: ModelManifest, method: Method, rows: Sequence[Row], example: Example
) -> None:
    """Write training.csv, loss.png and training_report.pdf to `folder`.

    Parameters
    ----------
    rows
        One mapping for each epoch with `epoch`, `loss`, `val_loss`, `learning_rate` and `seconds`.
    example
        Name, source and target pixels (Y, X) of one training image.
    """
    write_training_csv(folder / "training.csv", rows)
    figure = loss_figure(rows, model.best_epoch)
    FigureCanvasAgg(figure)
    figure.savefig(folder / "loss.png", dpi=120)
    with PdfPages(folder / "training_report.pdf", metadata={"Title": f"Training of {model.model}"}) as pages:
        pages.savefig(_summary_page(model, method, rows))
        pages.savefig(_figures_page(model, rows, example, labels=method.target == v1.TARGET_KIND_LABELS))


def write_training_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write one line for each epoch."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["epoch", "loss", "val_loss", "learning_rate", "seconds"])
        writer.writeheader()
        writer.writerows(rows)


def loss_figure(rows: Sequence[Row], best_epoch: int) -> Figure:
    """Return the curves of training and validation loss and the learning rate; the best epoch is marked."""
    figure = Figure(figsize=(8, 5.4), layout="constrained")
    _draw_losses(figure, rows, best_epoch)
    return figure


def _draw_losses(figure: Any, rows: Sequence[Row], best_epoch: int) -> None:
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1]})
    epochs = [row["epoch"] for row in rows]
    upper.plot(epochs, [row["loss"] for row in rows], color=_BLUE, marker=".", label="training")
    upper.plot(epochs, [row["val_loss"] for row in rows], color=_ORANGE, marker=".", label="validation")
    if best_epoch:
        best = rows[best_epoch - 1]["val_loss"]
        label = f"best: epoch {best_epoch}, {best:.4g}"
        upper.plot([best_epoch], [best], "o", mfc="none", mec="black", ms=10, label=label)
    if all(row["loss"] > 0 and row["val_loss"] > 0 for row in rows):
        upper.set_yscale("log")
    upper.set_ylabel("loss")
    upper.legend(frameon=False)
    lower.step(epochs, [row["learning_rate"] for row in rows], color=_GREY, where="mid")
    lower.set_yscale("log")
    lower.set_ylabel("learning rate")
    lower.set_xlabel("epoch")
    lower.xaxis.get_major_locator().set_params(integer=True)
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)


def _summary_page(model: ModelManifest, method: Method, rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=_A4)
    writer = _Writer(figure)
    writer.title(f"Training report: {model.model}, version {model.version}")
    writer.text(f"{method.title} · {model.created_at:%Y-%m-%d %H:%M} UTC · project {model.project} · job {model.job}")
    writer.heading("Result")
    if rows:
        best = rows[model.best_epoch - 1]
        writer.text(
            f"{model.epochs} epochs in {_duration(model.training_seconds)}. Lowest validation loss "
            f"{best['val_loss']:.4g} after epoch {model.best_epoch} (training loss there {best['loss']:.4g}). The loss "
            "says how training went, not whether the model can be trusted: run quality control on test images."
        )
    for warning in model.warnings:
        writer.text(f"Note: {warning}", colour=_ORANGE)
    writer.heading("For the methods section")
    writer.text(methods_paragraph(model, method))
    writer.heading("Parameters")
    writer.table(sorted((name, str(value)) for name, value in model.parameters.items()))
    writer.heading("Data and environment")
    packages = model.environment.get("packages", {})
    writer.table(
        [
            ("dataset", model.dataset_uri),
            ("normaliser", ", ".join(f"{key} {value}" for key, value in model.normaliser.items())),
            ("initial model", model.parent or "none: random initial weights"),
            ("precision", str(model.environment.get("precision", ""))),
            ("device, threads", f"{model.environment.get('device')}, {model.environment.get('threads')}"),
            *sorted(packages.items()),
        ],
        columns=1,
    )
    writer.heading("Reference")
    writer.text(method.citation)
    return figure


def methods_paragraph(model: ModelManifest, method: Method) -> str:
    """Return a sentence or two, ready for a publication, on how the model was made."""
    parameters = model.parameters
    packages = model.environment.get("packages", {})
    versions = ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))
    training = len({region["stem"] for region in model.split.get("training", ())})
    validation = len({region["stem"] for region in model.split.get("validation", ())})
    further = count(validation, "further image") if model.split.get("by") == "image" else "a block of the same image"
    kept = f"{further} kept for validation"
    return (
        f"A {method.title} model was trained for {model.epochs} epochs on {count(training, 'image pair')}, with "
        f"{kept}, on random patches (size {parameters.get('patch_size')}, batch size {parameters.get('batch_size')}, "
        f"initial learning rate {parameters.get('learning_rate')}) with Parfocal ({versions}). The weights with the "
        f"lowest validation loss (epoch {model.best_epoch}) were kept."
    )


def _figures_page(model: ModelManifest, rows: Sequence[Row], example: Example, *, labels: bool) -> Figure:
    # The rectangle leaves the margins of a printed page.
    figure = Figure(figsize=_A4, layout=ConstrainedLayoutEngine(rect=(0.06, 0.04, 0.88, 0.92)))
    halves: Any = figure.subfigures(2, 1, height_ratios=[1.1, 1])
    top, bottom = halves
    top.suptitle("Loss during training", fontsize=12)
    if rows:
        _draw_losses(top, rows, model.best_epoch)
    name, source, target = example
    bottom.suptitle(f"Example of the training images: {name}", fontsize=12)
    for axes, pixels, title in zip(bottom.subplots(1, 2), (source, target), ("source", "target"), strict=True):
        axes.set_axis_off()
        if pixels.ndim == 3 and pixels.shape[-1] in (3, 4) and pixels.dtype == np.uint8:
            axes.imshow(pixels[..., :3], interpolation="nearest")
            axes.set_title(title, fontsize=9)
            continue
        while pixels.ndim > 2:  # of volumes and of several channels the middle one
            pixels = pixels[len(pixels) // 2]
            title = f"{title}, middle plane"
        if labels and title.startswith("target"):
            axes.imshow(_coloured(pixels), interpolation="nearest")
            axes.set_title(f"{title}\n({len(np.unique(pixels[pixels > 0]))} objects)", fontsize=9)
            continue
        low, high = np.percentile(pixels, [0.5, 99.8])
        axes.imshow(pixels, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        axes.set_title(f"{title}\n(grey values {low:.4g} to {high:.4g})", fontsize=9)
    return figure


def _coloured(labels: NDArray[Any]) -> NDArray[np.float64]:
    """Return a label image as RGB on black, neighbouring numbers in different colours."""
    colours = np.array(colormaps["tab20"](np.arange(20)))[:, :3]
    picture = colours[labels.astype(np.int64) % 20]
    picture[labels <= 0] = 0
    return picture


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.3g} s"


class _Writer:
    """Sets text on a page from top to bottom."""

    def __init__(self, figure: Figure) -> None:
        self._figure = figure
        self._y = 0.955

    def title(self, text: str) -> None:
        self._line(text, size=16, weight="bold", step=0.028)

    def heading(self, text: str) -> None:
        self._y -= 0.012
        self._line(text, size=11, weight="bold", step=0.02)

    def text(self, text: str, colour: str = "black") -> None:
        for line in textwrap.wrap(text, 104):
            self._line(line, size=9, colour=colour)

    def table(self, rows: Sequence[tuple[str, str]], columns: int = 2) -> None:
        height = -(-len(rows) // columns)
        top = self._y
        for number, (name, value) in enumerate(rows):
            column, row = divmod(number, height)
            x, y = 0.08 + column * 0.43, top - row * 0.0155
            self._figure.text(x, y, name, size=9, color=_GREY, va="top")
            self._figure.text(x + 0.2, y, textwrap.shorten(value, 96 // columns), size=9, va="top")
        self._y = top - height * 0.0155

    def _line(
        self, text: str, *, size: float, weight: str = "normal", colour: str = "black", step: float = 0.0155
    ) -> None:
        self._figure.text(0.08, self._y, text, size=size, weight=weight, color=colour, va="top")
        self._y -= step
