"""From the scores of candidates to tests, tables and sentences that say which difference is real."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np

from parfocal.qc.comparison.candidates import Candidate, TargetScores
from parfocal.qc.evaluation.statistics import statistics
from parfocal.qc.evaluation.verdict import listed
from parfocal.qc.evaluation.words import count
from parfocal.qc.metrics.paired import PairedTest, holm, images_needed, paired_test, smallest_p
from parfocal.runtime.store.evaluations import Metric, Statistics

DEFINITION: Final = (
    "Each test image is scored for every model and baseline, a stack as the mean over its slices, and these are "
    "compared image by image. Wilcoxon: two-sided signed-rank test of the paired differences. Mann-Whitney: two-sided "
    "U test, which ignores the pairing. Both are corrected by Holm's method for all tests of the comparison, each kind "
    "by itself. Interval: percentile bootstrap of the mean difference over images. Rank-biserial correlation: 1 if the "
    "first is higher on every image, -1 if the second is; its interval is Wilson's score interval with the variance of "
    "Wilcoxon's test. A difference counts as real if Wilcoxon's corrected p-value is at most alpha and the confidence "
    "interval excludes zero on the same side."
)
"""Definitions of the numbers, to be printed beside them."""

Outcome = Literal["first is better", "second is better", "not shown"]


@dataclass(frozen=True)
class PairResult:
    """The test of two candidates in one metric of one target.

    `difference` is first minus second over the images. `wilcoxon_holm` and `mann_whitney_holm` are corrected for all
    tests of the comparison.
    """

    target: str
    metric: Metric
    first: Candidate
    second: Candidate
    means: tuple[float, float]
    difference: Statistics
    paired: PairedTest
    wilcoxon_holm: float = 1.0
    mann_whitney_holm: float = 1.0
    outcome: Outcome = "not shown"

    @property
    def models_only(self) -> bool:
        """Whether neither is a reference."""
        return self.first.kind == self.second.kind == "model"


def run_tests(candidates: Sequence[Candidate], scores: Iterable[TargetScores], alpha: float) -> tuple[PairResult, ...]:
    """Test every pair with a model in it, in every metric of every target, and correct for their number.

    Parameters
    ----------
    candidates
        Models first.
    scores
        Scores of each target.
    alpha
        Probability of calling any difference real that is not; intervals have the confidence ``1 - alpha``.
    """
    pairs = [
        (first, second)
        for index, first in enumerate(candidates)
        for second in candidates[index + 1 :]
        if first.kind == "model"
    ]
    tests = []
    for each in scores:
        for metric, columns in each.scores.items():
            for first, second in pairs:
                ours, theirs = columns[first.name], columns[second.name]
                tests.append(
                    PairResult(
                        target=each.target,
                        metric=each.metrics[metric],
                        first=first,
                        second=second,
                        means=(float(ours.mean()), float(theirs.mean())),
                        difference=statistics(ours - theirs, confidence=1 - alpha),
                        paired=paired_test(ours, theirs, confidence=1 - alpha),
                    )
                )
    wilcoxon = holm([test.paired.wilcoxon for test in tests])
    mann_whitney = holm([test.paired.mann_whitney for test in tests])
    return tuple(
        replace(test, wilcoxon_holm=float(p), mann_whitney_holm=float(q), outcome=_outcome(test, float(p), alpha))
        for test, p, q in zip(tests, wilcoxon, mann_whitney, strict=True)
    )


def sentences(tests: Sequence[PairResult], alpha: float) -> list[str]:
    """Say for each target and metric which difference is real: between models first, then to the references."""
    found = []
    for target in dict.fromkeys(test.target for test in tests):
        for metric in dict.fromkeys(test.metric for test in tests):
            chosen = [test for test in tests if (test.target, test.metric) == (target, metric)]
            several = len({test.target for test in tests}) > 1
            where = f" of {target}" if several else ""
            models = [test for test in chosen if test.models_only]
            found.append(_between_models(models, len(tests), alpha, where))
            references = [test for test in chosen if not test.models_only]
            if references:
                found.append(_to_references(references, where))
    return found


def power_remark(tests: Sequence[PairResult], alpha: float) -> str:
    """Say what the number of images can show at all; empty if it suffices."""
    images = min(test.paired.images for test in tests)
    smallest = smallest_p(images)
    if not _too_few(images, len(tests), alpha):
        return ""
    many = count(len(tests), "comparison")
    return (
        f"With {count(images, 'image')} no difference can be shown: the smallest p-value that Wilcoxon's test can "
        f"give is {smallest:.2g}, and {min(1.0, smallest * len(tests)):.2g} after correction for {many}. It takes "
        f"{images_needed(len(tests), alpha)} images for {many} and {images_needed(1, alpha)} for one; fewer metrics, "
        "models or references are fewer comparisons."
    )


def interval_remark(tests: Sequence[PairResult], alpha: float) -> str:
    """Say why a difference is not shown though its interval leaves out zero; empty where there is none such.

    The interval is that by which the verdict of an evaluation calls a prediction better or worse, so a reader who has
    both before them sees a contradiction.
    """
    several = len({test.target for test in tests}) > 1
    hints = [
        f"{test.first.name} and {test.second.name} in {test.metric.title}" + (f" of {test.target}" if several else "")
        for test in tests
        if test.outcome == "not shown" and _leaves_out_zero(test)
    ]
    if not hints:
        return ""
    images = min(test.paired.images for test in tests)
    confirm = "Wilcoxon's test, which checks whether most images agree, must confirm it"
    if len(tests) > 1:
        confirm += (
            f"; it is corrected for their number, because of {len(tests)} differences looked at together some seem "
            "real by chance"
        )
    if _too_few(images, len(tests), alpha):
        missing = f"{_needed(images, len(tests), alpha)} Until then take such a difference as a hint."
    else:
        missing = (
            f"With {count(images, 'image')} it does not. Take such a difference as a hint, and compare more images to "
            "confirm it."
        )
    return (
        f"The {100 * (1 - alpha):g} % interval excludes zero, yet no difference is shown, between "
        f"{listed(hints, '; ')}. This is not a contradiction. The interval considers one difference alone, and with "
        f"few images it is somewhat too narrow. {confirm}. {missing} The verdict of an evaluation on one model rests "
        "on the interval, so it may call the same difference better or worse."
    )


def conclusion(test: PairResult, tests: int, alpha: float) -> str:
    """Say in a few words what one of so many tests shows, or why it shows nothing."""
    if test.outcome != "not shown":
        return f"{(test.first if test.outcome == 'first is better' else test.second).name} is better"
    if _too_few(test.paired.images, tests, alpha):
        return f"too few images: {images_needed(tests, alpha)} or more are needed"
    if _leaves_out_zero(test):
        return "only a hint: more images must confirm it"
    return "not shown"


def rank_images(candidates: Sequence[Candidate], scores: TargetScores, metric: str) -> list[tuple[str, float]]:
    """Return the images with their mean score over the models, the best first."""
    columns = [scores.scores[metric][each.name] for each in candidates if each.kind == "model"]
    means = np.mean(columns, axis=0)
    order = np.argsort(-means if scores.metrics[metric].better == "higher" else means, kind="stable")
    return [(scores.images[index], float(means[index])) for index in order]


def write_comparison_csv(path: Path, scores: Sequence[TargetScores]) -> None:
    """Write the paired table: one line for each image and candidate, one column for each metric."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["target", "image", "candidate", *scores[0].scores])
        for each in scores:
            names = next(iter(each.scores.values()))
            for index, image in enumerate(each.images):
                for name in names:
                    values = (repr(float(columns[name][index])) for columns in each.scores.values())
                    writer.writerow([each.target, image, name, *values])


