"""The tables of an evaluation of detections, as CSV files and as plain JSON types."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from parfocal.qc.detection.figure import FALSE_NEGATIVE, FALSE_POSITIVE, TRUE_POSITIVE, WRONG_CLASS
from parfocal.qc.detection.scoring import KINDS, ScoredBoxes, Totals
from parfocal.qc.metrics.objects.detections import AP_LEVELS, RULES
from parfocal.qc.metrics.objects.instances import Counts
from parfocal.runtime.prediction.detections import CORNERS
from parfocal.runtime.store.evaluations import Kind

LEVEL_NAMES: Final[Mapping[str, float | None]] = {**{f"{level:g}": level for level in AP_LEVELS}, "0.5:0.95": None}
"""Levels whose average precision is shown; None is the mean over 0.5 to 0.95."""

_NO_COUNTS: Final = Counts()


def counts_json(counts: Counts) -> dict[str, float]:
    """Return counts and ratios by metric."""
    return {
        "target_objects": counts.tp + counts.fn,
        "predicted_objects": counts.tp + counts.fp,
        "true_positives": counts.tp,
        "false_positives": counts.fp,
        "false_negatives": counts.fn,
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": counts.f1,
        "mean_matched_iou": counts.mean_matched_iou,
    }


def class_rows(totals: Totals, kind: Kind = "prediction") -> list[dict[str, Any]]:
    """Return a row for each class: counts, ratios and average precisions, which are None where nothing is annotated."""
    return [
        {"class": name, **counts_json(totals.counts[kind][number]), **_precisions(totals, number, kind)}
        for number, name in enumerate(totals.names)
    ]


def summarise(totals: Totals) -> dict[str, Any]:
    """Return what all images say together, as plain JSON types."""
    return {
        "pooled": {kind: counts_json(totals.pooled(kind)) for kind in KINDS},
        "mean_average_precision": {
            kind: {
                rule: {name: _known(totals.mean_precision(level, kind, rule)) for name, level in LEVEL_NAMES.items()}
                for rule in RULES
            }
            for kind in KINDS
        },
        "classes": class_rows(totals),
        "confusion": {
            "rows": [*totals.names, FALSE_POSITIVE],
            "columns": [*totals.names, FALSE_NEGATIVE],
            "objects": totals.confusion.tolist(),
        },
        "counts": asdict(totals.agreement),
        "centre_distance_px": _spread(totals.centres_px),
        "centre_distance_um": _spread(totals.centres_um),
    }


def write_tables(folder: Path, totals: Totals, scored: Sequence[ScoredBoxes]) -> None:
    """Write classes.csv, levels.csv, confusion.csv, curves.csv, counts.csv and boxes.csv."""
    rows = [{"kind": kind, **row} for kind in KINDS for row in class_rows(totals, kind)]
    _write(folder / "classes.csv", rows, ["kind", "class", *counts_json(_NO_COUNTS), *_precision_names()])
    _write(folder / "levels.csv", _levels(totals), [])
    with (folder / "confusion.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["target_class", *(f"predicted_{name}" for name in totals.names), "false_negatives"])
        for name, numbers in zip([*totals.names, "false_positives"], totals.confusion.tolist(), strict=True):
            writer.writerow([name, *numbers])
    _write(folder / "curves.csv", _curves(totals), ["class", "confidence", "precision", "recall"])
    _write(folder / "counts.csv", _numbers(totals, scored), [])
    columns = ["image", "outcome", "target_class", "predicted_class", "confidence", "iou", *CORNERS]
    _write(folder / "boxes.csv", (row for each in scored for row in _boxes(each, totals.names)), columns)


def _precision_names() -> list[str]:
    return [f"{rule}_ap_{_part(name)}" for rule in RULES for name in LEVEL_NAMES]


def _part(level: str) -> str:
    """Return "30" for "0.3" and "50_95" for "0.5:0.95"."""
    return "_".join(f"{100 * float(each):.0f}" for each in level.split(":"))


def _precisions(totals: Totals, number: int, kind: Kind) -> dict[str, float | None]:
    return {
        f"{rule}_ap_{_part(name)}": _known(totals.class_precision(number, level, kind, rule))
        for rule in RULES
        for name, level in LEVEL_NAMES.items()
    }


def _levels(totals: Totals) -> Iterable[dict[str, Any]]:
    """Yield counts, ratios and mean average precisions over all images at each level."""
    for kind in KINDS:
        for level, counts in zip(totals.levels, totals.by_level[kind], strict=True):
            numbers = counts_json(counts)
            del numbers["mean_matched_iou"]
            means = {f"{rule}_map": _known(totals.mean_precision(level, kind, rule)) for rule in RULES}
            yield {"kind": kind, "iou": level, **numbers, **means}


def _curves(totals: Totals) -> Iterable[dict[str, Any]]:
    """Yield precision and recall of each class at each confidence, of the prediction."""
    for name, ranking in zip(totals.names, totals.rankings, strict=False):
        if not ranking.positives:
            continue
        for confidence, found, false_positives in zip(*(each.tolist() for each in ranking.curve()), strict=True):
            yield {
                "class": name,
                "confidence": round(confidence, 4),
                "precision": found / (found + false_positives),
                "recall": found / ranking.positives,
            }


def _numbers(totals: Totals, scored: Sequence[ScoredBoxes]) -> Iterable[dict[str, Any]]:
    """Yield the counts of each class in each image, of the prediction."""
    for each in scored:
        for name, counts in zip(totals.names, each.kinds["prediction"].counts, strict=True):
            numbers = {key: value for key, value in counts_json(counts).items() if isinstance(value, int)}
            yield {"image": each.item.label, "class": name, **numbers}


def _boxes(scored: ScoredBoxes, names: Sequence[str]) -> Iterable[dict[str, Any]]:
    """Yield every box of one image with its outcome; where nothing was detected the corners are the annotated ones."""
    score, truth = scored.kinds["prediction"], scored.truth
    outcome, found = score.outcome, score.found
    pairs = (
        (TRUE_POSITIVE, outcome.true_positives, outcome.matched_iou),
        (WRONG_CLASS, outcome.wrong_class, outcome.wrong_iou),
    )
    rows: list[tuple[str, int | None, int | None, str]] = [
        (what, mine, given, f"{iou:.4f}")
        for what, each, ious in pairs
        for (mine, given), iou in zip(each.tolist(), ious.tolist(), strict=True)
    ]
    rows += [(FALSE_NEGATIVE, mine, None, "") for mine in outcome.false_negatives.tolist()]
    rows += [(FALSE_POSITIVE, None, given, "") for given in outcome.false_positives.tolist()]
    for what, mine, given, iou in rows:
        y0, x0, y1, x1 = (found.corners[given] if given is not None else truth.corners[mine]).tolist()
        yield {
            "image": scored.item.label,
            "outcome": what,
            "target_class": "" if mine is None else names[truth.classes[mine]],
            "predicted_class": "" if given is None else names[found.classes[given]],
            "confidence": "" if given is None else f"{found.confidence[given]:.4f}",
            "iou": iou,
            **dict(zip(CORNERS, (f"{edge:.2f}" for edge in (x0, y0, x1, y1)), strict=True)),
        }


def _spread(values: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float] | None:
    """Return mean, median and 95th percentile; None without values."""
    if not values.size:
        return None
    median, most = np.percentile(values, [50, 95])
    return {"mean": float(values.mean()), "median": float(median), "percentile_95": float(most)}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _write(path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write rows under `columns`, by default those of the first row; what is None is left empty."""
    rows = list(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
