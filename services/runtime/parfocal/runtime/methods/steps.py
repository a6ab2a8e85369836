"""The independent steps that the prediction of one unit consists of, so that several jobs can share them.

Tiles of a network, blocks in which objects are looked for and tiles in which boxes are: each is computed for itself,
and what they give is put together afterwards, in their order. Whoever goes through such steps asks `Steps` to do them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from numpy.typing import NDArray

from parfocal.runtime.errors import InvalidInputError

StepArrays = Mapping[str, NDArray[Any]]
"""What one step gives: arrays of numbers by name."""


class Steps(Protocol):
    """Does the steps of one unit, or those of them that a job has to do."""

    def run(self, plan: str, count: int, do: Callable[[int], StepArrays], *, most_bytes: int) -> Iterator[StepArrays]:
        """Yield what each of `count` steps gives, in their order.

        Parameters
        ----------
        plan
            How the unit was divided: equal texts mean that the steps are the same.
        count
            Number of steps.
        do
            Computes a step by its number from 0.
        most_bytes
            Size limit in bytes of all arrays of one step, by the size of what is looked at: no more is read of what
            another job has computed.

        Raises
        ------
        PartDoneError
            This job has done its steps, and the others are not its own.
        """

    def own(self, done: int, total: int) -> tuple[int, int]:
        """Return how much is done of this job's steps, given what is done of the steps of all."""


def require_alone(steps: Steps | None, why: str) -> None:
    """Raise InvalidInputError where several jobs share an image that one has to predict; `why` is a sentence."""
    if steps is not None:
        raise InvalidInputError(f"{why} Predict the image in one job.")


class PartDoneError(Exception):
    """All steps of a unit that a job has to do are done and kept; what follows from all of them is another job's."""


class AllSteps:
    """All steps are done here, one after the other."""

    def run(
        self,
        plan: str,  # noqa: ARG002
        count: int,
        do: Callable[[int], StepArrays],
        *,
        most_bytes: int,  # noqa: ARG002
    ) -> Iterator[StepArrays]:
        """Yield what each step gives."""
        return (do(number) for number in range(count))

    def own(self, done: int, total: int) -> tuple[int, int]:
        """Return the arguments."""
        return done, total
