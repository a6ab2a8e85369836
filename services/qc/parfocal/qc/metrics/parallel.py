"""Scoring many images on all cores, in order, with memory that does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy.typing as npt

from parfocal.qc.metrics._threads import default_workers, map_bounded
from parfocal.qc.metrics.restoration import RestorationMaps, RestorationScore, score_restoration

__all__ = ["default_workers", "map_bounded", "score_many"]

Pair = tuple[npt.NDArray[Any], npt.NDArray[Any]]


def score_many(
    loaders: Iterable[Callable[[], Pair]], workers: int | None = None
) -> Iterator[tuple[RestorationScore, RestorationMaps]]:
    """Load and score many pairs of images, in order.

    Parameters
    ----------
    loaders
        Each returns ``(image, target)``, both (Y, X), when called; it is called in a worker thread, so that files are
        read and decoded beside the scoring.
    workers
        Number of threads; by default one for each processor this process may use.

    Yields
    ------
    tuple of RestorationScore and RestorationMaps
        See `parfocal.qc.metrics.restoration.score_restoration`, whose errors are raised here.
    """
    return map_bounded(_load_and_score, loaders, workers)


def _load_and_score(load: Callable[[], Pair]) -> tuple[RestorationScore, RestorationMaps]:
    image, target = load()
    return score_restoration(image, target)
