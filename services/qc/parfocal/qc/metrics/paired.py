"""Whether two sets of scores of the same images differ: rank tests, their correction for many, and an effect size.

Two candidates are scored on the same images, so scores belong together in pairs, and the pairs are what is tested:
images differ more from each other than models do on one image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from parfocal.runtime.errors import InvalidInputError

Scores = Sequence[float] | npt.NDArray[np.float64]

# Up to here p-values are counted out, ties included; beyond, the normal approximation is close.
_EXACT: Final = 50


@dataclass(frozen=True)
class PairedTest:
    """Two candidates on the same images.

    Attributes
    ----------
    images
        Number of pairs.
    higher, lower
        Images on which the first has the higher, and the lower, score; on the rest both are equal.
    rank_biserial, rank_biserial_interval
        See the functions of these names.
    wilcoxon, mann_whitney
        Two-sided p-values, not corrected for the number of tests.
    """

    images: int
    higher: int
    lower: int
    rank_biserial: float
    rank_biserial_interval: tuple[float, float]
    wilcoxon: float
    mann_whitney: float


def paired_test(first: Scores, second: Scores, *, confidence: float = 0.95) -> PairedTest:
    """Compare the scores of two candidates on the same images.

    Parameters
    ----------
    first, second
        One score for each image, in the same order: shape (images,), finite.
    confidence
        Confidence of the interval of the rank-biserial correlation, above 0 and below 1.

    Raises
    ------
    InvalidInputError
        There are no scores, their numbers differ, or one is not finite.
    """
    ours, theirs = _checked(first), _checked(second)
    if ours.size != theirs.size:
        raise InvalidInputError(f"{ours.size} scores cannot be paired with {theirs.size}: score the same images.")
    differences = ours - theirs
    return PairedTest(
        images=ours.size,
        higher=int((differences > 0).sum()),
        lower=int((differences < 0).sum()),
        rank_biserial=rank_biserial(differences),
        rank_biserial_interval=rank_biserial_interval(differences, confidence=confidence),
        wilcoxon=wilcoxon_p(differences),
        mann_whitney=mann_whitney_p(ours, theirs),
    )


def wilcoxon_p(differences: Scores) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test.

    It asks whether differences are as often and as far above zero as below. The sum of the ranks of the positive ones
    is compared with what random signs would give (Wilcoxon, Biometrics Bulletin 1, 80, 1945). Differences of zero are
    left out, equal ones share their mean rank. The value is exact for up to 50 differences; for more it is the normal
    approximation with corrections for ties and continuity.

    Parameters
    ----------
    differences
        One for each image, shape (images,), finite.

    Returns
    -------
    float
        p-value in (0, 1]; 1 if all differences are zero. With n images it is never below ``2**(1 - n)``.
    """
    values = _checked(differences)
    values = values[values != 0]
    if values.size == 0:
        return 1.0
    if values.size > _EXACT:
        return float(stats.wilcoxon(values, correction=True, method="asymptotic").pvalue)
    ranks = _doubled_ranks(np.abs(values))
    # In how many of all choices of signs the positive ranks have this sum.
    ways = np.zeros(ranks.sum() + 1)
    ways[0] = 1
    for rank in ranks:
        ways[rank:] = ways[rank:] + ways[:-rank]
    return _two_sided(ways, int(ranks[values > 0].sum()))


def mann_whitney_p(first: Scores, second: Scores) -> float:
    """Two-sided p-value of the Mann-Whitney U test.

    It asks whether a score of one is as often above as below a score of the other. It forgets which scores are of the
    same image (Mann and Whitney, Annals of Mathematical Statistics 18, 50, 1947), so it overlooks differences that are
    small beside those between images. It is given because publications give it. The value is exact where neither has
    more than 50 scores; else it is the normal approximation with corrections for ties and continuity.

    Parameters
    ----------
    first, second
        Scores of shape (images,), finite; their numbers may differ.

    Returns
    -------
    float
        p-value in (0, 1]; 1 if all scores are equal.
    """
    ours, theirs = _checked(first), _checked(second)
    together = np.concatenate([ours, theirs])
    if np.unique(together).size == 1:
        return 1.0
    if max(ours.size, theirs.size) > _EXACT:
        return float(stats.mannwhitneyu(ours, theirs, use_continuity=True, method="asymptotic").pvalue)
    ranks = _doubled_ranks(together)
    # In how many of all choices of so many scores (first axis) their ranks have this sum (second axis).
    ways = np.zeros((ours.size + 1, ranks.sum() + 1))
    ways[0, 0] = 1
    for rank in ranks:
        ways[1:, rank:] = ways[1:, rank:] + ways[:-1, :-rank]
    return _two_sided(ways[ours.size], int(ranks[: ours.size].sum()))


