"""The report of a comparison: which difference is real, and what that rests on."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from parfocal.runtime.report.content import Block, Heading, Notice, Picture, Report, Table, Text
from parfocal.runtime.report.text import versions
from parfocal.runtime.store.evaluations import Metric


def comparison_report(
    summary: Mapping[str, Any], facts: Mapping[str, str], packages: Mapping[str, str], folder: Path
) -> Report:
    """Return the report of a comparison.

    Parameters
    ----------
    summary
        Content of summary.json.
    facts
        Facts listed below the title, by name.
    packages
        Versions of what made the numbers.
    folder
        Holds comparison.csv and the figures.
    """
    models = [each["name"] for each in summary["candidates"] if each["kind"] == "model"]
    blocks: list[Block] = [Notice("note", "What is shown", tuple(summary["sentences"]))]
    if summary["remarks"]:
        blocks.append(Notice("note", "Remarks", tuple(summary["remarks"])))
    blocks += [Heading("Scores"), *_means(summary)]
    blocks += _pictures(folder)
    blocks += [Heading("Tests"), _tests(summary)]
    blocks += [Heading("Every test image"), *_images(summary, folder)]
    blocks += [Heading("Definitions"), Text(summary["definition"]), Text(f"Computed with {versions(packages)}.")]
    return Report(f"Comparison of {' and '.join(models)}", facts, tuple(blocks))


def _means(summary: Mapping[str, Any]) -> Iterator[Block]:
    several, metrics = len(summary["metrics"]) > 1, _metrics(summary)
    confidence = f"{100 * summary['interval']['confidence']:g} % interval"
    for target, by_metric in summary["metrics"].items():
        rows = []
        for metric, by_name in by_metric.items():
            for name, values in by_name.items():
                described, interval = metrics[metric], "too few images"
                if values["low"] is not None and values["high"] is not None:
                    interval = f"{described.number(values['low'])} to {described.number(values['high'])}"
                rows.append((described.heading, name, described.number(values["mean"]), interval))
        columns = ("Metric", "Model or reference", "Mean", confidence)
        yield Table(columns, rows, frozenset(columns[2:]), target if several else "")


def _pictures(folder: Path) -> Iterator[Block]:
    if (folder / "figure.png").exists():
        yield Picture(folder / "figure.png", "Every test image is a point in each column.")
    for path in sorted(folder.glob("images*.png")):
        yield Picture(path, "The best and the worst test image with the prediction of each model.")


def _tests(summary: Mapping[str, Any]) -> Table:
    columns = ("Metric", "First", "Second", "Difference", "Wilcoxon p", "Mann-Whitney p", "Effect", "Outcome")
    metrics = _metrics(summary)
    several = {target: f"{target}: " if len(summary["metrics"]) > 1 else "" for target in summary["metrics"]}
    rows = [
        (
            f"{several[test['target']]}{metrics[test['metric']].heading}",
            test["first"],
            test["second"],
            metrics[test["metric"]].number(test["mean_difference"], signed=True),
            f"{test['wilcoxon_p_holm']:.2g}",
            f"{test['mann_whitney_p_holm']:.2g}",
            _effect(test),
            test["conclusion"],
        )
        for test in summary["tests"]
    ]
    confidence = f"{100 * summary['interval']['confidence']:g} %"
    caption = (
        f"Differences are first minus second; p-values after Holm's correction for {summary['correction']['tests']} "
        f"tests; the effect is the matched-pairs rank-biserial correlation, -1 to 1, with its {confidence} interval."
    )
    return Table(columns, rows, frozenset({"Difference", "Wilcoxon p", "Mann-Whitney p", "Effect"}), caption)


def _effect(test: Mapping[str, Any]) -> str:
    effect = f"{test['rank_biserial']:+.2f}"
    if test["rank_biserial_low"] is None:
        return effect
    return f"{effect} ({test['rank_biserial_low']:.2f} to {test['rank_biserial_high']:.2f})"


def _images(summary: Mapping[str, Any], folder: Path) -> Iterator[Table]:
    """Yield a table for each metric, with a column for each candidate."""
    with (folder / "comparison.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    several = len(summary["metrics"]) > 1
    names = list(dict.fromkeys(line["candidate"] for line in lines))
    heading = ("Image", *names)
    for key, metric in _metrics(summary).items():
        images: dict[str, list[str]] = {}
        for line in lines:
            image = f"{line['target']}/{line['image']}" if several else line["image"]
            images.setdefault(image, [image]).append(metric.number(float(line[key])))
        yield Table(heading, list(images.values()), frozenset(heading[1:]), metric.heading)


def _metrics(summary: Mapping[str, Any]) -> dict[str, Metric]:
    """Return what is known of the metrics that are compared, by key."""
    return {column["key"]: Metric.model_validate(column) for column in summary["columns"]}
