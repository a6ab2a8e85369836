"""What is said of a job that is watched where there is no terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from parfocal import v1
from parfocal.cli._progress import follow

QUEUED, RUNNING, SUCCEEDED = v1.JOB_STATE_QUEUED, v1.JOB_STATE_RUNNING, v1.JOB_STATE_SUCCEEDED


class _Watched:
    """A client whose job goes through the given states."""

    def __init__(self, changes: Sequence[tuple[v1.JobState.ValueType, str]]) -> None:
        self._changes = changes

    def watch(self, job_id: str) -> Iterator[v1.WatchJobResponse]:
        for state, message in self._changes:
            event = v1.JobEvent(state_change=v1.StateChange(state=state, message=message))
            yield v1.WatchJobResponse(job=v1.Job(id=job_id, state=state), event=event)


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        (
            [(QUEUED, "waiting for its turn"), (RUNNING, "started")],
            ["Predicting: waiting for its turn", "Predicting: begins"],
        ),
        ([(RUNNING, "started")], []),
    ],
)
def test_a_job_that_waited_is_said_to_begin(
    changes: list[tuple[v1.JobState.ValueType, str]], lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    client = _Watched([*changes, (SUCCEEDED, "")])
    job = follow(client, v1.Job(id="j"), "Predicting")  # type: ignore[arg-type]
    assert job.state == SUCCEEDED
    assert capsys.readouterr().err.splitlines() == lines