def rank_biserial(differences: Scores) -> float:
    """Matched-pairs rank-biserial correlation: the share of evidence for the first minus that for the second.

    ``(W+ - W-) / (W+ + W-)``, where W+ and W- are the sums of the ranks of the sizes of positive and of negative
    differences (Kerby, Comprehensive Psychology 3, 1, 2014). Differences of zero are left out.

    Parameters
    ----------
    differences
        First minus second, one for each image, shape (images,), finite.

    Returns
    -------
    float
        1 where the first has the higher score on every image, -1 where the second has, 0 where nothing is between
        them, also because all differences are zero.
    """
    values = _checked(differences)
    values = values[values != 0]
    if values.size == 0:
        return 0.0
    ranks = stats.rankdata(np.abs(values))
    return float((ranks * np.sign(values)).sum() / ranks.sum())


def rank_biserial_interval(differences: Scores, *, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of the rank-biserial correlation, which holds with few images too.

    It has all values rho from which the observed r is no farther than chance would take it, ``|r - rho| <=
    z sqrt(v (1 - rho**2))``, as Wilson's interval has for a share (Journal of the American Statistical Association 22,
    209, 1927). ``v = sum(R**2) / sum(R)**2`` with the ranks R is the variance of r where signs are random, that of
    Wilcoxon's test; it falls with ``1 - rho**2`` as that of a difference of shares does, and z is the normal quantile.

    So the interval lies within -1 and 1, is no point where one is higher on every image, and leaves out zero exactly
    where the normal approximation of Wilcoxon's test, without correction for continuity, has a p-value below
    ``1 - confidence``. The percentile bootstrap does none of this: with nine images on which one is always higher it is
    the point 1.

    Parameters
    ----------
    differences
        First minus second, one for each image, shape (images,), finite. Zeros are left out.
    confidence
        Above 0 and below 1.

    Returns
    -------
    low, high : float
        -1 and 1 where all differences are zero.
    """
    values = _checked(differences)
    values = values[values != 0]
    if values.size == 0:
        return -1.0, 1.0
    ranks = stats.rankdata(np.abs(values))
    observed = rank_biserial(values)
    spread = float(stats.norm.ppf((1 + confidence) / 2) ** 2 * (ranks**2).sum() / ranks.sum() ** 2)
    # The ends are the roots of (r - rho)^2 = spread (1 - rho^2).
    half = math.sqrt(spread * (1 + spread - observed**2))
    return max(-1.0, (observed - half) / (1 + spread)), min(1.0, (observed + half) / (1 + spread))


def holm(p_values: Scores) -> npt.NDArray[np.float64]:
    """Correct p-values for their number by Holm's step-down method.

    Of m p-values in rising order, the k-th (from 0) is multiplied by ``m - k``; none may fall below the one before it,
    nor exceed 1 (Holm, Scandinavian Journal of Statistics 6, 65, 1979). Calling those below alpha real is then wrong
    anywhere among them with a probability of alpha at most, however the tests depend on each other.

    Parameters
    ----------
    p_values
        Shape (tests,), each from 0 to 1; may be empty.

    Returns
    -------
    ndarray
        The corrected values, float64, in the order given.
    """
    values = np.asarray(p_values, np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise InvalidInputError("A p-value lies between 0 and 1.")
    order = np.argsort(values, kind="stable")
    stepped = values[order] * np.arange(values.size, 0, -1)
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return corrected


def smallest_p(images: int) -> float:
    """Return the smallest two-sided p-value Wilcoxon's test can give: all differences have the same sign.

    Two of the ``2**images`` equally likely ways of choosing signs are as extreme.
    """
    return min(1.0, 2.0 ** (1 - images))


def images_needed(tests: int, alpha: float) -> int:
    """Return from how many images on one of so many tests can stay at or below `alpha` after Holm's correction."""
    return max(1, math.ceil(1 + math.log2(tests / alpha) - 1e-9))


def _checked(values: Scores) -> npt.NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or array.size == 0:
        raise InvalidInputError("There are no scores to compare. Score at least one image.")
    if not np.isfinite(array).all():
        raise InvalidInputError("A score is NaN or infinite and cannot be ranked.")
    return array


def _doubled_ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return twice the ranks, which are whole numbers also where equal values share their mean rank."""
    doubled: npt.NDArray[np.int64] = np.rint(2 * stats.rankdata(values)).astype(np.int64)
    return doubled


def _two_sided(ways: npt.NDArray[np.float64], observed: int) -> float:
    """Return the share of all ways whose rank sum is at least as far from the mean rank sum as the observed one."""
    sums = np.arange(ways.size)
    middle = (ways * sums).sum() / ways.sum()
    return float(ways[np.abs(sums - middle) >= abs(observed - middle) - 1e-6].sum() / ways.sum())
