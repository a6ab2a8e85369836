"""How well emitters were located: optimal matching frame by frame, and the numbers of the challenges of the field.

Definitions (Sage et al., Nature Methods 16, 387-395 (2019), doi:10.1038/s41592-019-0364-4)

- Located and true emitters of a frame are matched within a radius, each once, so that the sum of squared distances is
  the lowest (`parfocal.runtime.methods.localisation_matching`): true positives (TP). Other localisations are false
  positives (FP), other emitters false negatives (FN).
- Jaccard index TP / (TP + FP + FN), recall TP / (TP + FN), precision TP / (TP + FP). Ratios are 1 where there is
  nothing to find and nothing was found.
- Lateral RMSE: root of the mean of dx² + dy² over the pairs, not per axis.
- Efficiency in percent: 100 - sqrt((100 - 100 Jaccard)² + alpha² RMSE²), with alpha 1 per nm. It may be negative.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from parfocal.runtime.datasets.coordinates import Localisations
from parfocal.runtime.methods.localisation_matching import jaccard, match_places

ALPHA_PER_NM: Final = 1.0


@dataclass(frozen=True)
class FrameCounts:
    """Matches in each frame of a stack.

    Attributes
    ----------
    tp, fp, fn
        int64 (frames,).
    offsets_nm
        float64 (pairs, 2): found minus true place along Y and X.
    frame, true, found
        int64 (pairs,): frame and indices of the two partners of each pair.
    """

    tp: NDArray[np.int64]
    fp: NDArray[np.int64]
    fn: NDArray[np.int64]
    offsets_nm: NDArray[np.float64]
    frame: NDArray[np.int64]
    true: NDArray[np.int64]
    found: NDArray[np.int64]

    def numbers(self, frames: NDArray[np.bool_] | None = None) -> LocalisationScore:
        """Return the numbers over all frames together, or over some of them, bool (frames,)."""
        chosen = np.ones(len(self.tp), np.bool_) if frames is None else frames
        squares = (self.offsets_nm[chosen[self.frame]] ** 2).sum(axis=1)
        tp, fp, fn = (int(each[chosen].sum()) for each in (self.tp, self.fp, self.fn))
        return LocalisationScore(tp, fp, fn, math.sqrt(float(squares.mean())) if len(squares) else math.nan)


@dataclass(frozen=True)
class LocalisationScore:
    """Counts, and the lateral root mean square error of the pairs in nm; NaN where there are no pairs."""

    tp: int
    fp: int
    fn: int
    rmse_nm: float

    @property
    def jaccard(self) -> float:
        """TP / (TP + FP + FN)."""
        return jaccard(self.tp, self.fp, self.fn)

    @property
    def recall(self) -> float:
        """TP / (TP + FN)."""
        return _ratio(self.tp, self.tp + self.fn, self.fp)

    @property
    def precision(self) -> float:
        """TP / (TP + FP)."""
        return _ratio(self.tp, self.tp + self.fp, self.fn)

    @property
    def efficiency(self) -> float:
        """Efficiency in percent; without pairs that of the Jaccard index alone."""
        return efficiency(self.jaccard, 0.0 if math.isnan(self.rmse_nm) else self.rmse_nm)


def efficiency(jaccard_index: float, rmse_nm: float, alpha: float = ALPHA_PER_NM) -> float:
    """Return the efficiency in percent."""
    return 100 - math.hypot(100 - 100 * jaccard_index, alpha * rmse_nm)


def match_stack(
    found: Localisations, true: Localisations, frames: int, pixel_nm: tuple[float, float], radius_nm: float
) -> FrameCounts:
    """Match the localisations of a stack with its emitters, frame by frame.

    Parameters
    ----------
    found, true
        Frames count from 0, ascending.
    frames
        Number of frames.
    pixel_nm
        Height and width of a pixel.
    radius_nm
        Largest distance of a pair.
    """
    tables = [np.column_stack([each.y * pixel_nm[0], each.x * pixel_nm[1]]) for each in (found, true)]
    numbers = np.arange(frames + 1)
    begins = [np.searchsorted(each.frame, numbers) for each in (found, true)]
    counts = np.zeros((3, frames), np.int64)
    offsets, places, mine, theirs = [], [], [], []
    for number in range(frames):
        first, second = (slice(begin[number], begin[number + 1]) for begin in begins)
        ours, partners, _ = match_places(tables[0][first], tables[1][second], radius_nm)
        counts[:, number] = len(ours), first.stop - first.start - len(ours), second.stop - second.start - len(ours)
        ours, partners = ours + first.start, partners + second.start
        offsets.append(tables[0][ours] - tables[1][partners])
        places.append(np.full(len(ours), number))
        mine.append(ours)
        theirs.append(partners)
    tp, fp, fn = counts
    return FrameCounts(
        tp,
        fp,
        fn,
        offsets_nm=np.concatenate([np.zeros((0, 2)), *offsets]),
        frame=np.concatenate([np.zeros(0, np.int64), *places]),
        true=np.concatenate([np.zeros(0, np.int64), *theirs]),
        found=np.concatenate([np.zeros(0, np.int64), *mine]),
    )


def _ratio(part: int, whole: int, others: int) -> float:
    """Return part / whole; without a whole 1 if there are no others either, else 0."""
    return part / whole if whole else float(not others)
