"""The report of an evaluation: what anyone needs who is asked to believe a model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from parfocal.qc.evaluation.verdict import Verdict
from parfocal.qc.evaluation.words import worst_of
from parfocal.qc.instances.class_report import class_section
from parfocal.qc.report.content import Block, Heading, Notice, Picture, Report, Table, Text
from parfocal.qc.report.scores import scores_figure
from parfocal.qc.report.text import value_text, versions
from parfocal.qc.restoration.correlation import correlation_figure
from parfocal.qc.restoration.curves import read_curves
from parfocal.qc.restoration.figure import save_png
from parfocal.qc.restoration.reliability import read_coverage_csv, reliability_figure
from parfocal.runtime.store.manifests import ModelManifest
from parfocal.runtime.store.scores import Scores, read_scores

_MOST_OVERLAYS: Final = 6
_KINDS: Final = ("input", "baseline", "prediction")


@dataclass(frozen=True)
class Evaluation:
    """What a report says besides the numbers in `folder`.

    Attributes
    ----------
    folder
        Holds summary.json, metrics.csv and the figures.
    images_of
        What the images are, e.g. "test images of the dataset cells, version 1".
    thresholds
        The parameters of the evaluation; their titles and values are printed.
    packages
        Versions of what made the numbers.
    prediction
        Name of the result that was judged; of images that another program predicted it has the name of their folder.
    """

    job: str
    prediction: str
    title: str
    citation: str
    images_of: str
    model: ModelManifest | None
    verdict: Verdict
    thresholds: BaseModel
    packages: Mapping[str, str]
    created_at: str
    folder: Path


def evaluation_report(evaluation: Evaluation) -> Report:
    """Return the report of an evaluation; writes scores.png and frc.png to its folder for it."""
    summary = json.loads((evaluation.folder / "summary.json").read_text(encoding="utf-8"))
    headings = {metric: summary["units"].get(metric, metric) for metric in summary["shown"]}
    scores = read_scores((evaluation.folder / "metrics.csv").read_text(encoding="utf-8"), headings)
    blocks: list[Block] = [_verdict(evaluation.verdict), Heading("Scores")]
    for role, part in _parts(summary).items():
        blocks += [_scores_table(part, role), Text(part["note"])]
        if part.get("regions"):  # of restoration and translation
            blocks.append(_regions_table(part, role))
        blocks += _figures(evaluation.folder, part, role, _scores_of(scores, role))
    blocks += class_section(evaluation.folder, summary)
    blocks += _overlays(evaluation.folder, summary, scores)
    blocks += [Heading("Every image"), _images_table(summary, scores)]
    blocks += [Heading("What the verdict asked for"), _thresholds_table(evaluation.thresholds)]
    if evaluation.model is not None:
        blocks += [Heading("How the model was made"), *_training(evaluation.model)]
    blocks += [Heading("Definitions"), *(Text(text) for text in _definitions(evaluation, summary))]
    blocks += [Heading("For a methods section"), *(Text(text) for text in _methods(evaluation, summary))]
    model = evaluation.model
    about = f"model {model.model}, version {model.version}" if model is not None else "a prediction"
    return Report(f"{evaluation.title}: {about}", _facts(evaluation, summary), tuple(blocks))


def _facts(evaluation: Evaluation, summary: Mapping[str, Any]) -> dict[str, str]:
    model = evaluation.model
    facts = {"Images": f"{_images(summary)} {evaluation.images_of}"}
    if model is not None:
        facts["Method"] = model.method
        facts["Imported" if model.origin else "Trained"] = f"{model.created_at:%Y-%m-%d %H:%M} UTC"
    facts["Prediction"] = evaluation.prediction
    return {
        **facts,
        "Evaluated": evaluation.created_at.replace("T", " ").replace("+00:00", " UTC"),
        "Job": evaluation.job,
    }


def _parts(summary: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Return the summary of each target by its role, or the only one under no name."""
    parts: Mapping[str, Mapping[str, Any]] = summary.get("targets", {"": summary})
    return parts


def _images(summary: Mapping[str, Any]) -> int:
    """Return the number of images; one with several targets counts once."""
    return max(int(part["images"]) for part in _parts(summary).values())


def _scores_of(scores: Scores, role: str) -> Scores:
    """Return the images of one target, whose labels begin with its role where there are several."""
    if not role:
        return scores
    return {
        kind: {label: values for label, values in images.items() if label.startswith(f"{role}/")}
        for kind, images in scores.items()
    }


def _verdict(verdict: Verdict) -> Notice:
    return Notice(verdict.verdict, verdict.verdict.capitalize(), (*verdict.reasons, *verdict.remarks))


def _names(summary: Mapping[str, Any]) -> dict[str, str]:
    """Return what the kinds are called, in the order in which they are shown."""
    baseline = str((summary.get("baseline") or {}).get("name", "baseline"))
    names = {"input": "Input", "baseline": baseline[:1].upper() + baseline[1:], "prediction": "Prediction"}
    return {kind: name for kind, name in names.items() if kind in summary["metrics"]}


