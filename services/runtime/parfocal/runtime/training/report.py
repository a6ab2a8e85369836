"""Files of a training for people: the loss curve, the table behind it, and a report as PDF."""

from __future__ import annotations

import csv
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from parfocal.runtime.datasets.findings import count
from parfocal.runtime.datasets.objects import object_extents
from parfocal.runtime.images.scratch import release
from parfocal.runtime.methods.implementation import Example
from parfocal.runtime.methods.service import Method
from parfocal.runtime.report.content import Block, Heading, Notice, Picture, Report, Table, Text
from parfocal.runtime.report.fonts import drawable
from parfocal.runtime.report.pdf import write_pdf
from parfocal.runtime.report.text import value_text
from parfocal.runtime.store.manifests import KeptWeights, ModelManifest

_CURVES: Final = "loss.png"
_REPORT: Final = "training_report.pdf"
_CURVES_CAPTION: Final = (
    "Losses and scores after each epoch, on the training and on the validation set, and the learning rate. A circle "
    "marks the epoch whose weights were kept. A validation loss that rises while the training loss falls is a sign of "
    "overfitting."
)
_log = logging.getLogger(__name__)
# Pixels of a side of an example, of which a page shows a quarter at most.
_SHOWN: Final = 2048
_RESOLUTION: Final = 120  # dots per inch of the pictures
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#555555"
# Colours that are told apart in all kinds of colour vision; more scores than these share them.
_COLOURS = ("#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_BESIDE = ("epoch", "learning_rate", "seconds")
Row = Mapping[str, float]


def write_training_report(
    folder: Path,
    model: ModelManifest,
    method: Method,
    rows: Sequence[Row],
    examples: Sequence[Example],
    figures: Callable[[], Mapping[str, Figure]] = dict,
) -> str:
    """Write training.csv, loss.png, training_report.pdf and the method's own figures to `folder`.

    Parameters
    ----------
    rows
        One mapping for each epoch with `epoch`, losses and scores by name, `learning_rate` and `seconds`.
    examples
        Images of the training data.
    figures
        Draws what the method shows besides, by name: each is NAME.png and a page of the report.

    Returns
    -------
    str
        Sentence that says why pictures are missing; "" if all could be drawn. The table is always written.
    """
    write_training_csv(folder / "training.csv", rows)
    drawn: Mapping[str, Figure] = {}
    try:
        _save(loss_figure(rows, model), folder / _CURVES)
        drawn = figures()
        for name, each in drawn.items():
            _save(each, folder / f"{name}.png")
        with tempfile.TemporaryDirectory() as name:
            shown = Path(name) / "examples.png"
            if examples:
                _save(_examples_figure(examples), shown)
            write_pdf(_report(folder, model, method, rows, shown if examples else None, drawn), folder / _REPORT)
    except (OSError, MemoryError):  # the machine's fault, which another attempt may not have
        raise
    except Exception as error:  # whatever a drawing library cannot draw: hours of training are worth more
        _log.exception("the training report could not be drawn")
        for name in (_CURVES, _REPORT, *(f"{name}.png" for name in drawn)):
            (folder / name).unlink(missing_ok=True)
        return (
            f"The curves and the report of the training could not be drawn ({type(error).__name__}). The model is "
            "complete; training.csv has the numbers."
        )
    return ""


def write_training_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write one line for each epoch; a score that was not measured in an epoch is left empty."""
    columns = ["epoch", *metric_names(rows), "learning_rate", "seconds"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def metric_names(rows: Sequence[Row]) -> list[str]:
    """Return the losses and scores that any epoch has: the method's losses, the same of validation, then scores."""
    return [name for name in dict.fromkeys(name for row in rows for name in row) if name not in _BESIDE]


def loss_figure(rows: Sequence[Row], model: ModelManifest) -> Figure:
    """Return the curves of all losses and scores and of the learning rate; the selected epochs are marked."""
    # A panel for each loss, one for scores and one for the learning rate.
    losses = sum(f"val_{name}" in rows[0] for name in rows[0])
    figure = Figure(figsize=(8, max(5.4, 1.6 * (losses + 2))), layout="constrained")
    _draw_curves(figure, rows, model.weights)
    return figure


def _draw_curves(figure: Any, rows: Sequence[Row], weights: Mapping[str, KeptWeights]) -> None:
    """Draw a panel for each loss with the same of validation, one for all scores, and one for the learning rate."""
    names = metric_names(rows)
    losses = [name for name in names if f"val_{name}" in names]
    alone = [name for name in names if name not in losses and name.removeprefix("val_") not in losses]
    panels = [[(name, "training", _BLUE), (f"val_{name}", "validation", _ORANGE)] for name in losses]
    if alone:
        panels.append([(name, name, _COLOURS[number % len(_COLOURS)]) for number, name in enumerate(alone)])
    shares = [3] * len(panels) + [1]
    upper = figure.subplots(len(shares), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": shares})[:, 0]
    for axes, panel in zip(upper, panels, strict=False):
        _draw_panel(axes, rows, panel, weights)
        axes.set_ylabel(panel[0][0].replace("_", " ") if panel[0][1] == "training" else "scores")
    lower = upper[-1]
    lower.step([row["epoch"] for row in rows], [row["learning_rate"] for row in rows], color=_GREY, where="mid")
    if all(row["learning_rate"] > 0 for row in rows):
        lower.set_yscale("log")
    lower.set_ylabel("learning rate")
    lower.set_xlabel("epoch")
    lower.xaxis.get_major_locator().set_params(integer=True)
    lower.spines[["top", "right"]].set_visible(False)


def _draw_panel(
    axes: Any, rows: Sequence[Row], panel: Sequence[tuple[str, str, str]], weights: Mapping[str, KeptWeights]
) -> None:
    values = []
    for name, label, colour in panel:
        known = [(row["epoch"], row[name]) for row in rows if name in row]
        values += [value for _, value in known]
        axes.plot(*zip(*known, strict=True), color=colour, marker=".", label=label)
        for kept, chosen in weights.items():
            if chosen.metric == name and chosen.value is not None:
                label = f"{kept}: epoch {chosen.epoch}, {chosen.value:.4g}"
                axes.plot([chosen.epoch], [chosen.value], "o", mfc="none", mec="black", ms=10, label=label)
    if min(values) > 0:
        axes.set_yscale("log")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=_RESOLUTION)


def _report(
    folder: Path,
    model: ModelManifest,
    method: Method,
    rows: Sequence[Row],
    examples: Path | None,
    figures: Iterable[str],
) -> Report:
    """Return the content of the report; the pictures are files of `folder`, and `examples`."""
    packages = model.environment.get("packages", {})
    facts = {
        "method": method.title,
        "trained": f"{model.created_at:%Y-%m-%d %H:%M} UTC, project {model.project}, job {model.job}",
        "dataset": model.dataset_uri,
        "start": model.parent or "random initial weights",
    }
    blocks: list[Block] = [Text(_result(model, rows))] if rows else []
    blocks += [Notice("note", "Warning", (warning,)) for warning in model.warnings]
    blocks += [Heading("For the methods section"), Text(methods_paragraph(model, method))]
    blocks += [Heading("Reference"), Text(method.citation)]
    if rows:
        blocks += [Heading("Losses and scores"), Picture(folder / _CURVES, _CURVES_CAPTION)]
    if examples is not None:
        blocks += [Heading("Training images"), Picture(examples, "One image of the training set, with its target.")]
    for name in figures:
        title = name.replace("_", " ").capitalize()
        blocks += [Heading(title), Picture(folder / f"{name}.png", f"The file {name}.png of the model.")]
    normaliser = ", ".join(f"{key} {value_text(value)}" for key, value in model.normaliser.items() if value is not None)
    environment = {
        "normalisation": normaliser,
        "precision": value_text(model.environment.get("precision")),
        "device": value_text(model.environment.get("device")),
        "threads": value_text(model.environment.get("threads")),
        **packages,
    }
    blocks += [Heading("Parameters"), _table("Parameter", model.parameters)]
    blocks += [Heading("Environment"), _table("Part", environment)]
    return Report(f"Training report: {model.model}, version {model.version}", facts, blocks)


def _table(title: str, values: Mapping[str, Any]) -> Table:
    return Table((title, "Value"), [(name, value_text(value)) for name, value in sorted(values.items())])


def _result(model: ModelManifest, rows: Sequence[Row]) -> str:
    """Return how long the training took and which losses and scores the selected weights have."""
    best = rows[model.best_epoch - 1]
    scores = ", ".join(f"{name.replace('_', ' ')} {best[name]:.4g}" for name in metric_names([best]))
    return (
        f"{model.epochs} epochs in {_duration(model.training_seconds)}. {_selection(model)} Its losses and scores: "
        f"{scores}. They describe the training, not whether the model can be trusted: evaluate it on test images."
    )


def methods_paragraph(model: ModelManifest, method: Method) -> str:
    """Return a sentence or two, ready for a publication, on how the model was made."""
    parameters = model.parameters
    packages = model.environment.get("packages", {})
    versions = ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))
    training = len({region["stem"] for region in model.split.get("training", ())})
    validation = len({region["stem"] for region in model.split.get("validation", ())})
    others = {"image": count(validation, "further image"), "frames": "other frames of the same stacks"}
    further = others.get(model.split.get("by", ""), "a block of the same image")
    kept = f"{further} held out for validation"
    return (
        f"A {method.title} model was trained for {model.epochs} epochs on {count(training, 'image pair')}, with "
        f"{kept}, on random patches (size {parameters.get('patch_size')}, batch size {parameters.get('batch_size')}, "
        f"initial learning rate {parameters.get('learning_rate')}) with Parfocal ({versions}). {_selection(model)}"
    )


