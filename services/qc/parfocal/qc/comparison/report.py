"""The report of a comparison: which difference is real, and what that rests on."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from parfocal.qc.report.content import Block, Heading, Notice, Picture, Report, Table, Text
from parfocal.qc.report.text import versions


def comparison_report(
    summary: Mapping[str, Any], facts: Mapping[str, str], packages: Mapping[str, str], folder: Path
) -> Report:
    """Return the report of a comparison.

    Parameters
    ----------
    summary
        Content of summary.json.
    facts
        What stands below the title.
    packages
        Versions of what made the numbers.
    folder
        Holds comparison.csv and the figures.
    """
    models = [each["name"] for each in summary["competitors"] if each["kind"] == "model"]
    blocks: list[Block] = [Notice("note", "What is shown", tuple(summary["sentences"]))]
    if summary["remarks"]:
        blocks.append(Notice("note", "To be known besides", tuple(summary["remarks"])))
    blocks += [Heading("Scores"), *_means(summary)]
    blocks += _pictures(folder)
    blocks += [Heading("Tests"), _tests(summary)]
    blocks += [Heading("Every test image"), *_images(folder)]
    blocks += [Heading("Definitions"), Text(summary["definition"]), Text(f"Computed with {versions(packages)}.")]
    return Report(f"Comparison of {' and '.join(models)}", facts, tuple(blocks))


def _means(summary: Mapping[str, Any]) -> Iterator[Block]:
    several = len(summary["metrics"]) > 1
    confidence = f"{100 * summary['interval']['confidence']:g} % interval"
    for target, by_metric in summary["metrics"].items():
        rows = []
        for metric, by_name in by_metric.items():
            for name, values in by_name.items():
                interval = "too few images"
                if values["low"] is not None and values["high"] is not None:
                    interval = f"{values['low']:.4g} to {values['high']:.4g}"
                rows.append((summary["shown"][metric], name, f"{values['mean']:.4g}", interval))
        columns = ("Metric", "Model or reference", "Mean", confidence)
        yield Table(columns, rows, frozenset(columns[2:]), target if several else "")


def _pictures(folder: Path) -> Iterator[Block]:
    if (folder / "figure.png").exists():
        yield Picture(folder / "figure.png", "Every test image is a point in each column.")
    for path in sorted(folder.glob("images*.png")):
        yield Picture(path, "The best and the worst test image with what each model made of them.")


def _tests(summary: Mapping[str, Any]) -> Table:
    columns = ("Metric", "First", "Second", "Difference", "Wilcoxon p", "Mann-Whitney p", "Effect", "Outcome")
    rows = [
        (
            test["metric"] if len(summary["metrics"]) == 1 else f"{test['target']}: {test['metric']}",
            test["first"],
            test["second"],
            f"{test['mean difference']:+.3g}",
            f"{test['Wilcoxon p after Holm']:.2g}",
            f"{test['Mann-Whitney p after Holm']:.2g}",
            _effect(test),
            test["outcome"],
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
    effect = f"{test['rank-biserial correlation']:+.2f}"
    if test["rank-biserial low"] is None:
        return effect
    return f"{effect} ({test['rank-biserial low']:.2f} to {test['rank-biserial high']:.2f})"


def _images(folder: Path) -> Iterator[Table]:
    """Yield a table for each metric, with a column for each competitor."""
    with (folder / "comparison.csv").open(encoding="utf-8", newline="") as file:
        (_, _, *columns), *lines = csv.reader(file)
    several = len({line[0] for line in lines}) > 1
    names = [column.rpartition(": ") for column in columns]
    for metric in dict.fromkeys(metric for *_, metric in names):
        chosen = [index for index, (*_, each) in enumerate(names) if each == metric]
        heading = ("Image", *(names[index][0] for index in chosen))
        rows = [
            (f"{target}/{image}" if several else image, *(f"{float(values[index]):.4g}" for index in chosen))
            for target, image, *values in lines
        ]
        yield Table(heading, rows, frozenset(heading[1:]), metric)
