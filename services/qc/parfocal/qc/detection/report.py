"""Further parts of reports on detections: average precisions, classes, counts and places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from parfocal.qc.detection.tables import LEVEL_NAMES
from parfocal.qc.report.overlays import worst_overlays
from parfocal.runtime.report.content import Block, Heading, Picture, Table, Text
from parfocal.runtime.store.evaluations import EvaluationSummary

_RULES = {"voc": "PASCAL VOC", "coco": "COCO"}


def tables(summary: EvaluationSummary) -> Iterator[Block]:
    """Yield the mean average precisions, the table of classes, and which was taken for which."""
    details = summary.details
    yield Heading("Average precision")
    levels = tuple(f"IoU {name}" for name in LEVEL_NAMES)
    yield Table(
        ("Mean over classes", *levels),
        [
            (f"{title}, {rule}", *(_number(details["mean_average_precision"][kind][key][name]) for name in LEVEL_NAMES))
            for kind, title in summary.names.items()
            for key, rule in _RULES.items()
        ],
        frozenset(levels),
        "Computed from all detections, whatever their confidence. IoU 0.5:0.95 is the mean over ten levels.",
    )
    yield from _classes(details)
    yield Text(_places(details))


def pictures(folder: Path, summary: EvaluationSummary) -> Iterator[Block]:
    """Yield the curves, the agreement of counts, the table of classes in colours, and the overlays of the worst."""
    yield Picture(
        folder / "curves.png",
        "Left: precision over recall of each class; thin lines are measured, steps enclose the average precision, dots "
        "are the counts of the verdict. Right: how a higher lowest confidence would change the scores.",
    )
    yield Picture(
        folder / "counts.png",
        "Agreement of the numbers of objects (Bland-Altman): every point is an image, larger ones are several.",
        small=True,
    )
    if (folder / "confusion.png").exists():
        yield Picture(
            folder / "confusion.png",
            "Which class was taken for which over all images: the brighter, the larger a part of the class.",
            small=True,
        )
    yield from worst_overlays(folder, summary)


def _classes(details: Mapping[str, Any]) -> Iterator[Block]:
    yield Heading("Classes")
    counts = ("target_objects", "true_positives", "false_negatives", "false_positives")
    ratios = ("precision", "recall", "f1", "voc_ap_50", "voc_ap_50_95")
    columns = ("Class", "Annotated", "TP", "FN", "FP", "Precision", "Recall", "F1", "AP 0.5", "AP 0.5:0.95")
    rows = [
        [row["class"], *(str(row[name]) for name in counts), *(_number(row[name]) for name in ratios)]
        for row in details["classes"]
    ]
    pooled = details["pooled"]["prediction"]
    means = details["mean_average_precision"]["prediction"]["voc"]
    rows.append(
        ["all together"]
        + [str(pooled[name]) for name in counts]
        + [_number(pooled[name]) for name in ratios[:3]]
        + [_number(means[name]) for name in ("0.5", "0.5:0.95")]
    )
    yield Table(
        columns,
        rows,
        frozenset(columns[1:]),
        "Over all images together. AP is the average precision of PASCAL VOC; that of all is the mean over classes.",
    )
    table = details["confusion"]
    if len(details["classes"]) > 1:
        given = ("Class of the target", *table["columns"])
        rows = [
            [name, *(str(number) for number in numbers)]
            for name, numbers in zip(table["rows"], table["objects"], strict=True)
        ]
        rows[-1][-1] = ""  # what was neither there nor predicted cannot be counted
        yield Table(given, rows, frozenset(given[1:]), "Objects of all images by the class they have and were given.")


def _places(details: Mapping[str, Any]) -> str:
    """Say how far centres are off and how well counts agree."""
    sentences = []
    if (pixels := details["centre_distance_px"]) is not None:
        microns = details["centre_distance_um"]
        texts = {
            key: f"{pixels[key]:.2f} px" + (f" ({microns[key]:.3f} µm)" if microns is not None else "")
            for key in ("mean", "median", "percentile_95")
        }
        sentences.append(
            f"The centres of found objects are {texts['mean']} off on average, {texts['median']} in the median, and "
            f"95 % of them less than {texts['percentile_95']}."
        )
    counts = details["counts"]
    sentence = f"The predicted number of objects differs from the annotated one by {counts['bias']:+.2f} on average"
    if counts["bias_interval"] is not None:
        low, high = counts["bias_interval"]
        sentence += (
            f" (95 % interval {low:+.2f} to {high:+.2f}); the limits of agreement are {counts['lower']:+.1f} and "
            f"{counts['upper']:+.1f} (Bland and Altman 1986)"
        )
    sentences.append(f"{sentence}.")
    return " ".join(sentences)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