def _selection(model: ModelManifest) -> str:
    """Return a sentence on which weights the model has."""
    for chosen in model.weights.values():
        if chosen.metric and chosen.value is not None:
            named = chosen.metric.replace("_", " ")
            what = "lowest validation loss" if chosen.metric == "val_loss" else f"best {named}"
            return f"The weights with the {what} ({chosen.value:.4g}, epoch {chosen.epoch}) were kept."
    return f"The weights of the last epoch ({model.epochs}) were kept."


def _examples_figure(examples: Sequence[Example]) -> Figure:
    """Return the roles of one training image side by side."""
    figure = Figure(figsize=(8, 8 / len(examples) + 0.7), layout="constrained")
    # Names are drawn as they are: dollar signs begin no formula.
    figure.suptitle(drawable(examples[0].name), fontsize=12, parse_math=False)
    for axes, example in zip(figure.subplots(1, len(examples), squeeze=False)[0], examples, strict=True):
        _draw_example(axes, example)
    return figure


def _draw_example(axes: Any, example: Example) -> None:
    axes.set_axis_off()
    pixels, title = example.pixels, example.role
    if pixels.ndim == 3 and pixels.shape[-1] in (3, 4) and pixels.dtype == np.uint8:
        axes.imshow(_thinned(pixels[..., :3]), interpolation="nearest")
        axes.set_title(title, fontsize=9, parse_math=False)
        return
    while pixels.ndim > 2:  # of volumes and of several channels the middle one
        pixels = pixels[len(pixels) // 2]
        title = f"{example.role}, middle plane"
    if example.labels:
        objects = len(object_extents(pixels))
        axes.imshow(_coloured(_thinned(pixels)), interpolation="nearest")
        axes.set_title(f"{title}\n({objects} objects)", fontsize=9, parse_math=False)
        return
    pixels = _thinned(pixels)
    low, high = np.percentile(pixels, [0.5, 99.8])
    axes.imshow(pixels, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    axes.set_title(f"{title}\n(grey values {low:.4g} to {high:.4g})", fontsize=9, parse_math=False)


def _thinned(plane: NDArray[Any]) -> NDArray[Any]:
    """Return every n-th pixel of a plane (Y, X, …), so that each side has about as many as a picture shows."""
    step = max(1, *(length // _SHOWN for length in plane.shape[:2]))
    thin = np.array(plane[::step, ::step])
    release(plane)
    return thin


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
