"""Matching of localisations and true emitters: an optimal assignment within a radius.

The rule of the challenges of single-molecule localisation software (Sage et al., Nature Methods 16, 387-395 (2019),
doi:10.1038/s41592-019-0364-4): in each frame located and true emitters closer than a radius may be paired, each once.
Of all assignments the one is taken whose sum of squared distances is the lowest, where an emitter without a partner
costs the square of the radius.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree


def match_places(
    found: NDArray[Any], true: NDArray[Any], radius: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the pairs of the optimal assignment in one frame.

    Parameters
    ----------
    found, true
        (N, 2) and (M, 2): places in any unit.
    radius
        Largest distance of a pair, in the same unit.

    Returns
    -------
    found, true : NDArray
        int64 (P,): index of each partner.
    distance : NDArray
        float64 (P,).
    """
    nothing = np.zeros(0, np.int64)
    if not len(found) or not len(true):
        return nothing, nothing, np.zeros(0)
    near = cKDTree(found).sparse_distance_matrix(cKDTree(true), radius, output_type="ndarray")
    rows, columns = near["i"].astype(np.int64), near["j"].astype(np.int64)
    if not len(rows):
        return nothing, nothing, np.zeros(0)
    # Emitters that no chain of neighbours joins cannot compete: each group is assigned by itself.
    size = len(found) + len(true)
    graph = coo_array((np.ones(len(rows)), (rows, len(found) + columns)), shape=(size, size))
    _, group = connected_components(graph, directed=False)
    order = np.argsort(group[rows], kind="stable")
    ends = np.flatnonzero(np.diff(group[rows][order])) + 1
    pairs: list[tuple[int, int, float]] = []
    for members in np.split(order, ends):
        mine, theirs = np.unique(rows[members]), np.unique(columns[members])
        cost = np.full((len(mine), len(theirs)), radius**2)
        squares = near["v"][members] ** 2
        cost[np.searchsorted(mine, rows[members]), np.searchsorted(theirs, columns[members])] = squares
        for row, column in zip(*linear_sum_assignment(cost), strict=True):
            if cost[row, column] < radius**2:
                pairs.append((int(mine[row]), int(theirs[column]), float(np.sqrt(cost[row, column]))))
    pairs.sort()
    if not pairs:
        return nothing, nothing, np.zeros(0)
    first, second, distance = zip(*pairs, strict=True)
    return np.array(first, np.int64), np.array(second, np.int64), np.array(distance)


def jaccard(true_positives: int, false_positives: int, false_negatives: int) -> float:
    """Return TP / (TP + FP + FN); 1 where there is nothing to find and nothing was found."""
    everything = true_positives + false_positives + false_negatives
    return true_positives / everything if everything else 1.0