def _scores_table(summary: Mapping[str, Any], role: str) -> Table:
    names = _names(summary)
    others = [kind for kind in names if kind != "prediction"]
    columns = ("Mean over images", "Prediction", "95 % interval", "SD", *(names[kind] for kind in others))
    rows = []
    for metric, title in summary["shown"].items():
        ours = summary["metrics"]["prediction"][metric]
        interval = "too few images"
        if ours["low"] is not None and ours["high"] is not None:
            interval = f"{_number(metric, ours['low'])} to {_number(metric, ours['high'])}"
        spread = "" if ours["sd"] is None else _number(metric, ours["sd"])
        means = (_number(metric, summary["metrics"][kind][metric]["mean"]) for kind in others)
        rows.append((title, _number(metric, ours["mean"]), interval, spread, *means))
    return Table(columns, rows, frozenset(columns[1:]), role)


def _regions_table(summary: Mapping[str, Any], role: str) -> Table:
    """Return the means inside and outside the foreground, beside those of the whole image."""
    names = _names(summary)
    ours, others = summary["metrics"]["prediction"], [kind for kind in names if kind != "prediction"]
    columns = (
        "Prediction",
        "Whole image",
        "Inside the foreground",
        "Outside",
        *(f"{names[kind]}, inside" for kind in others),
    )

    def written(kind: str, metric: str) -> str:
        values = summary["metrics"][kind].get(metric)
        return "" if values is None else _number(metric, values["mean"])

    rows = [
        (
            title,
            *(written("prediction", f"{metric}{part}") for part in ("", "_inside", "_outside")),
            *(written(kind, f"{metric}_inside") for kind in others),
        )
        for metric, title in summary["regions"].items()
    ]
    caption = (
        f"The foreground, what is above Otsu's threshold of the target, is {100 * ours['foreground']['mean']:.2g} % of "
        "the image on average. Means over the images that have a value. What is gained outside alone is gained in the "
        "background."
    )
    return Table(columns, rows, frozenset(columns[1:]), f"{role}: {caption}" if role else caption)


def _figures(folder: Path, summary: Mapping[str, Any], role: str, scores: Scores) -> Iterator[Block]:
    path = folder / (f"scores_{role}.png" if role else "scores.png")
    save_png(scores_figure(scores, summary["shown"], _names(summary)), path)
    yield Picture(path, "Every image is a point, joined over what was scored; bars are medians.")
    figure = folder / f"figure_{role}.png"
    figure = figure if figure.exists() else folder / "figure.png"  # that of the first target
    worst = summary["worst_image"]["image"]
    primary = _primary(summary)
    yield Picture(figure, f"{worst}, {worst_of(summary['images'], primary)}.")
    examples = figure.with_name(figure.name.replace("figure", "examples", 1))
    if examples.exists():
        yield Picture(
            examples,
            f"What to expect besides the worst: the best and the median image by {primary}. Of large images the centre "
            "is shown; scores are of the whole image or plane.",
        )
    yield from _correlation(folder, summary, role)
    yield from _reliability(folder, role)


def _primary(summary: Mapping[str, Any]) -> str:
    """Return what the metric is called that ranks the images: the first one shown."""
    first = next(iter(summary["shown"]))
    return str(summary["units"].get(first, first)).partition(" [")[0]


def _reliability(folder: Path, role: str) -> Iterator[Block]:
    """Yield the figure of the uncertainty's coverage, which only the first target can have."""
    table = folder / "coverage.csv"
    if not table.exists() or role not in {"", "target"}:
        return
    path = folder / "reliability.png"
    save_png(reliability_figure(read_coverage_csv(table)), path)
    yield Picture(
        path,
        "Is the uncertainty honest? The line is the mean over the images, the band reaches from the lowest to the "
        "highest image. Below the diagonal the model is surer of itself than it may be.",
        small=True,
    )


def _correlation(folder: Path, summary: Mapping[str, Any], role: str) -> Iterator[Block]:
    """Yield the figure of the Fourier correlation, where there are images large enough for it."""
    table = folder / "frc.csv"
    curves = read_curves(table, role) if table.exists() else None
    if curves is None:
        return
    path = folder / (f"frc_{role}.png" if role else "frc.png")
    save_png(correlation_figure(curves, summary["metrics"], _names(summary)), path)
    yield Picture(
        path,
        "Fourier correlation with the target: what is shared of coarse detail (left) and fine detail (right), 1 for "
        "all of it. Lines are medians over the images, bands reach from the lowest to the highest image. The "
        "resolution is where an image's curve first falls below 1/7. A Gaussian filter makes detail weaker without "
        "changing what is shared of it, so its curve is nearly that of the input.",
    )


def _overlays(folder: Path, summary: Mapping[str, Any], scores: Scores) -> Iterator[Block]:
    """Yield the overlays of the worst images; the very worst is in the figure."""
    first = next(iter(summary["shown"]))
    images = scores["prediction"]
    worst_first = sorted(images, key=lambda image: images[image][first])
    paths = {image: folder / "overlays" / f"{image}.png" for image in worst_first}
    shown = [image for image, path in paths.items() if path.exists()][1 : _MOST_OVERLAYS + 1]
    for image in shown:
        caption = f"{image}: {summary['shown'][first]} {_number(first, images[image][first])}."
        yield Picture(paths[image], caption, small=True)


