"""Progress on stderr: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from parfocal.cli._render import duration, say, stderr, warn

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from parfocal import v1
    from parfocal.client import Client
    from parfocal.client.transfer import OnProgress

_LINES = 10  # at most so many lines for a transfer or a batch, where there is no bar
_SHOWN_METRICS = 3


class Detached(Exception):  # noqa: N818 - no error: the user stopped watching
    """Ctrl-C while a job is watched; the job goes on."""

    def __init__(self, job: v1.Job) -> None:
        super().__init__(job.id)
        self.job = job


@contextmanager
def transfer(label: str) -> Iterator[OnProgress]:
    """Show how many files have been transferred; gives the function to call after each."""
    if not sys.stderr.isatty():
        yield _lines(label)
        return
    with _bar() as bar:
        task = bar.add_task(label, total=None, text="")

        def show(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total, text=f"{done}/{total}  {name}")

        yield show
        bar.update(task, text=f"{bar.tasks[0].completed:.0f} files")


@contextmanager
def waiting(label: str) -> Iterator[Callable[[str], None]]:
    """Show that something takes its time; gives the function that changes the text."""
    if not sys.stderr.isatty():
        say(f"{label} …")
        yield lambda text: say(f"{label}: {text}")
        return
    with stderr().status(label) as status:
        yield lambda text: status.update(f"{label}: {text}")


def follow(
    client: Client,
    job: v1.Job,
    label: str,
    *,
    on_report: Callable[[v1.Job], None] | None = None,
    fraction: Callable[[v1.Job], tuple[float, float]] | None = None,
) -> v1.Job:
    """Watch a job to its end and return it.

    Parameters
    ----------
    client
        The client.
    job
        As started, or as it stands.
    label
        What is being done, e.g. "Training beads".
    on_report
        Called with every report of the job.
    fraction
        Replaces the job's own estimate: completed part (0 to 1) and seconds left of a report.

    Raises
    ------
    Detached
        Ctrl-C: the job goes on.
    """
    view = _BarView(label, fraction) if sys.stderr.isatty() else _LineView(label)
    try:
        with view:
            for report in client.watch(job.id):
                job = report.job
                view.show(job, report.event if report.HasField("event") else None)
                if on_report is not None:
                    on_report(job)
    except KeyboardInterrupt:
        raise Detached(job) from None
    return job


class _LineView:
    """One line for each epoch, each tenth of a batch of images, each warning and each wait."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._said = ""
        self._images = 0
        self._of = 0

    def __enter__(self) -> _LineView:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def show(self, job: v1.Job, event: v1.JobEvent | None) -> None:
        from parfocal import v1

        if event is None:
            return
        if event.HasField("epoch_completed"):
            epoch, progress = event.epoch_completed, job.progress
            # An event of the past comes with the job of today: only the newest one fits its progress.
            left = _left(progress.seconds_left) if progress.epoch == epoch.epoch else ""
            times = ", ".join(filter(None, (duration(epoch.seconds), left)))
            of = f" of {progress.epochs}" if progress.epochs else ""
            say(f"{self._label}: epoch {epoch.epoch}{of}: {_metrics_text(epoch.metrics)} ({times})")
        elif event.HasField("image_completed"):
            self._images += 1
            # An event of the past comes with the job of today, whose progress may be of a later stage without steps.
            self._of = steps = job.progress.steps or self._of
            if steps <= _LINES or self._images == steps or self._images % max(1, steps // _LINES) == 0:
                say(f"{self._label}: {self._images}{f' of {steps}' if steps else ''} images")
        elif event.HasField("warning"):
            warn(event.warning.text)
        elif event.HasField("state_change"):
            if event.state_change.state == v1.JOB_STATE_RUNNING:
                self._images = 0  # what a lost worker had done is done again
            self._say_change(event.state_change)

    def _say_change(self, change: v1.StateChange) -> None:
        from parfocal import v1

        # The end is told by whoever called, and the ordinary course of things needs no words.
        if change.state in {v1.JOB_STATE_QUEUED, v1.JOB_STATE_CANCELLING}:
            self._say_once(change.message)
        elif change.state == v1.JOB_STATE_RUNNING and self._said:
            self._say_once("begins")  # or the wait that was told would seem to go on

    def _say_once(self, text: str) -> None:
        if text and text != self._said:
            self._said = text
            say(f"{self._label}: {text}")


class _BarView(_LineView):
    """A bar with stage, epoch, metrics and the time left; warnings stand above it."""

    def __init__(self, label: str, fraction: Callable[[v1.Job], tuple[float, float]] | None) -> None:
        super().__init__(label)
        self._fraction = fraction or _own_fraction
        self._bar = _bar()
        self._task: TaskID = self._bar.add_task(label, total=1.0, text="")

    def __enter__(self) -> _BarView:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, job: v1.Job, event: v1.JobEvent | None) -> None:
        if event is not None and event.HasField("warning"):
            warn(event.warning.text)
        elif event is not None and event.HasField("state_change"):
            self._say_change(event.state_change)
        completed, left = self._fraction(job)
        self._bar.update(self._task, completed=completed, text=_progress_text(job, left))


def _own_fraction(job: v1.Job) -> tuple[float, float]:
    return job.progress.fraction, job.progress.seconds_left


def _progress_text(job: v1.Job, left: float) -> str:
    from parfocal import v1

    progress = job.progress
    if job.state == v1.JOB_STATE_QUEUED:
        return job.message
    parts = []
    if progress.epochs:
        parts.append(f"epoch {progress.epoch}/{progress.epochs}")
        parts.append(_metrics_text(job.metrics))
    elif progress.steps:
        parts.append(f"{progress.step}/{progress.steps}")
    else:
        parts.append(job.message or progress.stage)
    parts.append(_left(left))
    return "  ".join(part for part in parts if part)


def _metrics_text(metrics: Mapping[str, float]) -> str:
    """Return the losses first and what else is reported after them, as far as there is room."""
    names = sorted(metrics, key=lambda name: ("loss" not in name, name))
    return ", ".join(f"{name} {metrics[name]:.3g}" for name in names[:_SHOWN_METRICS] if "rate" not in name)


def _left(seconds: float) -> str:
    return f"{duration(seconds)} left" if seconds >= 1 else ""


def _lines(label: str) -> OnProgress:
    last = [0.0]

    def show(done: int, total: int, name: str) -> None:
        now = time.monotonic()
        if done == total or now - last[0] > 5 or (total <= _LINES and done == 1):
            last[0] = now
            say(f"{label}: {done} of {total} ({name})")

    return show


def _bar() -> Progress:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn
    from rich.table import Column

    # Cut off on a narrow terminal: a bar of two lines flickers.
    text = TextColumn("{task.fields[text]}", table_column=Column(no_wrap=True, overflow="ellipsis"))
    columns: tuple[Any, ...] = (
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.description}"),
        BarColumn(bar_width=10 if stderr().width < 100 else 20),
        TaskProgressColumn(),
        text,
    )
    return Progress(*columns, console=stderr())
