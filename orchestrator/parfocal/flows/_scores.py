"""The scores of an evaluation as its files give them: `metrics.csv` by image, `summary.json` over all images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from parfocal.client import Client
from parfocal.flows._work import Finished
from parfocal.runtime.store.scores import Scores as ImageScores
from parfocal.runtime.store.scores import read_scores as read_table
from parfocal.runtime.store.store import Location

Row = dict[str, str | float]
# More columns than these for each kind do not fit the page.
_MOST_SHOWN = 3


@dataclass(frozen=True)
class Scores:
    """Scores of several images.

    Attributes
    ----------
    kinds
        What was scored, e.g. "input", "baseline", "prediction".
    metrics
        Heading of each metric with its unit, e.g. {"psnr": "PSNR [dB]"}.
    values
        By kind, image and metric: the value, averaged over the slices of a stack; without those an image does not have.
    counted
        Heading of each number of objects, e.g. {"found": "found (TP)"}; empty where nothing is counted.
    note
        What the means are of, in sentences.
    means
        By kind and metric: "mean" over the images and, with enough images, the interval "low" to "high".
    worst_image
        The image that the figure shows; empty where the evaluation names none.
    baseline
        What the baseline is, e.g. "Gaussian filter".
    """

    kinds: Sequence[str]
    metrics: Mapping[str, str]
    values: ImageScores
    means: Mapping[str, Mapping[str, Mapping[str, float | None]]]
    worst_image: str = ""
    baseline: str = "baseline"
    counted: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def images(self) -> Sequence[str]:
        """The images that were scored."""
        return list(self.values[self.kinds[0]])

    @property
    def primary(self) -> str:
        """What the metric is called by which an image is the worst: the first one shown."""
        return next(iter(self.metrics.values())).partition(" [")[0]

    def title(self, kind: str) -> str:
        """Return what a kind is called in tables."""
        return self.baseline if kind == "baseline" else kind


def read_scores(client: Client, finished: Finished) -> Scores:
    """Return the scores of an evaluation."""
    place = Location.parse(finished.uri)
    table, summary = (finished.manifest.place_of(place, name) for name in ("metrics.csv", "summary.json"))
    return parse_scores(client.store.read(table).decode(), client.store.read_json(summary))


def parse_scores(table: str, summary: Mapping[str, Any]) -> Scores:
    """Return the scores in the text of metrics.csv and the content of summary.json."""
    units: Mapping[str, str] = summary["units"]
    shown = list(summary["shown"])[:_MOST_SHOWN]
    metrics = {name: units[name] for name in shown}
    counted = {name: units[name] for name in summary.get("counted", ())}
    values = read_table(table, {**metrics, **counted})
    worst = str((summary.get("worst_image") or {}).get("image", ""))
    baseline = str((summary.get("baseline") or {}).get("name", "baseline"))
    note = str(summary.get("note", ""))
    return Scores(tuple(summary["metrics"]), metrics, values, summary["metrics"], worst, baseline, counted, note)


def quality_rows(scores: Scores) -> list[Row]:
    """Return the mean over all images and then one row for each image; a column for each metric of each kind.

    Further columns have the objects counted in the prediction: their sum, and those of each image.
    """
    rows: list[Row] = []
    counts = scores.values["prediction"]
    means = {kind: {name: value["mean"] for name, value in scores.means[kind].items()} for kind in scores.kinds}
    everything: list[tuple[str, Mapping[str, Mapping[str, float | None]]]]
    everything = [(f"Mean of {len(scores.images)}{', objects of all' if scores.counted else ''}", means)]
    everything += [(image, {kind: scores.values[kind][image] for kind in scores.kinds}) for image in scores.images]
    for title, by_kind in everything:
        row: Row = {"Image": title}
        for name, heading in scores.metrics.items():
            for kind in scores.kinds:
                column = f"{heading.split(' [')[0]} {scores.title(kind).partition(' ')[0]}"
                row[column] = _value(by_kind[kind].get(name))
        for name, heading in scores.counted.items():
            images = [title] if title in counts else scores.images
            row[heading.split(" (")[0].capitalize()] = round(sum(counts[image].get(name, 0) for image in images))
        rows.append(row)
    return rows


def summary_rows(scores: Scores) -> list[Row]:
    """Return one row for each kind with the means over the images, and their intervals where there are any."""
    rows: list[Row] = []
    for kind in scores.kinds:
        title = scores.title(kind)
        row: Row = {"": title[:1].upper() + title[1:]}
        for name, heading in scores.metrics.items():
            row[_short(heading)] = _mean(scores.means[kind].get(name))
        rows.append(row)
    return rows


def _short(heading: str) -> str:
    name, _, unit = heading.partition(" [")
    return f"{name} [dB]" if unit.startswith("dB") else name


def _value(value: float | None) -> str | float:
    return "" if value is None else round(value, 4)


def _mean(values: Mapping[str, float | None] | None) -> str:
    if values is None or values["mean"] is None:
        return ""
    mean, low, high = values["mean"], values.get("low"), values.get("high")
    if low is None or high is None:
        return f"{mean:.4g}"
    return f"{mean:.4g} ({low:.4g} to {high:.4g})"
