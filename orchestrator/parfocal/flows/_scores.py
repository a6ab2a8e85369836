"""The scores of an evaluation as rows of tables: over all images, and image by image."""

from __future__ import annotations

from dataclasses import dataclass

from parfocal.client import Client
from parfocal.client.quality import evaluation_summary
from parfocal.flows._work import Finished
from parfocal.runtime.store.evaluations import METRICS_FILE, EvaluationSummary, Kind, Metric, Statistics
from parfocal.runtime.store.scores import Scores

Row = dict[str, str | float]
# More columns than these for each kind do not fit the page.
_MOST_SHOWN = 3


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation says of all images, and its scores of single ones."""

    summary: EvaluationSummary
    scores: Scores

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics that fit a page."""
        return self.summary.shown_metrics[:_MOST_SHOWN]


def read_evaluated(client: Client, finished: Finished) -> Evaluated:
    """Return what an evaluation says, from the place where it was published."""
    summary = evaluation_summary(client, finished.uri)
    table = client.catalog.read(finished.uri, METRICS_FILE).decode()
    return Evaluated(summary, summary.scores(table))


def quality_rows(evaluated: Evaluated) -> list[Row]:
    """Return the mean over all images and then one row for each image; a column for each metric of each kind.

    Further columns have the objects counted in the prediction: their sum, and those of each image.
    """
    summary, scores = evaluated.summary, evaluated.scores
    images = list(scores["prediction"])
    counted = [summary.metric(key) for key in summary.counted]
    rows: list[Row] = []
    everything = f"Mean of {len(images)}{', objects of all' if counted else ''}"
    for image in ("", *images):
        row: Row = {"Image": image or everything}
        for metric in evaluated.metrics:
            for kind in summary.names:
                value = scores[kind][image].get(metric.key) if image else _mean(summary, kind, metric)
                name = str(summary.baseline["name"]).partition(" ")[0] if kind == "baseline" else kind
                row[f"{metric.title} {name}"] = "" if value is None else round(value, 4)
        for metric in counted:
            chosen = [image] if image else images
            row[metric.heading] = round(sum(scores["prediction"][each].get(metric.key, 0) for each in chosen))
        rows.append(row)
    return rows


def summary_rows(evaluated: Evaluated) -> list[Row]:
    """Return one row for each kind with the means over the images, and their intervals where there are any."""
    rows: list[Row] = []
    for kind, name in evaluated.summary.names.items():
        row: Row = {"": name}
        for metric in evaluated.metrics:
            row[metric.heading] = _with_interval(metric, evaluated.summary.metrics[kind].get(metric.key))
        rows.append(row)
    return rows


def _mean(summary: EvaluationSummary, kind: Kind, metric: Metric) -> float | None:
    statistics = summary.metrics[kind].get(metric.key)
    return None if statistics is None else statistics.mean


def _with_interval(metric: Metric, statistics: Statistics | None) -> str:
    if statistics is None:
        return ""
    mean, low, high = statistics.mean, statistics.low, statistics.high
    if low is None or high is None:
        return metric.number(mean)
    return f"{metric.number(mean)} ({metric.number(low)} to {metric.number(high)})"