def write_tests_csv(path: Path, tests: Iterable[PairResult]) -> None:
    """Write one line for each test."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = [row_of(test) for test in tests]
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def row_of(test: PairResult) -> dict[str, str | float | None]:
    """Return a test as plain values; None for the ends of intervals where there are too few images for one."""
    effect_low, effect_high = test.paired.rank_biserial_interval if test.difference.low is not None else (None, None)
    return {
        "target": test.target,
        "metric": test.metric.key,
        "first": test.first.name,
        "second": test.second.name,
        "images": test.paired.images,
        "mean_first": test.means[0],
        "mean_second": test.means[1],
        "mean_difference": test.difference.mean,
        "difference_low": test.difference.low,
        "difference_high": test.difference.high,
        "first_higher": test.paired.higher,
        "second_higher": test.paired.lower,
        "rank_biserial": test.paired.rank_biserial,
        "rank_biserial_low": effect_low,
        "rank_biserial_high": effect_high,
        "wilcoxon_p": test.paired.wilcoxon,
        "wilcoxon_p_holm": test.wilcoxon_holm,
        "mann_whitney_p": test.paired.mann_whitney,
        "mann_whitney_p_holm": test.mann_whitney_holm,
        "outcome": test.outcome,
    }


def _too_few(images: int, tests: int, alpha: float) -> bool:
    """Return whether none of so many tests could show a difference, however large it is."""
    return smallest_p(images) * tests > alpha


def _needed(images: int, tests: int, alpha: float) -> str:
    """Say with how many images the first of so many tests can show a difference, where there are too few."""
    only = f", or {images_needed(1, alpha)} if a single difference is looked at" if tests > 1 else ""
    return (
        f"With {count(images, 'image')} it cannot, however clear the difference: at least "
        f"{images_needed(tests, alpha)} images are needed{only}."
    )


def _leaves_out_zero(test: PairResult) -> bool:
    low, high = test.difference.low, test.difference.high
    return low is not None and high is not None and (low > 0 or high < 0)


def _outcome(test: PairResult, p: float, alpha: float) -> Outcome:
    low, high = test.difference.low, test.difference.high
    if p > alpha or low is None or high is None:
        return "not shown"
    higher = test.metric.better == "higher"
    if low > 0 and test.paired.rank_biserial > 0:
        return "first is better" if higher else "second is better"
    if high < 0 and test.paired.rank_biserial < 0:
        return "second is better" if higher else "first is better"
    return "not shown"


def _between_models(group: Sequence[PairResult], tests: int, alpha: float, where: str) -> str:
    images = group[0].paired.images
    shown = [test for test in group if test.outcome != "not shown"]
    other = [test for test in group if test.outcome == "not shown"]
    correction = f" after Holm correction for {count(tests, 'comparison')}" if tests > 1 else ""
    clauses = []
    for number, test in enumerate([*shown, *other]):
        clause = _shown(test, alpha) if test.outcome != "not shown" else _not_shown(test, alpha)
        clauses.append(clause.format(correction=correction if number == 0 else ""))
    if not shown and _too_few(images, tests, alpha):
        clauses.append(
            f"with {count(images, 'image')} none could be, at least {images_needed(tests, alpha)} are needed"
        )
    return f"On {count(images, 'test image')}{where}, {'; '.join(clauses)}."


def _shown(test: PairResult, alpha: float) -> str:
    """Say "a is better than b by 1.20 dB in PSNR (95 % interval …; Wilcoxon p = 0.004 …)"."""
    better, worse = (test.first, test.second) if test.outcome == "first is better" else (test.second, test.first)
    metric = test.metric
    low, high = sorted(abs(each) for each in (test.difference.low or 0.0, test.difference.high or 0.0))
    return (
        f"{better.name} is better than {worse.name} by {metric.text(abs(test.difference.mean))} in "
        f"{metric.title} ({100 * (1 - alpha):g} % interval {metric.number(low)} to {metric.number(high)}; "
        f"Wilcoxon p = {test.wilcoxon_holm:.2g}{{correction}})"
    )


def _not_shown(test: PairResult, alpha: float) -> str:
    metric, difference = test.metric, test.difference
    interval = ""
    if difference.low is not None and difference.high is not None:
        low, high = (metric.number(each, signed=True) for each in (difference.low, difference.high))
        interval = f", {100 * (1 - alpha):g} % interval {low} to {high}"
    return (
        f"no difference in {metric.title} between {test.first.name} and {test.second.name} is shown "
        f"({metric.text(difference.mean, signed=True)} on average{interval}; "
        f"Wilcoxon p = {test.wilcoxon_holm:.2g}{{correction}})"
    )


def _to_references(group: Sequence[PairResult], where: str) -> str:
    """Say "Compared with the baselines, in PSNR: a is better than the input (+8.10 dB, p = 0.02) …"."""
    words = {
        "first is better": "better than",
        "second is better": "worse than",
        "not shown": "not shown to differ from",
    }
    metric = group[0].metric
    clauses = []
    for model in dict.fromkeys(test.first.name for test in group):
        parts = [
            f"{words[test.outcome]} the {test.second.name} ({metric.text(test.difference.mean, signed=True)}, "
            f"p = {test.wilcoxon_holm:.2g})"
            for test in group
            if test.first.name == model
        ]
        clauses.append(f"{model} is {' and '.join(parts)}")
    return f"Compared with the baselines, in {metric.title}{where}: {'; '.join(clauses)}."
