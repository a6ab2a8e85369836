"""The tie between a runner and the processes of its flow runs."""

from __future__ import annotations

import os
import threading
import time

RUNNER_VARIABLE = "PARFOCAL_RUNNER"
_SECONDS = 0.5


def announce_runner() -> None:
    """Tell the processes that will be started that this process is their runner."""
    os.environ[RUNNER_VARIABLE] = str(os.getpid())


def end_with_runner() -> None:
    """End this process as soon as the runner that started it is gone; without such a runner do nothing.

    A run whose process outlived its runner would be worked at twice as soon as the next runner takes it up.
    """
    runner = os.environ.get(RUNNER_VARIABLE)
    if runner is None:
        return

    def watch() -> None:
        while os.getppid() == int(runner):
            time.sleep(_SECONDS)
        # No clean-up on purpose: the run stays as it is, and the next runner decides by its jobs.
        os._exit(1)

    if os.getppid() != int(runner):
        os._exit(1)
    threading.Thread(target=watch, name="end-with-runner", daemon=True).start()
