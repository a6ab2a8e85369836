"""The pages about comparisons and about datasets. Pure functions, no Prefect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parfocal.client.comparisons import difference_rows, mean_rows, ranking_sentence
from parfocal.client.dataset_checks import finding_rows, headline
from parfocal.flows._scores import Row
from parfocal.flows._show import embedded_png, markdown_table, notes_section
from parfocal.flows._work import Finished

_COMPARED = {
    "figure.png": "The scores of every test image",
    "images.png": "The best and the worst image",
}
"""Pictures of a comparison, and what they show."""


def comparison_outcome(summary: Mapping[str, Any]) -> str:
    """Return in one line how many differences are more than chance."""
    tests = summary["tests"]
    real = sum(test["outcome"] != "not shown" for test in tests)
    return f"{real or 'none'} of {len(tests)} differences {'are' if real > 1 else 'is'} shown to be more than chance"


def candidate_rows(summary: Mapping[str, Any]) -> list[Row]:
    """Return one row for each candidate with its means; with several targets the target comes first."""
    several = len(summary["metrics"]) > 1
    return [
        {**({"Target": target} if several else {}), **row}
        for target in summary["metrics"]
        for row in mean_rows(summary, target)
    ]


def comparison_report(summary: Mapping[str, Any], finished: Finished, figures: Mapping[str, bytes]) -> str:
    """Return the page about a comparison: sentences, pictures, means, differences, places.

    Parameters
    ----------
    figures
        The pictures by their names, as PNG.
    """
    models = [each["name"] for each in summary["candidates"] if each["kind"] == "model"]
    lines = [f"# {' against '.join(models)}: {comparison_outcome(summary)}", ""]
    lines += [f"- {sentence}" for sentence in summary["sentences"]] + [""]
    for name, title in _COMPARED.items():
        if name in figures:
            lines += [embedded_png(title, figures[name]), ""]
    count = summary["images"]
    for target in summary["metrics"]:
        of = f" of {target}" if len(summary["metrics"]) > 1 else ""
        lines += [f"## Scores{of}", "", markdown_table(mean_rows(summary, target)), ""]
        lines += [f"Means over {count} image{'' if count == 1 else 's'}, in brackets their intervals.", ""]
        lines += [ranking_sentence(summary, target), ""]
        lines += [f"## Differences{of}, image by image", "", markdown_table(difference_rows(summary, target)), ""]
    lines += notes_section(summary["remarks"])
    facts = {"Dataset": f"`{summary['dataset_uri']}`, {summary['split']} images"}
    return "\n".join([*lines, *_places(finished, "Comparison", facts)])


def check_report(
    name: str,
    summary: Mapping[str, Any],
    purpose: Sequence[str],
    finished: Finished,
    sheet: bytes | None,
    examples: bytes | None = None,
) -> str:
    """Return the page about a dataset: what it is good for, the first sheet, all findings, places.

    Parameters
    ----------
    name
        "name:version" of the dataset.
    purpose
        Sentences on what the data are good for.
    sheet
        The first sheet of thumbnails as PNG; None where it is too large for a page.
    examples
        Some training images with their targets as PNG; None where there is no such picture.
    """
    lines = [f"# {name}: {headline(summary)}", "", " ".join(purpose), ""]
    rows = finding_rows(summary)
    if rows:
        lines += ["## What was found", "", markdown_table(rows), ""]
    if examples is not None:
        lines += ["## Examples", "", embedded_png("Training images with their targets", examples), ""]
    if sheet is not None:
        lines += ["## The images", "", "In thick frames: fields in which something was found.", ""]
        lines += [embedded_png("The first sheet of thumbnails", sheet), ""]
    sheets = summary["sheets"]
    if sheets:
        where = "" if sheet is not None else " (too large for this page)"
        lines += [f"{len(sheets)} sheet{'s' if len(sheets) > 1 else ''} in all{where}: {', '.join(sheets)}.", ""]
    facts = {"Dataset": f"`{finished.manifest.input_uri}`"}
    return "\n".join([*lines, *_places(finished, "Quality control", facts)])


def check_rows(summary: Mapping[str, Any]) -> list[Row]:
    """Return one row for each finding; one that says so where there is none."""
    rows: list[Row] = [dict(row) for row in finding_rows(summary)]
    return rows or [{"Severity": "none", "Check": "all", "Finding": "Nothing was found that is wrong."}]


def _places(finished: Finished, what: str, facts: Mapping[str, str]) -> list[str]:
    places = {**facts, f"{what} files": f"`{finished.uri}`", f"{what} job": f"`{finished.job.id}`"}
    return [
        "## Where everything is",
        "",
        markdown_table([{"What": name, "": value} for name, value in places.items()]),
        "",
        f"Download report, tables and pictures with `parfocal jobs download {finished.job.id} --output FOLDER`.",
        "",
    ]