def _images_table(summary: Mapping[str, Any], scores: Scores) -> Table:
    """Return one row for each image, those without scores and then the lowest first: that is where to look."""
    shown = summary["shown"]
    first = next(iter(shown))
    columns = ["Image", *shown.values()]
    baseline = scores.get("baseline", {})
    if baseline:
        columns.append(f"{shown[first]}, {_names(summary)['baseline']}")
    rows: list[list[str]] = [
        [image, "not scored", *[""] * (len(columns) - 2)] for image in sorted(summary.get("unscorable", ()))
    ]
    for image, values in sorted(scores["prediction"].items(), key=lambda each: each[1][first]):
        row = [image, *(_number(metric, values[metric]) if metric in values else "" for metric in shown)]
        rows.append([*row, _number(first, baseline[image][first])] if baseline else row)
    return Table(tuple(columns), rows, frozenset(columns[1:]), f"In order of {_primary(summary)}, the lowest first.")


def _thresholds_table(thresholds: BaseModel) -> Table:
    rows = [
        (field.title or name, value_text(getattr(thresholds, name)), field.description or "")
        for name, field in type(thresholds).model_fields.items()
    ]
    return Table(("Threshold", "Value", "What it means"), rows)


def _training(model: ModelManifest) -> Iterator[Block]:
    yield Text(_training_sentence(model))
    if model.origin:
        return  # its parameters of training are Parfocal's defaults, not those it was trained with
    rows = [(name, value_text(value)) for name, value in sorted(model.parameters.items())]
    yield Table(("Parameter", "Value"), rows)
    if model.warnings:
        yield Notice("note", "Said during training", model.warnings)


def _training_sentence(model: ModelManifest) -> str:
    made = f"The model {model.model}, version {model.version}, was made with the method {model.method}"
    software = f"Software: {versions(model.environment.get('packages', {}))}."
    if model.origin:
        return f"{made} elsewhere and imported from {model.origin}; how it was trained is not recorded. {software}"
    sources = [name for name in model.dataset_sha256 if name.startswith(f"train/{model.source}/")]
    dataset, version = model.dataset_uri.rstrip("/").rsplit("/", 2)[-2:]
    device = model.environment.get("device") or "a device not recorded"
    precision = model.environment.get("precision") or "a precision not recorded"
    images = f"{len(sources)} training image{'' if len(sources) == 1 else 's'}"
    seconds = model.training_seconds
    time = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
    return (
        f"{made} from {images} of the dataset {dataset}, version {version}, in {model.epochs} "
        f"epochs ({time} on {device} in {precision}); the weights of epoch {model.best_epoch}, which had the "
        f"lowest validation loss, were kept. {software}"
    )


def _definitions(evaluation: Evaluation, summary: Mapping[str, Any]) -> Iterator[str]:
    yield str(summary["definition"])
    interval = summary["interval"]
    yield (
        f"Intervals hold with {100 * interval['confidence']:.0f} % confidence: {interval['method']}, "
        f"{interval['resamples']} resamples, seed {interval['seed']}. The unit is the image; slices of a stack count "
        "as one image, and images cut from one field are not independent."
    )
    yield f"Computed with {versions(evaluation.packages)}."


def _methods(evaluation: Evaluation, summary: Mapping[str, Any]) -> Iterator[str]:
    """Sentences ready to be copied into a publication."""
    model = evaluation.model
    if model is not None:
        yield _training_sentence(model)
    images = f"{_images(summary)} {evaluation.images_of}"
    scored = "; ".join(
        f"{role}: {_in_words(part)}" if role else _in_words(part) for role, part in _parts(summary).items()
    )
    begin = f"It was evaluated on {images}" if model is not None else f"Predictions for {images} were evaluated"
    yield f"{begin}, as mean ± standard deviation over images: {scored}."
    yield str(summary["definition"])
    cited: Iterable[str] = (model.citation if model is not None else "", evaluation.citation)
    for citation in dict.fromkeys(text for text in cited if text):
        yield f"Cite: {citation}"


def _in_words(summary: Mapping[str, Any]) -> str:
    """Say "PSNR in dB 28.41 ± 0.82 (input 19.56, Gaussian filter 27.08), SSIM …"."""
    names = _names(summary)
    scored = []
    for metric, title in summary["shown"].items():
        ours = summary["metrics"]["prediction"][metric]
        spread = f" ± {_number(metric, ours['sd'])}" if ours["sd"] is not None else ""
        others = ", ".join(
            f"{names[kind].lower() if kind == 'input' else names[kind]} "
            f"{_number(metric, summary['metrics'][kind][metric]['mean'])}"
            for kind in names
            if kind != "prediction"
        )
        scored.append(f"{title} {_number(metric, ours['mean'])}{spread} ({others})")
    return ", ".join(scored)


def _number(metric: str, value: float) -> str:
    return f"{value:.2f}" if {"psnr", "snr"} & set(metric.split("_")) else f"{value:.3f}"
