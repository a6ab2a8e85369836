"""The report of an evaluation: what anyone needs who is asked to believe a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from parfocal.qc.evaluation.verdict import Judgement
from parfocal.qc.evaluation.words import worst_of
from parfocal.qc.figures.drawing import save_png
from parfocal.qc.figures.scores import scores_figure
from parfocal.runtime.report.content import Block, Heading, Notice, Picture, Report, Table, Text
from parfocal.runtime.report.text import value_text, versions
from parfocal.runtime.store.evaluations import METRICS_FILE, SUMMARY_FILE, EvaluationSummary
from parfocal.runtime.store.manifests import ModelManifest
from parfocal.runtime.store.scores import Scores

MoreBlocks = Callable[[EvaluationSummary, str], Iterable[Block]]


def _nothing(summary: EvaluationSummary, role: str) -> Iterable[Block]:  # noqa: ARG001
    return ()


@dataclass(frozen=True)
class Evaluation:
    """Contents of a report besides the numbers in `folder`.

    Attributes
    ----------
    folder
        Holds summary.json, metrics.csv and the figures.
    tables, pictures
        Give for the summary of a target, and its role where there are several, what only this kind of quality control
        has below its scores and below its figure.
    images_of
        Description of the images, e.g. "test images of the dataset cells, version 1".
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
    verdict: Judgement
    thresholds: BaseModel
    packages: Mapping[str, str]
    created_at: str
    folder: Path
    tables: MoreBlocks = _nothing
    pictures: MoreBlocks = _nothing


def evaluation_report(evaluation: Evaluation) -> Report:
    """Return the report of an evaluation; writes scores.png and frc.png to its folder for it."""
    folder = evaluation.folder
    summary = EvaluationSummary.parse((folder / SUMMARY_FILE).read_text(encoding="utf-8"), str(folder))
    scores = summary.scores((folder / METRICS_FILE).read_text(encoding="utf-8"))
    blocks: list[Block] = [_verdict(evaluation.verdict)]
    if evaluation.verdict.next_steps:
        blocks.append(Notice("note", "What to try next", evaluation.verdict.next_steps))
    blocks.append(Heading("Scores"))
    for role, part in summary.parts.items():
        blocks += [_scores_table(part, role), Text(part.note), *evaluation.tables(part, role)]
        blocks += _figures(folder, part, role, _scores_of(scores, role))
        blocks += evaluation.pictures(part, role)
    blocks += [Heading("Every image"), _images_table(summary, scores)]
    blocks += [Heading("What the verdict asked for"), _used(summary), _thresholds_table(evaluation.thresholds)]
    if evaluation.model is not None:
        blocks += [Heading("How the model was made"), *_training(evaluation.model)]
    blocks += [Heading("Definitions"), *(Text(text) for text in _definitions(evaluation, summary))]
    blocks += [Heading("For a methods section"), *(Text(text) for text in _methods(evaluation, summary))]
    model = evaluation.model
    about = f"model {model.model}, version {model.version}" if model is not None else "a prediction"
    return Report(f"{evaluation.title}: {about}", _facts(evaluation, summary), tuple(blocks))


def _facts(evaluation: Evaluation, summary: EvaluationSummary) -> dict[str, str]:
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


def _images(summary: EvaluationSummary) -> int:
    """Return the number of images; one with several targets counts once."""
    return max(part.images for part in summary.parts.values())


def _scores_of(scores: Scores, role: str) -> Scores:
    """Return the images of one target, whose labels begin with its role where there are several."""
    if not role:
        return scores
    return {
        kind: {label: values for label, values in images.items() if label.startswith(f"{role}/")}
        for kind, images in scores.items()
    }


def _verdict(verdict: Judgement) -> Notice:
    return Notice(verdict.verdict, verdict.verdict.capitalize(), (*verdict.reasons, *verdict.remarks))


def _scores_table(summary: EvaluationSummary, role: str) -> Table:
    names = summary.names
    others = [kind for kind in names if kind != "prediction"]
    columns = ("Mean over images", "Prediction", "95 % interval", "SD", *(names[kind] for kind in others))
    rows = []
    for metric in summary.shown_metrics:
        ours = summary.metrics["prediction"][metric.key]
        interval = "too few images"
        if ours.low is not None and ours.high is not None:
            interval = f"{metric.number(ours.low)} to {metric.number(ours.high)}"
        spread = "" if ours.sd is None else metric.number(ours.sd)
        means = (metric.number(summary.metrics[kind][metric.key].mean) for kind in others)
        rows.append((metric.heading, metric.number(ours.mean), interval, spread, *means))
    return Table(columns, rows, frozenset(columns[1:]), role)


