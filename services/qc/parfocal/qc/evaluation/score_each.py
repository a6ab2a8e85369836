"""Scoring one test image after the other.

A prediction that cannot be scored (NaN values, another shape, no labels) is a failure of what made
it: it is named with the reason, counts as a failed image and leaves the others alone. Test data that cannot be used
ends the job, because scores against it would say nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

from parfocal import v1
from parfocal.qc.evaluation.words import none_of
from parfocal.qc.metrics.parallel import map_bounded
from parfocal.runtime import traces
from parfocal.runtime.errors import InvalidInputError
from parfocal.runtime.jobs.context import JobContext


class PredictionError(InvalidInputError):
    """A prediction that cannot be scored, though its test image can."""


class LeftOutError(InvalidInputError):
    """An image that says nothing about a prediction, whatever was predicted; `why` is for a list of such images."""

    def __init__(self, message: str, why: str) -> None:
        super().__init__(message)
        self.why = why


class Labelled(Protocol):
    """Anything that can be scored: it has a name for tables."""

    @property
    def label(self) -> str:
        """The name."""
        ...


Scorable = TypeVar("Scorable", bound=Labelled)
Scored = TypeVar("Scored")


@contextmanager
def of_prediction(label: str, kind: str = "prediction") -> Iterator[None]:
    """Raise what is wrong with a prediction as PredictionError, which `score_each` takes as its failure.

    Whatever is wrong with the test image must have been found before, by scoring its input or baseline. Errors while
    another kind is scored are left as they are.
    """
    try:
        yield
    except InvalidInputError as error:
        if kind != "prediction":
            raise
        # Of a file that cannot be read the error names the copy in the cache.
        message = error.message if label in error.message else f"{label} (prediction): {error.message}"
        raise PredictionError(message, error.violations) from error


def score_each(
    context: JobContext,
    items: Sequence[Scorable],
    score: Callable[[Scorable], Scored],
    *,
    shown: Callable[[Scored], Mapping[str, float]],
    unscorable: dict[str, str],
    left_out: dict[str, str],
    workers: int,
) -> Iterator[Scored]:
    """Score items in threads, report each of them, and yield the scores in their order.

    Parameters
    ----------
    score
        Called in a thread for each item; see `of_prediction`.
    shown
        Returns the numbers that are reported for an item.
    unscorable
        Is given the items whose prediction cannot be scored: by label, why, in sentences that name it.
    left_out
        Is given the items that say nothing about a prediction: by label, why.
    workers
        Number of threads; see `workers_for`.

    Raises
    ------
    InvalidInputError
        No prediction can be scored.
    """
    context.stages.enter("scoring")
    laps = traces.Laps("image", 1, len(items))
    scored = 0
    without: LeftOutError | None = None

    def attempt(item: Scorable) -> Scored | PredictionError | LeftOutError:
        try:
            return score(item)
        except (PredictionError, LeftOutError) as error:
            return error

    for number, each in enumerate(map_bounded(attempt, items, workers), start=1):
        context.check_cancelled()
        laps.done(number)
        label = items[number - 1].label
        progress = v1.Progress(stage="scoring", step=number, steps=len(items), fraction=number / len(items))
        if isinstance(each, PredictionError):
            unscorable[label] = each.message
            context.warn(f"The prediction of {label} was not scored. {each.message}")
            context.report_progress(progress)
        elif isinstance(each, LeftOutError):
            left_out[label] = each.why
            without = without or each
            context.warn(each.message)
            context.report_progress(progress)
        else:
            scored += 1
            context.report_image(v1.ImageCompleted(name=label, metrics=shown(each)), progress)
            yield each
    if not scored and without is not None:
        raise without
    if not scored:
        why = next(iter(unscorable.values()))
        raise InvalidInputError(f"{none_of(len(items), 'prediction')} can be scored. {why}")
