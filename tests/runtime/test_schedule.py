from __future__ import annotations

import math
from dataclasses import asdict

from parfocal.runtime.training.schedule import Plateau


def run(losses: list[float], plateau: Plateau, rate: float = 1.0) -> list[float]:
    rates = []
    for loss in losses:
        plateau, rate = plateau.after_epoch(loss, rate)
        rates.append(rate)
    return rates


def test_the_rate_stays_while_the_loss_falls() -> None:
    assert run([3, 2, 1], Plateau(0.5, 1)) == [1, 1, 1]


def test_the_rate_falls_after_the_patience_and_then_waits_again() -> None:
    assert run([1, 1, 1, 1, 1], Plateau(0.5, 2)) == [1, 1, 0.5, 0.5, 0.25]


def test_a_better_loss_ends_the_waiting() -> None:
    assert run([1, 1, 0.9, 0.9, 0.9], Plateau(0.5, 2)) == [1, 1, 1, 1, 0.5]


def test_a_restored_state_goes_on_where_it_was() -> None:
    first, rate = Plateau(0.5, 2).after_epoch(1.0, 1.0)
    assert math.isfinite(first.lowest)
    assert Plateau(**asdict(first)) == first
    assert first.after_epoch(1.0, rate) == Plateau(**asdict(first)).after_epoch(1.0, rate)
