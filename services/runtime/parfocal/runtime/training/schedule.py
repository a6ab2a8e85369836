"""Reduces the learning rate when the validation loss stops falling; its whole state is plain numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Plateau:
    """State of the schedule "reduce on plateau": absolute comparison, no cool-down, as CARE and StarDist use it.

    The learning rate is multiplied by `factor` when `patience` epochs in a row have not undercut the lowest
    validation loss.
    """

    factor: float
    patience: int
    lowest: float = math.inf
    waited: int = 0

    def after_epoch(self, validation_loss: float, learning_rate: float) -> tuple[Plateau, float]:
        """Return the next state and the learning rate of the next epoch."""
        if validation_loss < self.lowest:
            return replace(self, lowest=validation_loss, waited=0), learning_rate
        if self.waited + 1 >= self.patience:
            return replace(self, waited=0), learning_rate * self.factor
        return replace(self, waited=self.waited + 1), learning_rate
