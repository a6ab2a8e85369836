"""Reports of images behind the work: one at a time, the others gather, nothing is lost and no error is swallowed."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from parfocal import v1
from parfocal.runtime.errors import StaleWorkerError
from parfocal.runtime.prediction.reports import MOST, ImageReports


class SlowRecord:
    """Takes reports, each of which waits until it may go on."""

    def __init__(self) -> None:
        self.may_go_on = threading.Event()
        self.reports: list[tuple[list[str], int]] = []
        self.error: Exception | None = None

    def report_images(self, images: list[v1.ImageCompleted], progress: v1.Progress) -> None:
        assert self.may_go_on.wait(30)
        self.reports.append(([image.name for image in images], progress.step))
        if self.error is not None:
            raise self.error


def add(reports: ImageReports, number: int) -> None:
    reports.add(v1.ImageCompleted(name=str(number)), v1.Progress(step=number))


def test_images_gather_while_a_report_is_under_way() -> None:
    record: Any = SlowRecord()
    with ImageReports(record) as reports:
        for number in range(1, MOST + 11):
            add(reports, number)  # returns, although nothing has been reported yet
        assert record.reports == []
        record.may_go_on.set()
        reports.finish()
    names = [str(number) for number in range(1, MOST + 11)]
    assert record.reports == [(["1"], 1), (names[1 : MOST + 1], MOST + 1), (names[MOST + 1 :], MOST + 10)]


def test_what_goes_wrong_with_a_report_ends_the_work() -> None:
    record: Any = SlowRecord()
    record.error = StaleWorkerError("replaced")
    record.may_go_on.set()
    with ImageReports(record) as reports:
        add(reports, 1)
        with pytest.raises(StaleWorkerError):
            reports.finish()
