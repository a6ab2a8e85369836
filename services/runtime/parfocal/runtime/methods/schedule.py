"""Schedules of the learning rate. A schedule is its own state: plain numbers for checkpoints."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self


@dataclass(frozen=True)
class Schedule(ABC):
    """A schedule before an epoch.

    Attributes
    ----------
    learning_rate
        The rate of the coming epoch.
    """

    learning_rate: float

    @abstractmethod
    def after_epoch(self, epoch: int, metrics: Mapping[str, float]) -> Self:
        """Return the schedule of the next epoch.

        Parameters
        ----------
        epoch
            Number of completed epochs.
        metrics
            Losses and scores of the last one, by name.
        """

    def state(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return asdict(self)

    def restored(self, state: Mapping[str, Any]) -> Self:
        """Return the schedule in a state that `state` returned; raise TypeError if it is that of another schedule."""
        return replace(self, **state)


@dataclass(frozen=True)
class Constant(Schedule):
    """The same rate in all epochs."""

    def after_epoch(self, epoch: int, metrics: Mapping[str, float]) -> Self:  # noqa: ARG002
        """Return the same schedule."""
        return self


@dataclass(frozen=True)
class Plateau(Schedule):
    """Reduction on plateau: absolute comparison, no cool-down, as CARE and StarDist use it.

    The learning rate is multiplied by `factor` when `patience` epochs in a row have not undercut the lowest value of
    `metric`. Epochs that do not know the metric do not count.
    """

    factor: float
    patience: int
    metric: str = "val_loss"
    lowest: float = math.inf
    waited: int = 0

    def after_epoch(self, epoch: int, metrics: Mapping[str, float]) -> Self:  # noqa: ARG002
        """Return the next state: waiting one epoch longer, or with a lower rate."""
        if self.metric not in metrics:
            return self
        if metrics[self.metric] < self.lowest:
            return replace(self, lowest=metrics[self.metric], waited=0)
        if self.waited + 1 >= self.patience:
            return replace(self, waited=0, learning_rate=self.learning_rate * self.factor)
        return replace(self, waited=self.waited + 1)


@dataclass(frozen=True)
class LinearDecay(Schedule):
    """A constant rate for `constant` epochs, then a linear fall over `decay` epochs, after which it would be 0.

    The rates are those of the reference implementation of CycleGAN: the first of the falling epochs has
    ``decay / (decay + 1)`` of the initial rate, the last one ``1 / (decay + 1)``.
    """

    constant: int
    decay: int
    initial: float = 0.0

    def __post_init__(self) -> None:
        if not self.initial:
            object.__setattr__(self, "initial", self.learning_rate)

    def after_epoch(self, epoch: int, metrics: Mapping[str, float]) -> Self:  # noqa: ARG002
        """Return the schedule with the rate of the next epoch."""
        fallen = max(0, epoch + 1 - self.constant) / (self.decay + 1)
        return replace(self, learning_rate=self.initial * max(0.0, 1 - fallen))