def _figures(folder: Path, summary: EvaluationSummary, role: str, scores: Scores) -> Iterator[Block]:
    path = folder / (f"scores_{role}.png" if role else "scores.png")
    save_png(scores_figure(scores, summary.shown_metrics, summary.names), path)
    yield Picture(path, "Every image is a point, joined across prediction, input and baseline; bars are medians.")
    figure = folder / f"figure_{role}.png"
    figure = figure if figure.exists() else folder / "figure.png"  # that of the first target
    yield Picture(figure, f"{summary.worst_image.image}, {worst_of(summary.images, summary.primary.title)}.")


def _images_table(summary: EvaluationSummary, scores: Scores) -> Table:
    """Return one row for each image, those without scores and then the lowest first: that is where to look."""
    shown, first = summary.shown_metrics, summary.primary
    columns = ["Image", *(metric.heading for metric in shown)]
    baseline = scores.get("baseline", {})
    if baseline:
        columns.append(f"{first.heading}, {summary.names['baseline']}")
    rows: list[list[str]] = [[image, "not scored", *[""] * (len(columns) - 2)] for image in sorted(summary.unscorable)]
    for image, values in sorted(scores["prediction"].items(), key=lambda each: each[1][first.key]):
        row = [image, *(metric.number(values[metric.key]) if metric.key in values else "" for metric in shown)]
        rows.append([*row, first.number(baseline[image][first.key])] if baseline else row)
    return Table(tuple(columns), rows, frozenset(columns[1:]), f"In order of {first.title}, the lowest first.")


def _used(summary: EvaluationSummary) -> Text:
    used = (metric.title for part in summary.parts.values() for metric in part.columns if metric.used_by_verdict)
    return Text(f"The verdict depends on {', '.join(dict.fromkeys(used))}.")


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
        yield Notice("note", "Warnings of the training", model.warnings)


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


def _definitions(evaluation: Evaluation, summary: EvaluationSummary) -> Iterator[str]:
    yield summary.definition
    interval = summary.interval
    yield (
        f"Intervals hold with {100 * interval['confidence']:.0f} % confidence: {interval['method']}, "
        f"{interval['resamples']} resamples, seed {interval['seed']}. The unit is the image; slices of a stack count "
        "as one image, and images cut from one field are not independent."
    )
    yield f"Computed with {versions(evaluation.packages)}."


def _methods(evaluation: Evaluation, summary: EvaluationSummary) -> Iterator[str]:
    """Sentences ready to be copied into a publication."""
    model = evaluation.model
    if model is not None:
        yield _training_sentence(model)
    images = f"{_images(summary)} {evaluation.images_of}"
    scored = "; ".join(
        f"{role}: {_in_words(part)}" if role else _in_words(part) for role, part in summary.parts.items()
    )
    begin = f"It was evaluated on {images}" if model is not None else f"Predictions for {images} were evaluated"
    yield f"{begin}, as mean ± standard deviation over images: {scored}. The scores are defined above."
    cited: Iterable[str] = (model.citation if model is not None else "", evaluation.citation)
    for citation in dict.fromkeys(text for text in cited if text):
        yield f"Cite: {citation}"


def _in_words(summary: EvaluationSummary) -> str:
    """Say "PSNR [dB] 28.41 ± 0.82 (input 19.56, Gaussian filter 27.08), SSIM …"."""
    names = summary.names
    scored = []
    for metric in summary.shown_metrics:
        ours = summary.metrics["prediction"][metric.key]
        spread = f" ± {metric.number(ours.sd)}" if ours.sd is not None else ""
        others = ", ".join(
            f"{name.lower() if kind == 'input' else name} {metric.number(summary.metrics[kind][metric.key].mean)}"
            for kind, name in names.items()
            if kind != "prediction"
        )
        scored.append(f"{metric.heading} {metric.number(ours.mean)}{spread} ({others})")
    return ", ".join(scored)
