"""The reports of images that are done, behind the work: a device does not wait for the record of its job."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final

from parfocal import v1
from parfocal.runtime.jobs.context import JobContext

MOST: Final = 50
"""Images of one report: the record of the job holds them until each has its own object."""


class ImageReports:
    """Reports images one after the other; while one report is under way, the images that follow gather for the next.

    So each image is reported at once where images take their time, and together with others where they are small.
    To be used by one thread, as a context.
    """

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reports")
        self._waiting: list[tuple[v1.ImageCompleted, v1.Progress]] = []
        self._under_way: Future[None] | None = None

    def __enter__(self) -> ImageReports:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self._pool.shutdown()

    def add(self, image: v1.ImageCompleted, progress: v1.Progress) -> None:
        """Report an image, and how far the job is with it; raise what went wrong with an earlier report."""
        self._waiting.append((image, progress))
        if self._under_way is None or self._under_way.done():
            self._send()

    def finish(self) -> None:
        """Wait until everything is reported; raise what went wrong."""
        while self._waiting or self._under_way is not None:
            self._send()

    def _send(self) -> None:
        """Report what waits, after the report that is under way."""
        if self._under_way is not None:
            under_way, self._under_way = self._under_way, None
            under_way.result()
        images, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
        if images:
            _, progress = images[-1]
            self._under_way = self._pool.submit(self._context.report_images, [image for image, _ in images], progress)
