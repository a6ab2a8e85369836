"""Further parts of reports on objects: the scores of their classes, and the mistakes in the worst images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from parfocal.qc.evaluation.words import count
from parfocal.qc.report.overlays import worst_overlays
from parfocal.runtime.report.content import Block, Heading, Picture, Table, Text
from parfocal.runtime.store.evaluations import EvaluationSummary


def pictures(folder: Path, summary: EvaluationSummary) -> Iterator[Block]:
    """Yield the scores of classes where there are any, and the overlays of the worst images but that of the figure."""
    yield from class_section(folder, summary)
    yield from worst_overlays(folder, summary)


def class_section(folder: Path, summary: EvaluationSummary) -> Iterator[Block]:
    """Yield the scores of each class and which was taken for which; nothing where classes were not scored."""
    scored = summary.details.get("classes")
    if scored is None:
        return
    yield Heading("Classes of objects")
    columns = ("Class", "In the target", "Predicted", "Right", "Precision", "Recall", "F1")
    rows = [
        [*(str(row[name]) for name in ("class", "target_objects", "predicted_objects", "true_positives"))]
        + [f"{row[name]:.3f}" for name in ("precision", "recall", "f1")]
        for row in scored["classes"]
    ]
    yield Table(columns, rows, frozenset(columns), "Over all images together.")
    yield Text(_in_words(scored))
    table = scored["confusion"]
    given = ("Class of the target", *(_heading(name) for name in table["columns"]))
    rows = [
        [name, *(str(number) for number in numbers)]
        for name, numbers in zip(table["rows"], table["objects"], strict=True)
    ]
    rows[-1][-1] = ""  # what was neither there nor predicted cannot be counted
    yield Table(given, rows, frozenset(given[1:]), "Objects of all images by their class in target and prediction.")
    if (folder / "classes.png").exists():
        yield Picture(
            folder / "classes.png",
            "The image with the most objects of a wrong class, and which class was taken for which over all images: "
            "the brighter, the larger a part of the class.",
        )
    yield Text(scored["definition"])


def _heading(name: str) -> str:
    return f"Given class {name}" if name.isdigit() else f"Given {name}" if name == "none" else name.capitalize()


def _in_words(scored: Mapping[str, Any]) -> str:
    unknown = f" Left out for their unknown class: {count(scored['unknown'], 'object')}." if scored["unknown"] else ""
    if scored["accuracy"] is None:
        return f"No object of known class was found.{unknown}"
    most_frequent = scored["most_frequent"]
    return (
        f"The class is right in {scored['correct']} of {count(scored['found'], 'found object')} of known class "
        f"({100 * scored['accuracy']:.1f} %); to call all of them class {most_frequent['class']} would be right in "
        f"{100 * most_frequent['fraction']:.1f} %. The class does not enter the verdict.{unknown}"
    )
