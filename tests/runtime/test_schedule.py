"""Schedules: the rates that they give, and that a restored one goes on where it was."""

from __future__ import annotations

import json

import pytest

from parfocal.runtime.methods.schedule import Constant, LinearDecay, Plateau, Schedule


def run(losses: list[float], schedule: Schedule) -> list[float]:
    rates = []
    for epoch, loss in enumerate(losses, start=1):
        schedule = schedule.after_epoch(epoch, {"val_loss": loss})
        rates.append(schedule.learning_rate)
    return rates


def test_the_rate_stays_while_the_loss_falls() -> None:
    assert run([3, 2, 1], Plateau(1.0, 0.5, 1)) == [1, 1, 1]


def test_the_rate_falls_after_the_patience_and_then_waits_again() -> None:
    assert run([1, 1, 1, 1, 1], Plateau(1.0, 0.5, 2)) == [1, 1, 0.5, 0.5, 0.25]


def test_a_better_loss_ends_the_waiting() -> None:
    assert run([1, 1, 0.9, 0.9, 0.9], Plateau(1.0, 0.5, 2)) == [1, 1, 1, 1, 0.5]


def test_epochs_that_do_not_know_the_metric_do_not_count() -> None:
    schedule = Plateau(1.0, 0.5, 1, metric="score")
    assert schedule.after_epoch(1, {"val_loss": 1.0}) == schedule


def test_the_rate_falls_linearly_over_the_last_epochs() -> None:
    schedule: Schedule = LinearDecay(1.0, constant=2, decay=3)
    assert [schedule.learning_rate, *run([0] * 5, schedule)] == pytest.approx([1, 1, 0.75, 0.5, 0.25, 0])


def test_a_constant_rate_stays() -> None:
    assert run([1, 2, 3], Constant(0.5)) == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("schedule", [Plateau(1.0, 0.5, 2), LinearDecay(1.0, 2, 3), Constant(1.0)])
def test_a_restored_schedule_goes_on_where_it_was(schedule: Schedule) -> None:
    later = schedule
    for epoch in range(1, 4):
        later = later.after_epoch(epoch, {"val_loss": 1.0})
    restored = schedule.restored(json.loads(json.dumps(later.state())))
    assert restored == later
    assert restored.after_epoch(4, {"val_loss": 1.0}) == later.after_epoch(4, {"val_loss": 1.0})


def test_the_state_of_another_schedule_is_refused() -> None:
    with pytest.raises(TypeError):
        Constant(1.0).restored(Plateau(1.0, 0.5, 2).state())
