"""The report on a dataset: what was found before a model is trained on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from parfocal.runtime.report.content import Block, Heading, Notice, Picture, Report, Table, Text, Tone
from parfocal.runtime.report.text import value_text, versions

_TITLES: Final = {"error": "Errors", "warning": "Warnings", "note": "Notes"}
_TONES: Final[dict[str, Tone]] = {"error": "failed", "warning": "note", "note": "note"}


def dataset_report(
    name: str,
    summary: Mapping[str, Any],
    facts: Mapping[str, str],
    packages: Mapping[str, str],
    folder: Path,
) -> Report:
    """Return the report on a dataset.

    Parameters
    ----------
    name
        Dataset and version, for the title.
    summary
        Content of summary.json.
    facts
        Facts listed below the title, by name.
    packages
        Versions of the packages that computed the numbers, by name.
    folder
        Holds the sheets of thumbnails that the summary names.
    """
    blocks: list[Block] = [Notice("note", "What the data are suited for", (summary["purpose"]["text"],))]
    blocks += _findings(summary["findings"])
    blocks += [Heading("The images"), _roles(summary)]
    blocks.append(Heading("Sheets"))
    blocks += [Picture(folder / sheet, f"{sheet}: images with findings are marked.") for sheet in summary["sheets"]]
    blocks += [Heading("Definitions"), Text(summary["definition"]), Text(f"Computed with {versions(packages)}.")]
    rows = [(threshold, value_text(value)) for threshold, value in sorted(summary["thresholds"].items())]
    blocks.append(Table(("Threshold", "Value"), rows))
    return Report(f"Dataset QC: {name}", facts, tuple(blocks))


def _findings(findings: Sequence[Mapping[str, Any]]) -> Iterator[Block]:
    if not findings:
        yield Notice("passed", "Nothing found", ("The checks found no problem in the images.",))
    for severity, title in _TITLES.items():
        sentences = tuple(finding["text"] for finding in findings if finding["severity"] == severity)
        if sentences:
            yield Notice(_TONES[severity], f"{title} ({len(sentences)})", sentences)


def _roles(summary: Mapping[str, Any]) -> Table:
    rows = []
    for role, values in summary["roles"].items():
        images = ", ".join(f"{number} {part}" for part, number in values["images"].items())
        rows += [(role, values["kind"], images, "", "")]
        rows += [("", "", "", summary["units"][metric], f"{value:.4g}") for metric, value in values["median"].items()]
    columns = ("Role", "Kind", "Images", "Measured", "Median")
    return Table(columns, rows, frozenset({"Median"}), "Medians over the images of a role; images.csv has every image.")
