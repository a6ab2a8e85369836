"""From the localisations of single stacks to numbers, and from those of all stacks to sums, by density."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from parfocal.qc.evaluation.inputs import AnnotatedItem
from parfocal.qc.evaluation.rows import ScoreRow
from parfocal.qc.metrics.objects.localisations import FrameCounts, LocalisationScore
from parfocal.runtime.datasets.coordinates import Localisations
from parfocal.runtime.store.evaluations import Kind

KINDS: Final[tuple[Kind, ...]] = ("baseline", "prediction")
NEIGHBOURHOOD_NM: Final = 500.0
"""Radius of the disc in which the density around a place is counted."""
_DENSITIES: Final = 4


@dataclass(frozen=True)
class KindScore:
    """The localisations of one kind in one stack, and which emitters they found."""

    found: Localisations
    counts: FrameCounts


@dataclass(frozen=True)
class ScoredStack:
    """One test stack.

    Attributes
    ----------
    item, rows
        The stack, and its lines in metrics.csv.
    truth
        The true emitters.
    kinds
        By kind: localisations and their outcomes.
    true_density, found_density
        float64, of each true emitter and, by kind, of each localisation: true emitters in a square micrometre around
        it, itself counted.
    """

    item: AnnotatedItem
    rows: Sequence[ScoreRow]
    truth: Localisations
    kinds: Mapping[Kind, KindScore]
    true_density: NDArray[np.float64]
    found_density: Mapping[Kind, NDArray[np.float64]]


def densities(
    at: Localisations, truth: Localisations, frames: int, pixel_nm: tuple[float, float]
) -> NDArray[np.float64]:
    """Return how many true emitters of its frame lie in a square micrometre around each place."""
    found = np.zeros(len(at.frame))
    places, others = (np.column_stack([each.y * pixel_nm[0], each.x * pixel_nm[1]]) for each in (at, truth))
    numbers = np.arange(frames + 1)
    begins = [np.searchsorted(each.frame, numbers) for each in (at, truth)]
    for number in range(frames):
        mine, theirs = (slice(begin[number], begin[number + 1]) for begin in begins)
        if mine.stop > mine.start and theirs.stop > theirs.start:
            tree = cKDTree(others[theirs])
            found[mine] = tree.query_ball_point(places[mine], NEIGHBOURHOOD_NM, return_length=True)
    return found / (math.pi * (NEIGHBOURHOOD_NM / 1e3) ** 2)


def values_of(score: LocalisationScore) -> dict[str, float]:
    """Return the numbers of one stack by metric; no distance where nothing was found."""
    values = {
        "efficiency": score.efficiency,
        "jaccard": score.jaccard,
        "recall": score.recall,
        "precision": score.precision,
        "target_emitters": float(score.tp + score.fn),
        "localisations": float(score.tp + score.fp),
        "true_positives": float(score.tp),
        "false_negatives": float(score.fn),
        "false_positives": float(score.fp),
    }
    return values if math.isnan(score.rmse_nm) else values | {"rmse_nm": score.rmse_nm}


def pooled(scored: Sequence[ScoredStack], kind: Kind = "prediction") -> LocalisationScore:
    """Return the numbers over all stacks together."""
    scores = [each.kinds[kind].counts.numbers() for each in scored]
    squares = sum(score.tp * score.rmse_nm**2 for score in scores if score.tp)
    found = sum(score.tp for score in scores)
    return LocalisationScore(
        found,
        sum(score.fp for score in scores),
        sum(score.fn for score in scores),
        math.sqrt(squares / found) if found else math.nan,
    )


def by_density(scored: Sequence[ScoredStack], kind: Kind) -> list[dict[str, Any]]:
    """Return the numbers of emitters that lie more or less crowded: rows with the range of densities and the metrics.

    The ranges hold about as many emitters each. A false positive belongs to the density around it.
    """
    everything = np.concatenate([each.true_density for each in scored])
    if not everything.size:
        return []
    edges = np.unique(np.quantile(everything, np.linspace(0, 1, _DENSITIES + 1)))
    edges = edges if len(edges) > 1 else np.array([edges[0], edges[0] + 1])
    edges[0] = 0
    last = len(edges) - 2
    rows = []
    for place in range(last + 1):
        counts, squares = np.zeros(3, np.int64), 0.0
        for each in scored:
            score = each.kinds[kind].counts
            mine, theirs = (
                (np.searchsorted(edges, values, side="right") - 1).clip(0, last) == place
                for values in (each.true_density, each.found_density[kind])
            )
            pairs = mine[score.true]
            wrong = np.ones(len(each.kinds[kind].found.frame), np.bool_)
            wrong[score.found] = False
            counts += int(pairs.sum()), int((wrong & theirs).sum()), int(mine.sum()) - int(pairs.sum())
            squares += float((score.offsets_nm[pairs] ** 2).sum())
        rmse = math.sqrt(squares / counts[0]) if counts[0] else math.nan
        tp, fp, fn = counts.tolist()
        values = values_of(LocalisationScore(tp, fp, fn, rmse))
        rows.append({"from_per_um2": float(edges[place]), "to_per_um2": float(edges[place + 1]), **values})
    return rows
